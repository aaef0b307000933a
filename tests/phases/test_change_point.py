"""The change point of the loss: against a search by hand, and on curves whose corner is known."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from tfc_fast.phases import analyze, loss_change_point
from tfc_fast.phases.change_point import residual_sums

FloatArray = npt.NDArray[np.float64]


def autocorrelated(rng: np.random.Generator, count: int, correlation: float) -> FloatArray:
    """Noise of variance 1 in which each value keeps that part of the one before."""
    values = rng.standard_normal(count)
    for index in range(1, count):
        fresh = math.sqrt(1 - correlation**2) * values[index]
        values[index] = correlation * values[index - 1] + fresh
    return values


def broken_line(corner: int, steps: int = 800, slope: float = 0.005) -> FloatArray:
    return 2.3 - slope * np.maximum(np.arange(steps) - corner, 0.0)


@pytest.mark.parametrize("bend", [-1, 1])
def test_residual_sums_are_those_of_least_squares(rng: np.random.Generator, bend: int) -> None:
    time = np.sort(rng.random(60))
    time = (time - time[0]) / (time[-1] - time[0])
    values = 2.3 + bend * np.maximum(time - 0.6, 0) + 0.1 * rng.standard_normal(60)
    straight, broken = residual_sums(time, values)

    def least_squares(*columns: FloatArray) -> tuple[float, FloatArray]:
        design = np.stack([np.ones(60), time, *columns], 1)
        solution = np.linalg.lstsq(design, values, rcond=None)[0]
        return float(np.sum((values - design @ solution) ** 2)), solution

    assert straight == pytest.approx(least_squares()[0])
    for index in range(3, 57):
        expected, solution = least_squares(np.maximum(time - time[index], 0))
        if solution[2] < 0:
            assert broken[index] == pytest.approx(expected)
        else:
            assert broken[index] == math.inf
    assert np.isinf(broken[[0, 1, 2, 57, 58, 59]]).all()


@pytest.mark.parametrize("corner", [100, 400])
def test_a_corner_without_noise_is_found_exactly(corner: int) -> None:
    found = loss_change_point(broken_line(corner))
    assert found is not None
    assert found.step == corner
    assert corner - 1 <= found.low <= corner <= found.high <= corner + 1


@pytest.mark.parametrize("correlation", [0.0, 0.5])
def test_the_interval_holds_the_corner_as_often_as_it_says(
    rng: np.random.Generator, correlation: float
) -> None:
    """95 % of 150 runs are 142; fewer than 120 or all at level 0.5 are left to a wrong interval."""
    held, half = 0, 0
    for _ in range(150):
        loss = broken_line(400) + 0.05 * autocorrelated(rng, 800, correlation)
        wide = loss_change_point(loss, chance_loss=2.3)
        narrow = loss_change_point(loss, chance_loss=2.3, confidence=0.5)
        assert wide is not None
        assert narrow is not None
        assert wide.low <= narrow.low <= narrow.step == wide.step <= narrow.high <= wide.high
        held += wide.low <= 400 <= wide.high
        half += narrow.low <= 400 <= narrow.high
    assert held >= 120
    assert 40 <= half <= 115


def test_it_is_given_as_one_of_the_steps(rng: np.random.Generator) -> None:
    loss = broken_line(400) + 0.01 * rng.standard_normal(800)
    at, thinned = loss_change_point(loss), loss_change_point(loss, steps=7 + 10 * np.arange(800))
    assert at is not None
    assert thinned is not None
    assert (thinned.step, thinned.low, thinned.high) == (
        7 + 10 * at.step,
        7 + 10 * at.low,
        7 + 10 * at.high,
    )


def test_spikes_and_missing_losses_do_not_move_it(rng: np.random.Generator) -> None:
    loss = broken_line(400) + 0.01 * rng.standard_normal(800)
    expected = loss_change_point(loss)
    loss[[50, 51, 200, 390, 420]] = [50.0, 20.0, 0.1, 9.0, 1e6]
    loss[[0, 60, 300, 395]] = [math.nan, math.inf, -math.inf, math.nan]
    found = loss_change_point(loss, chance_loss=2.3)
    assert expected is not None
    assert found is not None
    assert found.step == pytest.approx(expected.step, abs=5)
    assert found.high - found.low < 40


def test_it_comes_before_the_end_of_the_first_phase(rng: np.random.Generator) -> None:
    """A fall that grows out of the plateau without a corner, as that of a network does."""
    loss = 2.3 / (1 + np.exp((np.arange(1500) - 800) / 40)) + 0.01 * rng.standard_normal(1500)
    summary = analyze(loss, None)
    assert summary.change_point is not None
    assert summary.first_phase_end is not None
    assert 590 < summary.change_point.low <= summary.change_point.high < summary.first_phase_end


@pytest.mark.parametrize(
    "loss",
    [
        [],
        [2.3],
        [math.nan] * 50,
        [2.3] * 500,
        [0.0] * 500,
        [2.3, 0.1],
        np.linspace(2.3, 0.1, 500),
    ],
    ids=["nothing", "one", "nan", "constant", "zero", "two", "straight"],
)
def test_without_a_bend_there_is_none(loss: npt.ArrayLike) -> None:
    assert loss_change_point(loss) is None
    assert analyze(loss, None).change_point is None


def test_a_straight_fall_in_noise_has_none(rng: np.random.Generator) -> None:
    """Schwarz's criterion lets noise pass for a bend now and then."""
    line = np.linspace(2.3, 1.0, 300)
    found = [loss_change_point(line + 0.1 * rng.standard_normal(300)) for _ in range(60)]
    assert sum(change is not None for change in found) <= 15


def test_a_step_down_is_its_own_change_point() -> None:
    found = loss_change_point([2.3] * 300 + [0.5] * 300)
    assert found is not None
    assert found.step == pytest.approx(299, abs=2)


@pytest.mark.parametrize("confidence", [0.0, 1.0, math.nan])
def test_confidence_is_checked(confidence: float) -> None:
    with pytest.raises(ValueError, match=rf"^confidence: {confidence} given"):
        loss_change_point([2.3] * 10, confidence=confidence)
