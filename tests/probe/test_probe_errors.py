"""Wrong use of a probe ends in one clear message, and loses nothing that was recorded."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from process_scenarios import group_of_one
from torch import nn

from tfc_fast import Probe, tap
from tfc_fast.records import Records


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU())


def backward(net: nn.Module, rows: int = 6) -> None:
    net(torch.ones(rows, 3)).sum().backward()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "net"}, TypeError, "model: wanted a torch.nn.Module, got str"),
        ({"model": model().to("meta")}, ValueError, "model: on meta; a probe records on the CPU"),
        ({"sites": "rleu"}, ValueError, "sites: 'rleu' matches no module"),
        ({"sites": ["1", "9"]}, ValueError, "sites: '9' matches no module"),
        ({"sites": [1]}, TypeError, "sites: a list must hold module paths"),
        ({"sites": 3}, TypeError, "sites: wanted 'relu'"),
        ({"sites": int}, TypeError, "sites: wanted 'relu'"),
        ({"sites": nn.LSTM}, ValueError, "no module of type LSTM"),
        ({"sites": lambda name, module: False}, ValueError, "chose none of the 5 modules"),
        ({"num_classes": 0}, ValueError, "num_classes: wanted at least 1, got 0"),
        ({"num_classes": 2.0}, TypeError, "num_classes: wanted an int, got float"),
        ({"every": 0}, ValueError, "every: wanted at least 1"),
        ({"window": -1}, ValueError, "window: wanted at least 1"),
        ({"capacity": True}, TypeError, "capacity: wanted an int, got bool"),
        ({"history_records": 0}, ValueError, "history_records: wanted at least 1"),
        ({"max_sites": 1}, ValueError, "max_sites: 1 given, but 2 modules"),
        ({"sinks": [print]}, TypeError, "sinks: builtin_function_or_method lacks"),
        ({"sinks": 3}, TypeError, "sinks: wanted a list of sinks, got int"),
        ({"model": torch.jit.script(model())}, TypeError, "model: a scripted one"),
        ({"sites": nn.ReLU()}, TypeError, r"got a module; write ReLU instead of ReLU\(\)"),
        ({"sites": ["relu"]}, ValueError, r"given alone, sites='relu', it means every nn\.ReLU"),
        ({"sites": ""}, ValueError, r"'' matches no module .* one of \['0', '1', '2', '3'\]"),
        ({"model": nn.GELU(), "sites": "gelu"}, ValueError, "the model has none inside it"),
        ({"stop_on": 3}, TypeError, "stop_on: wanted a list of events, .* got int"),
    ],
)
def test_arguments_are_checked(
    arguments: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Probe(**({"model": model()} | arguments))


def test_sinks_that_can_be_iterated_once_are_served() -> None:
    net, train, evaluation = model(), Good(), Good()
    with Probe(net, sinks=iter([train]), eval_sinks=iter([evaluation])) as probe:
        for split in ("train", "eval"):
            measure(net, probe, split)
            probe.step(split=split)  # type: ignore[arg-type]
    assert train.steps == evaluation.steps == [1, 1]


def test_a_misspelt_pattern_is_met_with_near_names() -> None:
    net = nn.ModuleDict({"encoder": nn.ReLU(), "decoder": nn.ReLU()})
    with pytest.raises(ValueError, match=r"did you mean one of \['encoder'"):
        Probe(net, sites="enocder")


def test_a_glob_for_everything_leaves_the_model_itself_out() -> None:
    with Probe(model(), sites="*") as probe:
        assert probe.sites == ("0", "1", "2", "3")


def measure(net: nn.Module, probe: Probe, split: str) -> None:
    if split == "train":
        backward(net)
        return
    with torch.no_grad():
        probe.batch()
        net(torch.ones(6, 3))


NO_NUMBER = [
    ("2.3", TypeError, "wanted a tensor of one element, a number or None, got str"),
    ([2.3], TypeError, "wanted a tensor of one element, a number or None, got list"),
    (object(), TypeError, "wanted a tensor of one element, a number or None, got object"),
    (np.ones(2), ValueError, r"wanted one number, got shape \[2\]; give its mean"),
    (torch.ones(2), ValueError, r"wanted one number, got shape \[2\]; give its mean"),
    (torch.ones(0), ValueError, r"wanted one number, got shape \[0\]; give its mean"),
    (np.array(["x"]), TypeError, "wanted a tensor of one element, a number or None, got str"),
    (np.str_("2.5"), TypeError, "wanted a tensor of one element, a number or None, got str"),
    (np.array([None]), TypeError, "wanted a tensor of one element, a number .*, got NoneType"),
    (np.array([1j]), TypeError, "wanted a tensor of one element, a number or None, got complex"),
    (np.complex64(1), TypeError, "wanted a tensor of one element, a number or None, got complex"),
    (10**400, ValueError, "wanted a number, got int of which float.. says: int too large"),
    (torch.tensor(1j), TypeError, "wanted a real number, got a tensor of torch.complex64"),
]


@pytest.mark.parametrize("shared", [False, True], ids=["alone", "of a group"])
@pytest.mark.parametrize("split", ["train", "eval"])
@pytest.mark.parametrize("number", [np.float32(2.5), np.array([2.5]), torch.tensor([2.5])])
def test_a_loss_that_is_no_number_costs_nothing(
    number: object, split: Any, shared: bool, tmp_path: Path
) -> None:
    net = model()
    with (
        group_of_one(tmp_path) if shared else contextlib.nullcontext() as group,
        Probe(net, process_group=group) as probe,
    ):
        measure(net, probe, split)
        for loss, error, message in NO_NUMBER:
            with pytest.raises(error, match=f"^loss: {message}"):
                probe.step(loss=loss, split=split)  # type: ignore[arg-type]
        probe.step(loss=number, split=split)  # type: ignore[arg-type]
        history = probe.history(split=split)
    assert history["loss"].tolist() == [2.5, 2.5]
    assert history["n_rows"].tolist() == [6, 6]


def test_an_evaluation_that_cannot_be_closed_is_in_no_other() -> None:
    net = model()
    with Probe(net) as probe:
        measure(net, probe, "eval")
        with pytest.raises(RuntimeError, match="meta"):
            probe.step(loss=torch.ones((), device="meta"), split="eval")
        with pytest.raises(ValueError, match="nothing was measured for 'eval'"):
            probe.step(split="eval")
        measure(net, probe, "eval")
        probe.step(split="eval")
    assert probe.history(split="eval")["n_rows"].tolist() == [6, 6]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (
            None,
            ValueError,
            "labels: wanted one label per sample, since the probe has num_classes=2",
        ),
        ([0, 1], TypeError, "labels: wanted a tensor or array, got list"),
        (torch.zeros(6), TypeError, "labels: wanted an integer dtype"),
        (torch.zeros(6, dtype=torch.bool), TypeError, "labels: wanted an integer dtype"),
        (torch.zeros(6, 1, dtype=torch.int64), ValueError, r"shape \[n\], got shape \[6, 1\]"),
        (torch.tensor([0, 1, 2, 0, 1, 0]), ValueError, r"row 2 has label 2, wanted 0 \.\.\. 1"),
        (torch.tensor([0, -1, 0, 0, 1, 0]), ValueError, "row 1 has label -1"),
        (np.array([0, 1, 0, 5, 1, 0]), ValueError, "row 3 has label 5"),
    ],
)
def test_labels_are_checked_and_nothing_is_lost(
    labels: object, error: type[Exception], message: str
) -> None:
    net = model()
    good = torch.tensor([0, 1, 0, 1, 1, 0])
    with Probe(net, num_classes=2) as probe:
        probe.batch(labels=good)
        backward(net)
        probe.step()
        with pytest.raises(error, match=message):
            probe.batch(labels=labels)  # type: ignore[arg-type]
        probe.batch(labels=good)
        backward(net)
        probe.step()
    history = probe.history()
    assert history["step"].tolist() == [1, 1, 2, 2]
    first, second = ({k: v[history["step"] == s] for k, v in history.items()} for s in (1, 2))
    for name in ("feature_cos_within", "grad_cos_between", "n_rows"):
        np.testing.assert_array_equal(first[name], second[name])


@pytest.mark.parametrize("in_step", [1, 2])
def test_missing_labels_are_noticed_in_backward(in_step: int) -> None:
    net = model()
    with Probe(net, num_classes=2) as probe:
        for _ in range(in_step - 1):
            probe.batch(labels=torch.zeros(6, dtype=torch.int64))
            backward(net)
            probe.step()
        with pytest.raises(ValueError, match=r"labels are missing: call probe\.batch\(labels"):
            backward(net)


def test_one_label_announcement_serves_one_backward() -> None:
    net = model()
    with Probe(net, num_classes=2) as probe:
        probe.batch(labels=torch.zeros(6, dtype=torch.int64))
        backward(net)
        with pytest.raises(ValueError, match="labels are missing"):
            backward(net)


def test_labels_for_another_number_of_rows() -> None:
    net = model()
    with Probe(net, num_classes=2) as probe:
        probe.batch(labels=torch.zeros(5, dtype=torch.int64))
        with pytest.raises(
            ValueError, match="was given 5 labels, but a watched feature has 6 samples"
        ):
            backward(net)


def test_the_width_of_a_site_may_not_change() -> None:
    class Wavering(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

    net = Wavering()
    with Probe(net) as probe:
        for width in (3, 4):
            x = torch.ones(2, width, requires_grad=True)
            if width == 4:
                with pytest.raises(ValueError, match="site 0 had 3 units before and has 4 now"):
                    net.act(x).sum().backward()
            else:
                net.act(x).sum().backward()
                probe.step()


def test_a_detached_probe_refuses_to_record() -> None:
    probe = Probe(model())
    with pytest.raises(RuntimeError, match=r"Probe\.batch: the probe is not attached"):
        probe.batch()
    with pytest.raises(RuntimeError, match=r"Probe\.step: the probe is not attached"):
        probe.step()


def test_two_probes_on_one_module() -> None:
    net = model()
    with Probe(net, sites="1"):
        second = Probe(net, sites="relu")
        with pytest.raises(ValueError, match="'1' is already watched by another probe"):
            second.attach()
        assert not second.attached
        assert type(net[3]) is nn.ReLU
    second.attach()
    second.detach()


def test_tap_checks_what_it_is_given() -> None:
    with Probe(model()):
        with pytest.raises(TypeError, match=r"tap 'x': wanted a float tensor, got torch\.int64"):
            tap(torch.arange(3), "x")
        with pytest.raises(ValueError, match="tap 'x': wanted at least one dimension"):
            tap(torch.tensor(1.0), "x")


class Broken:
    """A sink that fails now and then."""

    def __init__(self) -> None:
        self.fails = True
        self.steps: list[int] = []

    def write(self, records: Records) -> None:
        if self.fails:
            raise OSError("no room")
        self.steps += records["step"].tolist()

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class Good(Broken):
    """A sink that never fails."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False


