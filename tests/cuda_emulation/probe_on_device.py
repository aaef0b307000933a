"""What a probe does otherwise on a GPU than on the CPU: it never waits, and tells of errors later.

Run by test_emulated_ops.py, through the emulated extension.
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from checks import assert_same_bits
from recording import STATISTICS, end_step, make_recorder, random_bit_patterns, relu_backward
from torch import Tensor, nn
from training import train_steps

from tfc_fast import _C, Probe
from tfc_fast.models import MLP
from tfc_fast.records import Records

N_ROWS = STATISTICS.index("n_rows")


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU())


def backward(net: nn.Module, rows: int = 6) -> None:
    net(torch.ones(rows, 3)).sum().backward()


class Seen:
    """A sink that remembers what it was given."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def write(self, records: Records) -> None:
        self.steps += sorted(set(records["step"].tolist()))

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


# ---- what flows back ----------------------------------------------------------------------------


def train(*, probed: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    net = MLP(20, 4, 4, 40, generator=generator)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    probe = Probe(net, num_classes=4, every=2, capacity=6)
    if probed:
        probe.attach()
    batches = (
        (
            torch.randn(30, 20, generator=generator),
            torch.randint(0, 4, (30,), generator=generator),
        )
        for _ in range(20)
    )
    losses = train_steps(net, optimizer, batches, probe if probed else None)
    if probed:
        history = probe.history()
        probe.detach()
        assert history["step"].tolist() == sorted(3 * list(range(1, 20, 2)))
        np.testing.assert_array_equal(history["loss"][::3], torch.stack(losses)[::2].double())
    return [*losses, *net.parameters()]


def test_training_is_bitwise_untouched() -> None:
    for actual, expected in zip(train(probed=True), train(probed=False), strict=True):
        assert_same_bits(actual, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("every", [1, 2])
def test_a_nan_of_half_precision_keeps_its_payload(
    rng: np.random.Generator, every: int, dtype: torch.dtype
) -> None:
    # As in torch's own kernel for CUDA, other than in that for the CPU.
    recorder = make_recorder(every=every)
    for _ in range(2):
        grad, result = (random_bit_patterns(rng, (30, 41), dtype) for _ in range(2))
        expected = torch.where(result <= 0, 0, grad.view(torch.int16)).view(dtype)
        assert_same_bits(relu_backward(recorder, grad, result), expected)
        recorder.end_step(None)


# ---- drains -------------------------------------------------------------------------------------


def test_records_come_one_drain_later_and_all_at_the_end() -> None:
    net, sink = model(), Seen()
    given = []
    with Probe(net, sinks=[sink], capacity=6) as probe:
        for step in range(1, 12):
            backward(net, rows=step)
            probe.step(loss=torch.tensor(float(step)))
            given.append(len(sink.steps))
    # Every three steps, what lay in the ring three steps before: the ring is used almost twice.
    assert given == [0, 0, 0, 0, 0, 3, 3, 3, 6, 6, 6]
    assert sink.steps == list(range(1, 12))
    history = probe.history()
    assert history["n_rows"].tolist() == history["step"].tolist()
    assert history["loss"].tolist() == history["step"].tolist()
    assert sorted(set(history["step"].tolist())) == list(range(1, 12))


@pytest.mark.parametrize("capacity", [1, 2, 5])
def test_the_ring_wraps_around(capacity: int) -> None:
    recorder = make_recorder(capacity=capacity)
    told: list[tuple[int, float, float]] = []
    for step in range(1, 14):
        relu_backward(recorder, torch.ones(step, 3), torch.ones(step, 3))
        if recorder.end_step(0.5 * step):
            values, steps, losses = recorder.drain(False)
            told += zip(steps.tolist(), losses.tolist(), values[:, 0, N_ROWS].tolist(), strict=True)
    values, steps, losses = recorder.drain()
    told += zip(steps.tolist(), losses.tolist(), values[:, 0, N_ROWS].tolist(), strict=True)
    assert told == [(step, 0.5 * step, step) for step in range(1, 14)]
    assert recorder.lost() == 0


def test_steps_that_were_overwritten_are_told_and_not_given() -> None:
    recorder = make_recorder(capacity=4)
    for step in range(1, 12):
        relu_backward(recorder, torch.ones(step, 3), torch.ones(step, 3))
        recorder.end_step(0.0)
    values, steps, _ = recorder.drain()
    assert steps.tolist() == [8, 9, 10, 11]
    assert values[:, 0, N_ROWS].tolist() == [8, 9, 10, 11]
    assert recorder.lost() == 7


def test_lost_steps_are_warned_of_once() -> None:
    net = model()
    with Probe(net, capacity=4) as probe:
        for _ in range(9):  # as if a graph were replayed, behind the probe's back
            backward(net)
            probe._recorder.end_step(None)
            probe._channel.begin_forward()
        with pytest.warns(RuntimeWarning, match="5 steps were recorded and lost"):
            probe.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            backward(net)
            probe.step()
            probe.flush()
    assert sorted(set(probe.history()["step"].tolist())) == [6, 7, 8, 9, 10]


def test_a_site_that_is_new_in_a_later_step() -> None:
    recorder = make_recorder(num_sites=1, max_sites=3)
    x = torch.ones(2, 3)
    relu_backward(recorder, x, x)
    recorder.end_step(0.0)
    recorder.use_sites(3)
    for site in (0, 2):
        relu_backward(recorder, x, x, site=site)
    recorder.end_step(0.0)
    values, _, _ = recorder.drain()
    seen = ~np.isnan(values[:, :, N_ROWS].numpy())
    assert seen.tolist() == [[True, False, False], [True, False, True]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64], ids=str)
def test_a_loss_of_any_dtype(dtype: torch.dtype) -> None:
    recorder = make_recorder()
    recorder.end_step(torch.tensor([[3]], dtype=dtype))
    assert recorder.drain()[2].tolist() == [3]


# ---- errors -------------------------------------------------------------------------------------

GOOD = torch.tensor([0, 1, 0, 1, 1, 0])


def fail_in_step_2(probe: Probe, net: nn.Module, labels: Tensor | None, rows: int = 6) -> None:
    for step in (1, 2, 3):
        wrong = step == 2
        if labels is not None or not wrong:
            probe.batch(labels=labels if wrong else GOOD)
        backward(net, rows if wrong else 6)
        probe.step()


@pytest.mark.parametrize(
    ("labels", "rows", "message"),
    [
        (None, 6, r"step 2: labels are missing: call probe\.batch\(labels"),
        (GOOD[:5], 4, "step 2: .* was given 5 labels, but a watched feature has 4 samples"),
        (
            torch.tensor([0, 1, 2, 0, 1, 0]),
            6,
            r"step 2: labels: row 2 has label 2, wanted 0 \.\.\. 1",
        ),
        (torch.tensor([0, -1, 0, 0, 1, 0]), 6, "step 2: labels: row 1 has label -1"),
    ],
)
def test_wrong_labels_are_told_of_with_their_step_and_nothing_else_is_lost(
    labels: Tensor | None, rows: int, message: str
) -> None:
    net = model()
    probe = Probe(net, num_classes=2).attach()
    fail_in_step_2(probe, net, labels, rows)
    with pytest.raises(ValueError, match=message):
        probe.flush()
    probe.flush()  # once is enough
    probe.detach()
    assert probe.history()["step"].tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize("labels", [5, 18])
def test_labels_are_counted_against_samples_not_tokens(labels: int) -> None:
    relu = nn.ReLU()
    probe = Probe(relu, num_classes=2, reduction="tokens", capacity=8).attach()
    for given in (6, labels, 6):
        probe.batch(labels=torch.arange(given) % 2)
        samples = 4 if labels == 5 and given == 5 else 6
        relu(torch.ones(samples, 3, 5, requires_grad=True)).sum().backward()
        probe.step()
    with pytest.raises(ValueError, match=f"step 2: .* {labels} labels, .* has [46] samples"):
        probe.flush()
    probe.detach()
    assert probe.history()["step"].tolist() == [1, 3]
    assert probe.history()["n_rows"].tolist() == [18, 18]


def test_an_error_is_told_of_by_the_step_whose_drain_brings_it() -> None:
    net = model()
    probe = Probe(net, num_classes=2, capacity=4).attach()
    fail_in_step_2(probe, net, torch.full((6,), 7))
    probe.batch(labels=GOOD)
    backward(net)
    with pytest.raises(ValueError, match="step 2: labels: row 0 has label 7"):
        probe.step()
    probe.close()
    assert sorted(set(probe.history()["step"].tolist())) == [1, 3, 4]


def test_an_error_when_the_block_is_left() -> None:
    net = model()
    with (
        pytest.raises(ValueError, match="step 2: labels are missing"),
        Probe(net, num_classes=2) as probe,
    ):
        fail_in_step_2(probe, net, None)
    assert probe.history()["step"].tolist() == [1, 1, 3, 3]


def test_one_label_announcement_serves_one_backward() -> None:
    net = model()
    probe = Probe(net, num_classes=2).attach()
    probe.batch(labels=GOOD)
    net(torch.ones(6, 3)).sum().backward(retain_graph=False)
    with pytest.raises(ValueError, match="labels are missing"):
        backward(net)  # the host has seen the first
    probe.step()
    probe.close()
    assert probe.history()["n_rows"].tolist() == [6, 6]


def test_fewer_labels_than_there_ever_were_rows_are_noticed_at_once() -> None:
    net = model()
    with Probe(net, num_classes=2) as probe:
        probe.batch(labels=GOOD[:1])
        with pytest.raises(ValueError, match=r"labels are missing.*1 entries, the feature has 6"):
            backward(net)


def test_the_width_of_a_site_may_not_change() -> None:
    recorder = make_recorder()
    for width in (5, 6):
        relu_backward(recorder, torch.ones(4, width), torch.ones(4, width))
    assert end_step(recorder)["n_rows"] == 4
    assert "site 0 had 5 units before and has 6 now" in (recorder.take_error() or "")
    assert recorder.take_error() is None


def test_units_that_lie_beyond_the_buffer_are_left_alone() -> None:
    # A graph may hold on to a buffer that the recorder has replaced by a larger one since.
    recorder, small = make_recorder(units=4000), torch.full((2, 4), 7, dtype=torch.int32)
    x = torch.ones(3, 1000)
    relu_backward(recorder, x, x)
    relu_backward(recorder, x, x, site=1)
    torch.ops.tfc_fast.tap_backward(
        x, x, recorder.order, recorder.class_ptr, recorder.sites, small, 1
    )
    assert (small == 7).all()
    assert end_step(recorder, site=1)["n_rows"] == 3
    assert "site 1 end at 2000" in (recorder.take_error() or "")


# ---- room for units -----------------------------------------------------------------------------


def test_wide_sites_get_room_without_a_drain() -> None:
    net = nn.Sequential(nn.Linear(2, 9000), nn.ReLU(), nn.Linear(9000, 3), nn.ReLU())
    with Probe(net) as probe:
        for _ in range(3):
            net(torch.ones(4, 2)).sum().backward()
            probe.step()
    history = probe.history()
    assert not np.isnan(history["dead_window_frac"]).any()
    assert set(history["site"]) == {"1", "3"}


def test_what_was_seen_before_the_buffer_grew_is_kept() -> None:
    recorder = make_recorder(units=10, window=2)
    closed, opened = torch.zeros(3, 8), torch.ones(3, 8)
    relu_backward(recorder, opened, opened)
    assert end_step(recorder)["dead_window_frac"] == 0
    wide = torch.ones(3, 50)
    relu_backward(recorder, closed, closed)
    relu_backward(recorder, wide, wide, site=1)
    assert end_step(recorder)["dead_window_frac"] == 0
    assert recorder.units.shape[1] >= 58
    relu_backward(recorder, closed, closed)
    assert end_step(recorder)["dead_window_frac"] == 1


def test_masks_are_refused_and_nothing_is_lost() -> None:
    model = nn.Sequential(nn.ReLU())
    x = torch.ones(4, 3, 5, requires_grad=True)
    with Probe(model, reduction="tokens") as probe:
        probe.batch()
        model(x).sum().backward()
        with pytest.raises(ValueError, match=r"mask: .* on the CPU only"):
            probe.batch(mask=torch.ones(4, 3, dtype=torch.bool))
        probe.step()
    assert probe.history()["n_rows"].tolist() == [12]


# ---- what keeps its place -----------------------------------------------------------------------


def test_tensors_stay_where_they_are_unless_a_batch_is_larger_than_any_before() -> None:
    # What a captured graph holds on to.
    recorder = make_recorder(num_classes=3)

    def places() -> list[int]:
        tensors = (recorder.sites, recorder.units, recorder.order, recorder.class_ptr)
        return [x.data_ptr() for x in tensors]

    recorder.begin_batch(torch.zeros(40, dtype=torch.int64))
    before = places()
    for rows in (40, 7, 0, 39):
        recorder.begin_batch(torch.zeros(rows, dtype=torch.int64))
        x = torch.ones(rows, 5)
        relu_backward(recorder, x, x)
        recorder.end_step(None)
        recorder.drain(False)
    assert places() == before
    recorder.begin_batch(torch.zeros(50, dtype=torch.int64))
    assert [a == b for a, b in zip(places(), before, strict=True)] == [True, True, False, True]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
def test_labels_of_any_integer_dtype(dtype: torch.dtype) -> None:
    recorder = make_recorder(num_classes=3)
    recorder.begin_batch(torch.tensor([2, 0, 1, 0, 2, 2], dtype=dtype))
    x = torch.eye(6)
    relu_backward(recorder, x, x)
    assert end_step(recorder)["gate_agreement_within"] == 4 / 6
    assert recorder.order[:6].tolist() == [1, 3, 2, 0, 4, 5]


def test_the_recorder_is_the_one_for_a_device() -> None:
    with pytest.raises(ValueError, match=r"no recorder for meta; `tfc-fast info` says"):
        _C.Recorder(1, 0, 4, 1, 1, 8, torch.device("meta"))


# ---- sums that wait for the end of the step -----------------------------------------------------


class Deep(nn.Module):
    """More gates than one launch puts together, of different widths."""

    def __init__(self, gates: int) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.ReLU() for _ in range(gates))

    def forward(self, x: Tensor) -> Tensor:
        total = x.sum() * 0
        for width, gate in enumerate(self.gates, 1):
            total = total + (gate(x[:, :width]) * x[:, :width]).sum()
        return total


