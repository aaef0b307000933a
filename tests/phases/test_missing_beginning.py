"""Runs whose first steps are not recorded, as in the history of a probe that has dropped them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.phases.test_phase_summary import loss_curve, records
from tests.training import train_steps
from tfc_fast import Probe
from tfc_fast.models import MLP
from tfc_fast.phases import analyze, describe
from tfc_fast.report.words import meaning

CHANCE = math.log(10)


def later(steps: int, rise: float, peak_at: int, by: int) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    found = records(steps, {"a": rise}, peak_at)
    found["step"] = found["step"] + by
    return found


def test_history_that_lost_its_beginning_is_undecided() -> None:
    x, y = torch.randn(40, 8), torch.arange(40) % 4
    model = MLP(8, 4, 3, 16)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Probe(model, num_classes=4, history_records=100) as probe:
        train_steps(model, optimizer, [(x, y)] * 400, probe)
        history = probe.history()
    site = history["site"] == history["site"][0]
    assert history["step"][0] > 300
    for chance in (None, math.log(4)):
        summary = analyze(history["loss"][site], history, chance_loss=chance)
        assert (summary.verdict, summary.beginning_unknown) == ("undecided", True)
        assert not summary.always_below_chance
        told = describe(summary)
        assert told.startswith(
            f"The beginning is missing: the first {summary.n_missing_steps} steps of the run are "
            "not recorded"
        )
        assert "history_records=None" in told
        assert "not recorded here" in meaning(summary)


def test_fall_of_a_loss_that_has_fallen_before_ends_no_first_phase() -> None:
    summary = analyze(0.3 * loss_curve(100, 800), later(800, 0.3, 90, by=5000), chance_loss=CHANCE)
    assert summary.verdict == "undecided"
    assert summary.first_phase_end is None


@pytest.mark.parametrize("by", [2, 5000])
def test_at_chance_level_it_was_still_in_the_first_phase(by: int) -> None:
    losses = loss_curve(400, 800)
    summary = analyze(losses, later(800, 0.3, 350, by), chance_loss=CHANCE)
    assert (summary.verdict, summary.beginning_unknown) == ("collapsed", False)
    assert summary.n_missing_steps == by - 1
    assert summary.phase_length == pytest.approx(415 + by, abs=10)
    assert f"the first phase lasted {summary.phase_length:,} steps" in describe(summary)


def test_rise_may_have_been_before() -> None:
    summary = analyze(loss_curve(400, 800), later(800, 0.01, 350, 5000), chance_loss=CHANCE)
    assert summary.verdict == "undecided"
    assert "what was before is not recorded" in describe(summary)
    assert analyze(loss_curve(400, 800), later(800, 0.01, 350, 1)).verdict == "none"


def test_short_rest_of_a_long_first_phase_is_no_short_phase() -> None:
    found = later(400, 0.3, 25, 5000)
    assert analyze(loss_curve(25, 400), found, chance_loss=CHANCE).verdict == "collapsed"


def test_stuck_at_chance_level() -> None:
    flat = np.full(400, 2.3)
    steps = 5000 + np.arange(400)
    assert analyze(flat, None, steps=steps, chance_loss=CHANCE).verdict == "stuck"
    assert analyze(flat, None, steps=steps).verdict == "undecided"


@pytest.mark.parametrize(
    "steps", [np.arange(400), 1 + np.arange(400), 1 + 7 * np.arange(400), 7 + 7 * np.arange(400)]
)
def test_thinned_steps_have_their_beginning(steps: np.ndarray) -> None:  # type: ignore[type-arg]
    summary = analyze(np.full(400, 2.3), None, steps=steps)
    assert (summary.verdict, summary.n_missing_steps) == ("stuck", 0)