def test_a_failing_sink_starves_neither_history_nor_other_sinks() -> None:
    net = model()
    broken, good = Broken(), Good()
    probe = Probe(net, sinks=[broken, good], capacity=4).attach()
    backward(net)
    probe.step()
    backward(net)
    with pytest.raises(OSError, match="no room"):
        probe.step()
    broken.fails = False
    backward(net)
    probe.step()
    probe.close()
    assert good.steps == [1, 1, 2, 2, 3, 3]
    assert probe.history()["step"].tolist() == [1, 1, 2, 2, 3, 3]


def test_state_goes_on_where_it_was_saved() -> None:
    net = model()
    other = copy.deepcopy(net)

    def run(probe: Probe, network: nn.Module, steps: int) -> None:
        for _ in range(steps):
            backward(network)
            probe.step()
            with torch.no_grad():
                network[0].weight.neg_()

    with Probe(net, window=3) as whole:
        run(whole, net, 6)
    with Probe(other, window=3) as first:
        run(first, other, 3)
    with Probe(other, window=3) as second:
        second.load_state_dict(first.state_dict())
        run(second, other, 3)
    expected = {name: column[6:] for name, column in whole.history().items()}
    for name, column in second.history().items():
        np.testing.assert_array_equal(column, expected[name], err_msg=name)