def test_each_site_gets_its_own_sums() -> None:
    net, x, y = Deep(19), torch.randn(30, 20, requires_grad=True), torch.arange(30) % 4
    alone = {}
    for index in range(19):
        with Probe(net, sites=f"gates.{index}", num_classes=4) as probe:
            for _ in range(2):
                probe.batch(labels=y)
                net(x).backward()
                probe.step()
        alone[f"gates.{index}"] = probe.history()
    with Probe(net, num_classes=4) as probe:
        for _ in range(2):
            probe.batch(labels=y)
            net(x).backward()
            probe.step()
    history = probe.history()
    assert len(history["step"]) == 2 * 19
    for name, expected in alone.items():
        for column in STATISTICS:
            actual = history[column][history["site"] == name]
            np.testing.assert_array_equal(actual, expected[column], err_msg=name)


def test_every_micro_batch_counts() -> None:
    net = model()
    with Probe(net, num_classes=2) as probe:
        for _ in range(3):
            probe.batch(labels=torch.tensor([0, 1, 1, 0]))
            backward(net, 4)
        probe.step()
    assert probe.history()["n_rows"].tolist() == [12, 12]


@pytest.fixture
def capture() -> Iterator[Callable[[int], None]]:
    """Says that a graph of that number is captured from now on, 0: none."""
    function = ctypes.CDLL(_C.__file__).emulation_capture
    function.argtypes = [ctypes.c_uint64]
    yield function
    function(0)


