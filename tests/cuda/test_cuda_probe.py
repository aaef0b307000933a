"""The probe on a GPU: training untouched, records as by brute force, no waiting, graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
from checks import COSINE_TOLERANCE, DTYPES
from process_scenarios import group_of_one
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tfc_fast import Probe
from tfc_fast.models import MLP
from tfc_fast.records import COLUMNS

# torch says so whenever it is asked to watch.
pytestmark = pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")

CLASSES = 5
ROWS, FEATURES, WIDTH = 70, 20, 48
STATISTICS = COLUMNS[3:]


@pytest.fixture
def model(device: torch.device) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    return MLP(FEATURES, CLASSES, 4, WIDTH, generator=generator).to(device)


@pytest.fixture
def batches(device: torch.device, rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            x = torch.from_numpy(rng.standard_normal((ROWS, FEATURES), np.float32))
            y = torch.from_numpy(rng.integers(0, CLASSES, ROWS))
            yield x.to(device), y.to(device)

    return endless()


class Training:
    """A model, its optimizer and, if wanted, a probe; a step of it."""

    def __init__(self, model: nn.Module, probe: Probe | None = None) -> None:
        self.model, self.probe = model, probe
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        if self.probe is not None:
            self.probe.batch(labels=y)
        loss = cross_entropy(self.model(x), y)
        loss.backward()
        if self.probe is not None:
            self.probe.step(loss=loss)
        self.optimizer.step()
        return loss.detach()


def assert_same_bits(actual: nn.Module, expected: nn.Module) -> None:
    for a, b in zip(actual.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a.view(torch.int32), b.view(torch.int32))


def watch_by_hand(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Feature and gradient of every ReLU at the last backward, by hooks: the slow way."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        def forward(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            feature = output.detach().clone()
            output.register_hook(lambda grad: seen.update({name: (feature, grad.clone())}))

        return forward

    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(watch(name))
    return seen


def assert_last_step(probe: Probe, seen: dict[str, tuple[Tensor, Tensor]], y: Tensor) -> None:
    history = probe.history()
    assert set(probe.sites) == set(seen)
    for name, (feature, grad) in seen.items():
        last = np.flatnonzero(history["site"] == name)[-1]
        expected = reference.site_record(feature.cpu(), grad.cpu(), y.cpu())
        dtype = str(feature.dtype).removeprefix("torch.")
        for column in STATISTICS:
            if column == "dead_window_frac":  # of many steps; below
                continue
            is_cosine, is_norm = "_cos_" in column, "norm" in column
            np.testing.assert_allclose(
                history[column][last],
                expected[column],
                rtol=1e-6 if is_norm else 0,
                atol=COSINE_TOLERANCE[dtype] if is_cosine else 0,
                err_msg=f"{name}: {column}",
            )


def test_training_is_bitwise_untouched(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]
) -> None:
    plain = Training(copy.deepcopy(model))
    with Probe(model, num_classes=CLASSES) as probe:
        probed = Training(model, probe)
        for _ in range(50):
            x, y = next(batches)
            assert torch.equal(probed.step(x, y), plain.step(x, y))
    assert_same_bits(probed.model, plain.model)
    history = probe.history()
    assert sorted(set(history["step"].tolist())) == list(range(1, 51))
    assert not np.isnan(history["loss"]).any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_records_agree_with_brute_force(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], dtype: torch.dtype
) -> None:
    model.to(dtype)
    with Probe(model, num_classes=CLASSES) as probe:
        seen = watch_by_hand(model)
        training = Training(model, probe)
        for _ in range(3):
            x, y = next(batches)
            training.step(x.to(dtype), y)
            assert_last_step(probe, seen, y)


class Scaled(nn.Module):
    """Gates without a matrix product, which tools that watch kernels may not bear."""

    def __init__(self, width: int, rng: np.random.Generator) -> None:
        super().__init__()
        self.gates = nn.ModuleList(nn.ReLU() for _ in range(3))
        weights = torch.from_numpy(rng.standard_normal((3, width)))
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor) -> Tensor:
        for gate, weight in zip(self.gates, self.weights, strict=True):
            x = gate(x * weight + 0.1)
        return x


# Each way in which a block holds rows, and rows that are not aligned or are cut into tiles.
@pytest.mark.parametrize("width", [48, 515, 2500, 4096, 5000])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_records_without_products(
    rng: np.random.Generator, device: torch.device, dtype: torch.dtype, width: int
) -> None:
    model = Scaled(width, rng).to(device, dtype)
    with Probe(model, num_classes=7) as probe:
        seen = watch_by_hand(model)
        for rows in (300, 9, 1000):
            x = torch.from_numpy(rng.standard_normal((rows, width))).to(device, dtype)
            y = torch.from_numpy(rng.integers(0, 7, rows)).to(device)
            probe.batch(labels=y)
            (model(x) * torch.randn_like(x)).sum().backward()
            probe.step()
            assert_last_step(probe, seen, y)


def test_dead_window_is_that_of_the_cpu(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]
) -> None:
    with Probe(model, num_classes=CLASSES, window=3) as probe:
        seen = watch_by_hand(model)
        features: dict[str, list[Tensor]] = {}
        for _ in range(8):
            Training(model, probe).step(*next(batches))
            for name, (feature, _) in seen.items():
                features.setdefault(name, []).append(feature)
    history = probe.history()
    for name, of_steps in features.items():
        dead = history["dead_window_frac"][history["site"] == name]
        for step in range(8):
            window = torch.cat(of_steps[max(0, step - 2) : step + 1])
            assert dead[step] == pytest.approx(
                float((window <= 0).all(0).double().mean()), abs=1e-15
            )


def test_a_step_never_waits_for_the_device(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]
) -> None:
    drawn = [next(batches) for _ in range(40)]
    with Probe(model, num_classes=CLASSES, capacity=8) as probe:
        training = Training(model, probe)
        for x, y in drawn[:10]:
            training.step(x, y)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for x, y in drawn[10:]:  # several times around the ring
                training.step(x, y)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert sorted(set(probe.history()["step"].tolist())) == list(range(1, 41))


def captured(
    training: Training, static: tuple[Tensor, Tensor]
) -> tuple[Callable[[], None], Tensor]:
    """A graph of one step, and its loss; three steps are done before it is captured."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            training.step(*static)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = training.step(*static)
    return graph.replay, loss