def test_a_foreign_state_is_refused() -> None:
    saved = Probe(model()).state_dict()
    with pytest.raises(ValueError, match="state: no probe state"):
        Probe(model()).load_state_dict({"step": 3})
    with pytest.raises(ValueError, match="state: saved for sites"):
        Probe(model(), sites="0").load_state_dict(saved)
    with pytest.raises(ValueError, match="placement: wanted int64"):
        Probe(model(), max_sites=5).load_state_dict(saved)
    with pytest.raises(ValueError, match="units: wanted int32"):
        Probe(model()).load_state_dict(saved | {"units": torch.zeros(3)})


def test_overhead_counts_steps() -> None:
    net = model()
    with Probe(net) as probe:
        assert np.isnan(probe.overhead().microseconds_per_step)
        for _ in range(5):
            backward(net)
            probe.step()
    overhead = probe.overhead()
    assert overhead.steps == 4
    assert overhead.microseconds_per_step > 0
    assert 0 < overhead.percent_of_step < 100


def test_labels_that_nobody_asked_for() -> None:
    with (
        Probe(nn.Sequential(nn.Linear(3, 2), nn.ReLU())) as probe,
        pytest.raises(ValueError, match=r"labels: given, but .* Probe\(num_classes=\.\.\.\)"),
    ):
        probe.batch(labels=torch.tensor([0, 1]))


def test_a_probe_says_what_it_is() -> None:
    probe = Probe(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))
    assert repr(probe) == "<Probe, not attached, sites: 1>"
    with probe:
        assert repr(probe) == "<Probe, attached, sites: 1>"