def test_a_step_that_is_captured_as_a_whole(capture: Callable[[int], None]) -> None:
    net, labels = model(), torch.zeros(6, dtype=torch.int64)
    with Probe(net, num_classes=2) as probe:
        for graph in (0, 7, 8, 0):
            capture(graph)
            probe.batch(labels=labels)
            backward(net)
            probe.step()
        capture(0)
    assert probe.history()["step"].tolist() == [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize("labelled", [False, True])
def test_a_backward_that_is_captured_alone(capture: Callable[[int], None], labelled: bool) -> None:
    net, labels = model(), torch.zeros(6, dtype=torch.int64)
    with Probe(net, num_classes=2 if labelled else None) as probe:
        for graph in (0, 7, 0):
            if labelled:
                probe.batch(labels=labels)
            capture(graph)
            backward(net)
            capture(0)
            probe.step()
    assert probe.history()["n_rows"].tolist() == [6] * 6


def test_a_step_left_out_of_the_graph_is_told_of(capture: Callable[[int], None]) -> None:
    net, labels = model(), torch.zeros(6, dtype=torch.int64)
    with Probe(net, num_classes=2) as probe:
        capture(7)
        probe.batch(labels=labels)
        backward(net)
        capture(0)
        with pytest.raises(RuntimeError, match=r"capture step\(\) as well"):
            probe.step()
        probe.batch(labels=labels)
        backward(net)
        probe.step()
    assert probe.history()["n_rows"].tolist() == [6, 6]


def test_a_capture_that_failed_leaves_nothing_behind(capture: Callable[[int], None]) -> None:
    net, labels = model(), torch.zeros(6, dtype=torch.int64)
    with Probe(net, num_classes=2) as probe:
        capture(7)
        probe.batch(labels=labels)
        backward(net)
        capture(0)
        probe.batch(labels=labels)
        backward(net)
        probe.step()
    assert probe.history()["n_rows"].tolist() == [6, 6]
