"""Globs of `reduction` that decide for no site are told, once sites are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tfc_fast import Probe, tap


class HiddenTap(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv1d(2, 3, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return tap(self.act(self.conv(x)), "hidden") * 2


FETCHES = pytest.mark.parametrize("fetch", [Probe.flush, Probe.history, Probe.describe])


@FETCHES
def test_globs_that_decide_for_no_site_are_told_once(fetch: Callable[[Probe], object]) -> None:
    model = HiddenTap()
    reductions: Any = {"a*": "pool", "act": "tokens", "stem.*": "pool", "hid*": "tokens"}
    probe = Probe(model, reduction=reductions)
    fetch(probe)  # too early: no tap has been seen
    with probe:
        model(torch.ones(4, 2, 5)).sum().backward()
        probe.step()
        with pytest.warns(RuntimeWarning, match=r"\['act', 'stem\.\*'\] decide for none") as caught:
            fetch(probe)
        assert [warning.filename for warning in caught] == [__file__]
        fetch(probe)


@FETCHES
@pytest.mark.parametrize("compiled", [False, True])
def test_globs_are_judged_by_the_steps_after_a_restored_one(
    fetch: Callable[[Probe], object], compiled: bool
) -> None:
    model = HiddenTap()
    run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
    reductions: Any = {"hid*": "tokens", "stem.*": "pool"}
    with Probe(model, reduction={"hid*": "tokens"}) as first:
        run(torch.ones(4, 2, 5)).sum().backward()
        first.step()
    with Probe(model, reduction=reductions) as second:
        second.load_state_dict(first.state_dict())
        fetch(second)  # too early
        run(torch.ones(4, 2, 5)).sum().backward()
        second.step()
        with pytest.warns(RuntimeWarning, match=r"\['stem\.\*'\] decide for none"):
            fetch(second)
