"""What a probe warns of, and whose line it names."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tfc_fast import Probe


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU())


def backward(net: nn.Module, rows: int = 6) -> None:
    net(torch.ones(rows, 3)).sum().backward()


def test_silence_is_reported_once() -> None:
    net = model()
    with Probe(net, capacity=2) as probe:
        with pytest.warns(RuntimeWarning, match="no watched site took part"):
            probe.step()
        for _ in range(10):
            probe.step()
        backward(net)
        probe.step()
    assert probe.history()["step"].tolist() == [12, 12]


def test_running_out_of_sites_warns_and_training_goes_on() -> None:
    net = model()
    with Probe(net, max_sites=3) as probe:
        with pytest.warns(RuntimeWarning, match=r"site '3#1' is one more than max_sites=3"):
            (net(torch.ones(2, 3)).sum() + net(torch.ones(2, 3)).sum()).backward()
        probe.step()
    assert probe.history()["site"].tolist() == ["1", "3", "1#1"]


def test_a_warning_is_of_the_line_that_led_to_it() -> None:
    with Probe(nn.Sequential(nn.Linear(3, 2), nn.ReLU())) as probe:
        probe.step()
        for call in (probe.flush, probe.history):
            probe._outlet._silence = "silence"
            probe.step()
            with pytest.warns(RuntimeWarning) as caught:
                call()
            assert [warning.filename for warning in caught] == [__file__]


def test_a_warning_is_told_to_code_without_a_name() -> None:
    with Probe(model()) as probe:
        probe.step()
        with pytest.warns(RuntimeWarning, match="no watched site took part") as caught:
            exec(compile("probe.flush()", "a cell", "exec"), {"probe": probe})
    assert [warning.filename for warning in caught] == ["a cell"]
