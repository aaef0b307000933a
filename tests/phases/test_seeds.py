"""Intervals over seeds: against scipy's, on runs that did not end, and how often they are right."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from tfc_fast.phases import PhaseSummary, analyze, median_interval, over_seeds


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.99])
def test_is_scipys_interval_of_a_quantile(rng: np.random.Generator, confidence: float) -> None:
    for count in range(8, 60):
        values = rng.standard_normal(count)
        ours = median_interval(values, confidence=confidence)
        theirs = stats.quantile_test(values, p=0.5).confidence_interval(confidence)
        assert (ours.low, ours.high) == (theirs.low, theirs.high)
        assert ours.median == np.median(values)
        assert ours.coverage >= confidence


def test_coverage_is_what_it_says(rng: np.random.Generator) -> None:
    """Whatever the distribution: here one whose mean does not exist, with its median at 0."""
    for count in (3, 10, 21):
        runs = [median_interval(rng.standard_cauchy(count)) for _ in range(1000)]
        held = sum(run.low <= 0.0 <= run.high for run in runs) / 1000
        assert held == pytest.approx(
            runs[0].coverage, abs=6 * math.sqrt(runs[0].coverage * (1 - runs[0].coverage) / 1000)
        )


@pytest.mark.parametrize(("count", "coverage"), [(1, 0.0), (2, 0.5), (5, 0.9375), (6, 0.96875)])
def test_of_few_runs_the_widest_is_given_with_the_level_it_has(count: int, coverage: float) -> None:
    interval = median_interval(np.arange(count))
    assert (interval.low, interval.high) == (0, count - 1)
    assert interval.coverage == coverage


def test_of_no_runs_nothing_is_known() -> None:
    interval = median_interval([math.nan])
    assert interval.n_runs == 0
    assert all(math.isnan(x) for x in (interval.median, interval.low, interval.high))


def test_infinities_are_the_largest() -> None:
    interval = median_interval([math.inf, 1, 2, 3, math.inf, 4, 5, 6, 7])
    assert (interval.median, interval.high, interval.n_censored) == (5, math.inf, 2)
    assert median_interval([1, math.inf]).median == math.inf
    assert median_interval([math.inf] * 3).low == math.inf


@pytest.mark.parametrize("confidence", [0.0, 1.0, math.nan])
def test_arguments_are_checked(confidence: float) -> None:
    with pytest.raises(ValueError, match=rf"^confidence: {confidence} given"):
        median_interval([1.0], confidence=confidence)
    with pytest.raises(ValueError, match=r"^values: shape \(1, 1\) given"):
        median_interval([[1.0]])


def run(length: int | None, rise: float = math.nan) -> PhaseSummary:
    """A run of 800 steps from step 1 on, with a first phase of that length."""
    steps = np.arange(1, 801)
    loss = np.where(steps <= (800 if length is None else length), 2.3, 0.1)
    records = {
        "step": steps,
        "site": np.array(["a"] * 800, dtype=object),
        "feature_cos_between": 0.5 + rise * np.linspace(0, 1, 800),
        "grad_cos_within": np.full(800, math.nan),
    }
    return analyze(loss, records, chance_loss=2.3)


def test_runs_that_are_stuck_are_longer_than_any_other() -> None:
    runs = [run(length) for length in (300, 100, None, 200, 400, None, 500)]
    length = over_seeds(runs).length
    ends = sorted(each.first_phase_end or math.inf for each in runs)
    assert (length.low, length.median, length.high) == (ends[0] - 1, ends[3] - 1, math.inf)
    assert (length.n_runs, length.n_censored) == (7, 2)


def test_rises_are_those_that_were_measured() -> None:
    rise = over_seeds([run(None, 0.1), run(None, 0.3), run(None), run(None, 0.2)]).rise
    assert (rise.n_runs, rise.n_censored) == (3, 0)
    assert rise.low == pytest.approx(0.1, abs=0.01)
    assert rise.median == pytest.approx(0.2, abs=0.01)
    assert rise.high == pytest.approx(0.3, abs=0.01)


def test_steps_that_are_not_recorded_count() -> None:
    steps = np.arange(5001, 5801)
    loss = np.where(steps < 5101, 2.3, 0.1)
    known = analyze(loss, None, steps=steps, chance_loss=2.3)
    assert over_seeds([known]).length.median == known.phase_length == 5102
    unknown = analyze(loss, None, steps=steps)
    assert unknown.beginning_unknown
    assert over_seeds([unknown]).length.n_runs == 0


def test_of_many_runs(rng: np.random.Generator) -> None:
    found = median_interval(rng.permutation(5001))
    # 1.96 standard deviations of a binomial, sqrt(n) / 2 each
    assert found.high - found.median == pytest.approx(0.98 * math.sqrt(5001), abs=1.5)
    assert found.median == 2500
    assert 0.95 <= found.coverage < 0.953


def test_runs_without_a_first_phase_do_not_count() -> None:
    trained = analyze(np.full(400, 0.2), None, chance_loss=2.3)
    nothing = analyze([math.nan] * 400, None)
    assert over_seeds([trained, nothing, run(100)]).length.n_runs == 1
    assert over_seeds([]).length.n_runs == 0