def test_captured_in_a_graph(model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
    """A captured step records at each replay, and trains as a captured one without a probe."""
    x, y = static = next(batches)
    plain = Training(copy.deepcopy(model))
    replay_plain, plain_loss = captured(plain, static)
    with Probe(model, num_classes=CLASSES) as probe:
        probed = Training(model, probe)
        replay, loss = captured(probed, static)
        for _ in range(6):
            for part, drawn in zip((x, y), next(batches), strict=True):
                part.copy_(drawn)
            replay_plain()
            replay()
            assert torch.equal(loss, plain_loss)
        history = probe.history()
    assert_same_bits(probed.model, plain.model)
    assert len(set(history["step"].tolist())) == 3 + 6
    first = history["site"] == probe.sites[0]
    assert len(set(history["feature_cos_between"][first].tolist())) == 3 + 6


@pytest.mark.parametrize("inplace", [False, True])
def test_other_streams_and_half_precision(
    device: torch.device, batches: Iterator[tuple[Tensor, Tensor]], inplace: bool
) -> None:
    model = MLP(FEATURES, CLASSES, 4, WIDTH, inplace=inplace).to(device)
    plain = Training(copy.deepcopy(model))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream), Probe(model, num_classes=CLASSES) as probe:
        probed = Training(model, probe)
        for _ in range(10):
            x, y = next(batches)
            with torch.autocast("cuda", torch.bfloat16):
                assert torch.equal(probed.step(x, y), plain.step(x, y))
        history = probe.history()
    assert_same_bits(probed.model, plain.model)
    assert (np.abs(history["feature_cos_between"]) <= 1).all()


