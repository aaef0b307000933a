"""Events against records that are made for them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tfc_fast.phases import Event, EventDetector, PhaseMonitor
from tfc_fast.records import Records, concatenate, empty, validate


def records(
    first: int,
    losses: list[float],
    between: dict[str, list[float]] | None = None,
    dead: dict[str, list[float]] | None = None,
    nonfinite: dict[str, list[int]] | None = None,
) -> Records:
    """Steps from `first` on; sites as named, "a" if none is."""
    given = {"feature_cos_between": between, "dead_window_frac": dead, "n_nonfinite": nonfinite}
    sites = sorted({site for values in given.values() for site in values or {}}) or ["a"]
    rows = len(losses) * len(sites)
    out = {
        name: np.zeros(rows, np.int64) if name.startswith("n_") else np.full(rows, math.nan)
        for name in empty()
    }
    out["step"] = np.repeat(np.arange(first, first + len(losses)), len(sites))
    out["site"] = np.array(sites * len(losses), object)
    out["loss"] = np.repeat(np.array(losses, float), len(sites))
    for name, values in given.items():
        for site, series in (values or {}).items():
            out[name][out["site"] == site] = series
    validate(out)
    return out


def told(events: list[Event]) -> list[tuple[str, int, str | None]]:
    return [(event.kind, event.step, event.site) for event in events]


def collapse_and_recovery(rng: np.random.Generator) -> Records:
    plateau = 2.3 + 0.002 * rng.standard_normal(300)
    fall = np.linspace(2.3, 0.5, 100)
    rise = np.concatenate([np.linspace(0.3, 0.6, 300), np.full(100, 0.2)])
    noise = 0.002 * rng.standard_normal((2, 400))
    losses = [float(loss) for loss in np.concatenate([plateau, fall])]
    return records(1, losses, {"a": list(0.3 + noise[0]), "b": list(rise + noise[1])})


def test_collapse_and_recovery(rng: np.random.Generator) -> None:
    history = collapse_and_recovery(rng)
    events = EventDetector().update(history)
    assert [event.kind for event in events] == ["collapse", "recovered"]
    collapse, recovered = events
    assert collapse.site == "b"
    assert 50 <= collapse.step < 300 < recovered.step <= 400
    at = (history["step"] == collapse.step) & (history["site"] == "b")
    assert collapse.value == history["feature_cos_between"][at]
    assert recovered.site is None
    assert recovered.value == history["loss"][history["step"] == recovered.step][0]


def test_what_is_found_does_not_depend_on_how_records_come(rng: np.random.Generator) -> None:
    history = collapse_and_recovery(rng)
    whole = EventDetector().update(history)
    parts = EventDetector()
    found: list[Event] = []
    for steps in np.split(np.arange(1, 401), sorted(rng.choice(np.arange(1, 400), 7, False))):
        rows = np.isin(history["step"], steps)
        found += parts.update({name: column[rows] for name, column in history.items()})
    assert found == whole
    assert len(found) == 2


def test_goes_on_from_a_state(rng: np.random.Generator) -> None:
    history = collapse_and_recovery(rng)
    bad = records(401, [0.5] * 4, nonfinite={"a": [0, 3, 3, 0]}, dead={"a": [0.9] * 4})
    history = concatenate([history, bad])
    whole = EventDetector().update(history)
    for cut in (1, 49, 150, 402, 403):
        first, second = EventDetector(), EventDetector()
        early = history["step"] <= cut
        found = first.update({name: column[early] for name, column in history.items()})
        second.load_state_dict(first.state_dict())
        found += second.update({name: column[~early] for name, column in history.items()})
        assert found == whole, cut


def test_stuck() -> None:
    detector = EventDetector(PhaseMonitor(patience=120))
    events = detector.update(records(1, [2.3] * 200, {"a": [0.5] * 200}))
    assert told(events) == [("stuck", 121, None)]
    assert events[0].value == 2.3


def test_without_losses_there_are_no_phases_and_no_missing_loss() -> None:
    detector = EventDetector(PhaseMonitor(patience=50))
    assert detector.update(records(1, [math.nan] * 200, {"a": [0.5] * 200})) == []


def test_losses_that_are_not_finite() -> None:
    losses = [math.nan, 1.0, math.nan, math.inf, 1.0, -math.inf]
    events = EventDetector().update(records(1, losses))
    assert told(events) == [("nonfinite", 3, None), ("nonfinite", 6, None)]
    assert str(events[1]) == "step 6: loss -inf"


def test_rows_that_are_not_finite_are_told_once_per_spell() -> None:
    counts = {"a": [0, 2, 2, 0, 1], "b": [1, 1, 0, 0, 0]}
    events = EventDetector().update(records(7, [1.0] * 5, nonfinite=counts))
    assert told(events) == [("nonfinite", 7, "b"), ("nonfinite", 8, "a"), ("nonfinite", 11, "a")]
    assert [event.value for event in events] == [1, 2, 1]
    assert str(events[1]) == "step 8: 2 rows at a hold NaN or Inf"


def test_dead_units_after_a_window_and_once() -> None:
    shares = [0.9, 0.9, 0.9, 0.9, 0.4, 0.5, math.nan, 0.6]
    events = EventDetector(window=3).update(records(1, [1.0] * 8, dead={"a": shares}))
    assert told(events) == [("dead_units", step, "a") for step in (3, 6, 8)]
    assert str(events[0]) == "step 3: 90% of the units at a are dead"
    strict = EventDetector(window=3, dead_units=0.91)
    assert strict.update(records(1, [1.0] * 8, dead={"a": shares})) == []


def test_steps_must_go_forward() -> None:
    detector = EventDetector()
    detector.update(records(5, [1.0] * 3))
    with pytest.raises(ValueError, match="step"):
        detector.update(records(6, [1.0]))


@pytest.mark.parametrize(
    ("argument", "value"), [("dead_units", 0.0), ("dead_units", 1.1), ("window", 0)]
)
def test_wrong_arguments(argument: str, value: float) -> None:
    with pytest.raises(ValueError, match=argument):
        EventDetector(**{argument: value})


@pytest.mark.parametrize("state", [{}, {"first_step": 1}, None])
def test_a_damaged_state_is_refused_and_changes_nothing(state: object) -> None:
    detector = EventDetector()
    detector.update(records(1, [1.0] * 3))
    before = detector.state_dict()
    with pytest.raises(ValueError, match="state"):
        detector.load_state_dict(state)  # type: ignore[arg-type]
    assert detector.state_dict() == before
