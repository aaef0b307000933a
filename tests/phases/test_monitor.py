"""The phase monitor: on curves made for the purpose, and against the analysis of the whole run."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from tfc_fast.phases import PhaseMonitor, State, analyze, first_phase_end

STATES = ("healthy", "collapsing", "stuck", "recovered")


def feed(
    monitor: PhaseMonitor, losses: np.ndarray, between: np.ndarray | None = None
) -> list[tuple[int, State]]:
    for step, loss in enumerate(losses.tolist()):
        monitor.update(step, loss, None if between is None else float(between[step]))
    return [(change.step, change.state) for change in monitor.changes]


def noisy(rng: np.random.Generator, values: np.ndarray, size: float) -> np.ndarray:
    return values + size * rng.standard_normal(len(values))


def plateau_then_fall(length: int, rest: int) -> np.ndarray:
    return np.concatenate([np.full(length, 2.3), 2.3 * np.exp(-np.arange(rest) / 30)])


def test_a_run_that_learns_at_once_is_healthy(rng: np.random.Generator) -> None:
    losses = noisy(rng, plateau_then_fall(20, 1000), 0.02)
    between = noisy(rng, np.full(len(losses), 0.8), 0.02)
    assert feed(PhaseMonitor(), losses, between) == []


def test_a_collapse_is_told_while_it_goes_on_and_its_end_after_it(
    rng: np.random.Generator,
) -> None:
    losses = noisy(rng, plateau_then_fall(600, 400), 0.02)
    between = noisy(rng, np.interp(np.arange(1000), [0, 600, 700], [0.7, 0.9, 0.5]), 0.005)
    changes = feed(PhaseMonitor(), losses, between)
    assert [state for _, state in changes] == ["collapsing", "recovered"]
    assert 50 <= changes[0][0] < 250
    end = first_phase_end(losses)
    assert end is not None
    # The loss has to stay below its line for a while.
    assert changes[1][0] == pytest.approx(end + 19, abs=10)


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.1])
def test_a_run_without_progress_is_stuck(rng: np.random.Generator, noise: float) -> None:
    """As soon as patience is over, or, where noise passed for progress once or twice, later.

    At the largest noise that happens in 3 of 1000 runs, twice in 3 of 100,000.
    """
    known = []
    for _ in range(60):
        losses = noisy(rng, np.full(1000, 2.3), noise)
        between = noisy(rng, np.full(1000, 0.95), noise / 5)
        changes = feed(PhaseMonitor(patience=200, chance_loss=2.3), losses, between)
        assert [state for _, state in changes] == ["stuck"]
        known.append(changes[0][0])
    assert min(known) == 200
    assert known.count(200) > 52


def test_a_stuck_run_that_learns_after_all_has_recovered() -> None:
    changes = feed(PhaseMonitor(patience=200), plateau_then_fall(700, 300))
    assert [state for _, state in changes] == ["stuck", "recovered"]


def test_a_loss_that_falls_slowly_is_not_stuck() -> None:
    losses = 2.3 * np.exp(-np.arange(600) / 6000)  # 10 % in 600 steps
    assert feed(PhaseMonitor(patience=200), losses) == []


def test_a_collapse_without_end_becomes_stuck() -> None:
    between = np.minimum(0.7 + np.arange(1000) / 1000, 0.99)
    changes = feed(PhaseMonitor(patience=200), np.full(1000, 2.3), between)
    assert [state for _, state in changes] == ["collapsing", "stuck"]
    assert changes[1][0] >= 290 + 200


def test_a_rise_within_the_noise_is_none(rng: np.random.Generator) -> None:
    """Four standard errors, themselves estimated, are exceeded in 1 of 200 such runs."""
    alarms = 0
    for _ in range(60):
        between = noisy(rng, np.full(280, 0.5), 0.3)
        alarms += len(feed(PhaseMonitor(min_rise=0.01), np.full(280, 2.3), between))
    assert alarms < 8


def test_spikes_do_not_count(rng: np.random.Generator) -> None:
    losses = noisy(rng, plateau_then_fall(20, 1000), 0.02)
    losses[::97] += 50
    assert feed(PhaseMonitor(), losses) == []


def test_spikes_put_no_alarm_off_for_long(rng: np.random.Generator) -> None:
    """A spike lifts the average; that it comes down again is no progress beyond where it was."""
    losses = noisy(rng, np.full(600, 2.3), 0.01)
    losses[[60, 61, 150]] = [50.0, 40.0, 500.0]
    assert feed(PhaseMonitor(patience=200), losses) == [(200, "stuck")]


def test_a_slow_noisy_fall_with_spikes_is_not_stuck(rng: np.random.Generator) -> None:
    losses = noisy(rng, 2.3 * np.exp(-np.arange(600) / 6000), 0.02)
    losses[::150] += 5
    assert feed(PhaseMonitor(chance_loss=2.3), losses) == []


def test_losses_of_which_some_are_missing_are_stuck_all_the_same(rng: np.random.Generator) -> None:
    losses = noisy(rng, np.full(500, 2.3), 0.02)
    losses[rng.random(500) < 0.3] = math.nan
    between = noisy(rng, np.full(500, 0.9), 0.002)
    between[rng.random(500) < 0.3] = math.nan
    changes = feed(PhaseMonitor(patience=200), losses, between)
    assert [state for _, state in changes] == ["stuck"]
    assert 200 <= changes[0][0] < 500


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_losses_that_are_not_finite(bad: float) -> None:
    losses = plateau_then_fall(20, 1000)
    losses[::3] = bad
    assert feed(PhaseMonitor(), losses) == []
    assert feed(PhaseMonitor(patience=200), np.full(300, bad)) == [(200, "stuck")]


def test_a_constant_loss_of_zero_is_stuck() -> None:
    assert feed(PhaseMonitor(patience=100), np.zeros(200)) == [(100, "stuck")]


def test_chance_loss_lowers_the_plateau() -> None:
    """Large first logits: the loss falls to chance level at once, and there it stays."""
    losses = np.concatenate([np.linspace(10, 2.3, 50), np.full(500, 2.3)])
    assert feed(PhaseMonitor(), losses) == []
    changes = feed(PhaseMonitor(chance_loss=2.3, patience=200), losses)
    assert [state for _, state in changes] == ["stuck"]


def test_a_network_that_could_do_its_task_from_the_start_is_not_stuck(
    rng: np.random.Generator,
) -> None:
    """By the rule of `analyze`, which calls it "none"."""
    losses = noisy(rng, np.full(1000, 0.2), 0.01)
    between = noisy(rng, np.interp(np.arange(1000), [0, 400], [0.4, 0.9]), 0.005)
    assert feed(PhaseMonitor(chance_loss=2.3), losses, between) == []
    assert analyze(losses, None, chance_loss=2.3).verdict == "none"
    assert [state for _, state in feed(PhaseMonitor(), losses, between)] == ["collapsing", "stuck"]
    # Just below chance level is no such network.
    assert feed(PhaseMonitor(chance_loss=2.3), np.full(400, 2.1)) == [(300, "stuck")]


def test_one_that_forgets_its_task_is_stuck_when_it_has_been_at_chance_for_long() -> None:
    losses = np.concatenate([np.full(400, 0.2), np.full(700, 2.3)])
    monitor = PhaseMonitor(chance_loss=2.3)
    ((step, state),) = feed(monitor, losses)
    assert state == "stuck"
    # The average needs 45 steps to come up to 10 % below chance level.
    assert step == pytest.approx(400 + 45 + 300, abs=3)
    for end, verdict in ((step, "undecided"), (step + 1, "stuck")):
        assert analyze(losses[:end], None, chance_loss=2.3).verdict == verdict


def test_the_site_that_rose_most_is_named() -> None:
    monitor = PhaseMonitor()
    for step in range(200):
        monitor.update(step, 2.3, {"a": 0.5 + step / 2000, "b": 0.5 + step / 1000, "c": math.nan})
    (change,) = monitor.changes
    assert (change.state, change.site) == ("collapsing", "b")
    assert monitor.since == change.step


@pytest.mark.parametrize("every", [1, 10, 100])
def test_a_slow_fall_is_not_stuck_however_few_steps_are_recorded(every: int) -> None:
    monitor = PhaseMonitor()
    for step in range(0, 6000, every):
        assert monitor.update(step, 2.3 * (1 - 0.00015 * step)) == "healthy"


@pytest.mark.parametrize(("every", "known"), [(1, 300), (3, 300), (4, 400), (10, 1000)])
def test_a_stuck_run_is_known_after_enough_records(every: int, known: int) -> None:
    """A hundred of them, five times what the averages reach back."""
    monitor = PhaseMonitor()
    for step in range(0, 2000, every):
        monitor.update(step, 2.3)
    assert [(change.step, change.state) for change in monitor.changes] == [(known, "stuck")]
    steps = np.arange(0, known + 1, every)
    assert analyze(np.full(len(steps), 2.3), None, steps=steps).verdict == "stuck"
    assert analyze(np.full(len(steps) - 1, 2.3), None, steps=steps[:-1]).verdict == "undecided"


def test_going_on_from_a_state_is_going_on(rng: np.random.Generator) -> None:
    losses = noisy(rng, plateau_then_fall(600, 400), 0.02)
    losses[:50] = 0.5  # below chance level, where no alarm counts
    between = noisy(rng, np.interp(np.arange(1000), [0, 600, 700], [0.7, 0.9, 0.5]), 0.005)
    whole = PhaseMonitor(chance_loss=2.3)
    expected = feed(whole, losses, between)
    for cut in (0, 1, 10, 300, 999):
        first, second = PhaseMonitor(chance_loss=2.3), PhaseMonitor(chance_loss=2.3)
        feed(first, losses[:cut], between)
        # nan is no JSON, but what Python writes and reads
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        for step in range(cut, 1000):
            second.update(step, float(losses[step]), float(between[step]))
        assert [(change.step, change.state) for change in second.changes] == expected
        assert json.dumps(second.state_dict()) == json.dumps(whole.state_dict())


@pytest.mark.parametrize("state", [{}, {"loss": []}, {"loss": 3}])
def test_a_damaged_state_is_refused(state: dict[str, Any]) -> None:
    monitor = PhaseMonitor()
    feed(monitor, np.full(10, 2.3))
    with pytest.raises(ValueError, match=r"^state: not of a PhaseMonitor"):
        monitor.load_state_dict(state)
    monitor.update(10, 2.3)


@pytest.mark.parametrize(
    "arguments",
    [
        {"chance_loss": math.nan},
        {"decay": 1.0},
        {"drop": 0.0},
        {"min_rise": 0.0},
        {"min_phase": 0},
        {"patience": 0},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_arguments_out_of_range(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(arguments))}: "):
        PhaseMonitor(**arguments)  # type: ignore[arg-type]


def test_steps_go_forward() -> None:
    monitor = PhaseMonitor()
    assert monitor.since is None
    monitor.update(5, 2.3)
    assert (monitor.state, monitor.since) == ("healthy", 5)
    with pytest.raises(ValueError, match=r"^step: 5 given after 5"):
        monitor.update(5, 2.3)


def test_the_last_progress_is_told() -> None:
    monitor = PhaseMonitor()
    assert monitor.last_progress is None
    losses = np.concatenate([np.full(100, 2.3), np.full(100, 1.0), np.full(100, 2.3)])
    seen = []
    for step, loss in enumerate(losses.tolist()):
        monitor.update(step, loss)
        seen.append(monitor.last_progress)
    assert seen[99] == 0
    assert 150 < seen[-1] < 200  # the loss falls; that it rises again is no progress


def test_states_are_those_that_are_documented() -> None:
    assert all(f'`"{state}"`' in (PhaseMonitor.__doc__ or "") for state in STATES)