@pytest.mark.filterwarnings("ignore:TensorFloat32 tensor cores")
def test_compiled_model(model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
    with Probe(model, num_classes=CLASSES) as probe:
        training = Training(torch.compile(model, fullgraph=True), probe)
        for _ in range(5):
            training.step(*next(batches))
    history = probe.history()
    assert len(set(history["step"].tolist())) == 5
    assert not np.isnan(history["grad_cos_between"]).any()


@pytest.mark.parametrize("without_gradients", [torch.no_grad, torch.inference_mode])
def test_evaluation(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    without_gradients: Callable[[], torch.no_grad],
) -> None:
    (x, y), held_out = next(batches), [next(batches) for _ in range(3)]
    with Probe(model, num_classes=CLASSES) as probe:
        training = Training(model, probe)
        for _ in range(3):
            training.step(x, y)
        features: dict[str, list[Tensor]] = {name: [] for name in probe.sites}
        for name, module in model.named_modules():
            if name in features:
                module.register_forward_hook(
                    lambda _module, _inputs, output, name=name: features[name].append(output)
                )
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            with without_gradients():
                for x, y in held_out:
                    probe.batch(labels=y)
                    loss = cross_entropy(model(x), y)
                probe.step(loss=loss, split="eval")
        finally:
            torch.cuda.set_sync_debug_mode("default")
    records = probe.history(split="eval")
    assert records["step"].tolist() == [3] * len(probe.sites)
    assert set(probe.history()["step"].tolist()) == {1, 2, 3}
    labels = [y.cpu() for _, y in held_out]
    for index, name in enumerate(probe.sites):
        rows = [feature.detach().cpu().clone() for feature in features[name]]
        expected = reference.site_record(rows, rows, labels)
        assert np.isnan(records["grad_cos_all"][index])
        assert records["n_rows"][index] == 3 * ROWS
        for column in ("feature_cos_within", "feature_cos_between", "gate_agreement_between"):
            assert records[column][index] == pytest.approx(expected[column], abs=1e-6)


def test_a_budget_measures_without_waiting(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]
) -> None:
    drawn = [next(batches) for _ in range(200)]
    with Probe(model, num_classes=CLASSES, budget=0.5) as probe:
        training = Training(model, probe)
        for x, y in drawn[:5]:
            training.step(x, y)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for x, y in drawn[5:]:
                training.step(x, y)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert probe.every >= 1
    overhead = probe.overhead()
    assert overhead.steps == 199
    assert overhead.microseconds_per_step >= 0


def test_a_graph_finds_the_buffers_where_they_were(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]
) -> None:
    """What a captured step writes stays in its place, and a replay allocates nothing."""
    static = next(batches)
    with Probe(model, num_classes=CLASSES) as probe:
        replay, _ = captured(Training(model, probe), static)
        replay()
        probe.flush()
        recorder = probe._recorder
        state = (recorder.sites, recorder.units, recorder.order, recorder.class_ptr)
        places = [tensor.data_ptr() for tensor in state]
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        for _ in range(5):
            replay()
        assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
        probe.flush()
        assert [tensor.data_ptr() for tensor in state] == places
    assert sorted(set(probe.history()["step"].tolist())) == list(range(1, 3 + 1 + 5 + 1))


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_a_process_group_of_one(
    model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], backend: str, tmp_path: Path
) -> None:
    """The sums of each class, added up over processes, give what the fused kernels give."""
    drawn = [next(batches) for _ in range(4)]
    histories = []
    with group_of_one(tmp_path, backend) as alone:
        for group in (None, alone):
            copied = copy.deepcopy(model)
            with Probe(copied, num_classes=CLASSES, process_group=group) as probe:
                training = Training(copied, probe)
                for x, y in drawn:
                    training.step(x, y)
            histories.append(probe.history())
    for name in STATISTICS:
        np.testing.assert_allclose(
            histories[1][name], histories[0][name], atol=2e-6, rtol=1e-5, err_msg=name
        )
