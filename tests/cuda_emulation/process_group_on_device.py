"""What a probe of several processes does otherwise on a GPU than on the CPU.

Run by test_emulated_ops.py, through the emulated extension.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from process_scenarios import group_of_one
from torch import nn

from tfc_fast import _C, Probe
from tfc_fast.records import COLUMNS


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Any]:
    with group_of_one(tmp_path) as group:
        yield group


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU())


def backward(net: nn.Module, rows: int = 6) -> None:
    net(torch.ones(rows, 3)).sum().backward()


def labels(count: int = 6) -> torch.Tensor:
    return torch.arange(count) % 2


def test_another_number_of_labels_is_noticed_in_backward(group: Any) -> None:
    net = model()
    with Probe(net, num_classes=2, process_group=group) as probe:
        probe.batch(labels=labels())
        backward(net)
        probe.step()
        probe.batch(labels=labels(5))
        with pytest.raises(ValueError, match="was given 5 labels, but a watched feature has 6"):
            backward(net)
        probe.batch(labels=labels())
        backward(net)
        probe.step()
    assert probe.history()["n_rows"].tolist() == [6] * 4


def test_labels_that_are_missing_are_noticed_in_backward(group: Any) -> None:
    net = model()
    with (
        Probe(net, num_classes=2, process_group=group),
        pytest.raises(ValueError, match="labels are missing"),
    ):
        backward(net)


def test_labels_out_of_range_leave_the_batch_out_and_are_told_with_the_records(group: Any) -> None:
    net = model()
    with Probe(net, num_classes=2, process_group=group) as probe:
        for wrong in (False, True, False):
            probe.batch(labels=labels() + wrong)
            backward(net)
            probe.step()
        with pytest.raises(ValueError, match="step 2"):
            probe.flush()
    assert probe.history()["step"].tolist() == [1, 1, 3, 3]


def test_a_width_that_changes_leaves_the_batch_out(group: Any) -> None:
    net = nn.Sequential(nn.ReLU())
    with Probe(net, process_group=group) as probe:
        for width in (3, 4, 3):
            net(torch.ones(2, width, requires_grad=True)).sum().backward()
            probe.step()
        with pytest.raises(ValueError, match="site 0 had 3 units before and has 4 now"):
            probe.flush()
    assert probe.history()["step"].tolist() == [1, 3]


@pytest.mark.parametrize("recorded", [True, False])
def test_a_graph_is_refused(group: Any, recorded: bool) -> None:
    capture = ctypes.CDLL(_C.__file__).emulation_capture
    capture.argtypes = [ctypes.c_uint64]
    net = model()
    with Probe(net, num_classes=2, every=2, process_group=group) as probe:
        if not recorded:
            probe.batch(labels=labels())
            backward(net)
            probe.step()
        capture(7)
        try:
            probe.batch(labels=labels())
            with pytest.raises(RuntimeError, match=r"\(process_group\) cannot be captured"):
                backward(net)
        finally:
            capture(0)


def test_a_compiled_model_is_refused(group: Any) -> None:
    net = model()
    compiled = torch.compile(net, backend="aot_eager")
    with Probe(net, num_classes=2, process_group=group) as probe:
        probe.batch(labels=labels())
        with pytest.raises(RuntimeError, match="a compiled model cannot be recorded for several"):
            backward(compiled)


def test_steps_that_are_not_recorded_add_nothing(group: Any) -> None:
    net = model()
    histories = []
    for processes in (None, group):
        with Probe(net, num_classes=2, every=2, process_group=processes) as probe:
            for rows in (6, 8, 10):
                probe.batch(labels=labels(rows))
                backward(net, rows)
                probe.step()
        histories.append(probe.history())
    assert histories[1]["step"].tolist() == [1, 1, 3, 3]
    assert histories[1]["n_rows"].tolist() == [6, 6, 10, 10]
    for name in COLUMNS[3:]:
        np.testing.assert_allclose(histories[1][name], histories[0][name], atol=1e-6, err_msg=name)


def test_a_probe_goes_on_from_a_state(group: Any) -> None:
    net = model()
    with Probe(net, num_classes=2, process_group=group) as probe:
        probe.batch(labels=labels())
        backward(net)
        probe.step()
    state = probe.state_dict()
    with Probe(net, num_classes=2, process_group=group) as second:
        second.load_state_dict(state)
        second.batch(labels=labels())
        backward(net)
        second.step()
    assert second.history()["step"].tolist() == [2, 2]
    assert second.history()["dead_frac"].tolist() == probe.history()["dead_frac"].tolist()


class Narrow(nn.Module):
    """Its second layer is reached only if that is wanted."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.ReLU(), nn.ReLU()
        self.whole = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.first(x)
        return self.second(torch.cat([out] * 500, 1)) if self.whole else out


def test_a_probe_that_has_run_goes_on_from_a_state_with_fewer_units(group: Any) -> None:
    net = Narrow()
    x = torch.randn(6, 3, requires_grad=True)
    with Probe(net, process_group=group) as probe:
        net(x).sum().backward()
        probe.step()
        state = probe.state_dict()
        net.whole = True
        net(x).sum().backward()
        probe.step()
        expected = probe.history()
        probe.load_state_dict(state)
        net(x).sum().backward()
        probe.step()
    history = probe.history()
    assert history["step"].tolist() == [2, 2]
    for name in COLUMNS[2:]:
        np.testing.assert_array_equal(history[name], expected[name][1:], err_msg=name)
