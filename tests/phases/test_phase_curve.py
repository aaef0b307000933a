from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfc_fast.phases import first_phase_end, smoothed_loss

FloatArray = npt.NDArray[np.float64]
CHANCE = math.log(10)


def plateau_then_fall(plateau: int = 600, steps: int = 1500, level: float = 2.3) -> FloatArray:
    """A noisy plateau, then a fall to about 0.05 within a hundred steps or so."""
    rng = np.random.default_rng(0)
    step = np.arange(steps)
    fall = 0.5 * (1 - np.tanh((step - plateau - 60) / 30))
    return 0.05 + (level - 0.05) * fall + 0.003 * rng.standard_normal(steps)


def plain_rule(loss: FloatArray, chance: float | None = None) -> int:
    """Step at which the loss average (decay 0.95) is 10 % under its running maximum."""
    average = loss[0]
    top = -math.inf
    for step, value in enumerate(loss):
        average = 0.95 * average + 0.05 * value if step else value
        top = max(top, average)
        if average < 0.9 * (top if chance is None else min(top, chance)):
            return step
    raise AssertionError("the loss never fell")


class TestSmoothedLoss:
    def test_is_the_exponential_average(self) -> None:
        assert smoothed_loss([4.0, 0.0, 0.0], decay=0.5).tolist() == [4.0, 2.0, 1.0]

    def test_without_decay_is_the_loss(self) -> None:
        assert smoothed_loss([4.0, 0.0, 1.0], decay=0.0).tolist() == [4.0, 0.0, 1.0]

    def test_carries_over_what_is_not_finite(self) -> None:
        loss = [4.0, math.nan, math.inf, 0.0, -math.inf]
        assert smoothed_loss(loss, decay=0.5).tolist() == [4.0, 4.0, 4.0, 2.0, 2.0]

    def test_starts_at_the_first_finite_loss(self) -> None:
        average = smoothed_loss([math.nan, 4.0, 0.0], decay=0.5)
        assert math.isnan(average[0])
        assert average[1:].tolist() == [4.0, 2.0]

    def test_of_nothing(self) -> None:
        assert smoothed_loss([]).shape == (0,)
        assert np.isnan(smoothed_loss([math.nan] * 3)).all()

    def test_rejects_bad_arguments(self) -> None:
        with pytest.raises(ValueError, match=r"decay: 1\.0 given"):
            smoothed_loss([1.0], decay=1.0)
        with pytest.raises(ValueError, match=r"loss: shape \(1, 2\) given"):
            smoothed_loss([[1.0, 2.0]])


class TestNormalCurves:
    @pytest.mark.parametrize("plateau", [0, 40, 100, 600])
    def test_agrees_with_the_plain_rule(self, plateau: int) -> None:
        loss = plateau_then_fall(plateau)
        assert first_phase_end(loss) == pytest.approx(plain_rule(loss), abs=2)
        capped = first_phase_end(loss, chance_loss=CHANCE)
        assert capped == pytest.approx(plain_rule(loss, CHANCE), abs=2)

    def test_immediate_fall(self) -> None:
        loss = 2.3 * np.exp(-np.arange(300) / 30)
        assert first_phase_end(loss) == plain_rule(loss) < 20

    @given(st.floats(1e-3, 1e3))
    def test_unit_of_the_loss_does_not_matter(self, scale: float) -> None:
        loss = plateau_then_fall(100, 300)
        assert first_phase_end(scale * loss) == first_phase_end(loss)

    @pytest.mark.parametrize("level", [2.3, 0.0, -1.0])
    def test_constant_never_ends(self, level: float) -> None:
        assert first_phase_end(np.full(1000, level)) is None

    def test_slow_decline_of_less_than_the_drop_never_ends(self) -> None:
        assert first_phase_end(np.linspace(2.3, 2.1, 1000)) is None

    def test_negative_losses_fall_too(self) -> None:
        end = first_phase_end(np.r_[np.full(200, -1.0), np.full(100, -2.0)])
        assert end == 202  # -1 - 0.05 * (1 + 0.95 + ...) is below -1.1 at the third lower loss

    def test_growing_loss_never_ends(self) -> None:
        assert first_phase_end(np.geomspace(2.3, 1e6, 500)) is None

    def test_larger_drop_ends_later(self) -> None:
        loss = plateau_then_fall()
        ends = [first_phase_end(loss, drop=drop) for drop in (0.1, 0.5, 0.9)]
        assert ends == sorted(ends, key=lambda end: end or 0)
        assert len(set(ends)) == 3


class TestDisturbances:
    @pytest.mark.parametrize("height", [10.0, 200.0])
    def test_spike_on_the_plateau_does_not_end_the_phase(self, height: float) -> None:
        loss = plateau_then_fall()
        end = first_phase_end(loss)
        loss[300] = height
        assert first_phase_end(loss) == pytest.approx(end, abs=5)

    def test_wide_spike_on_the_plateau_does_not_end_the_phase(self) -> None:
        loss = plateau_then_fall()
        end = first_phase_end(loss)
        loss[300:310] = 8.0
        assert first_phase_end(loss) == pytest.approx(end, abs=5)

    def test_dip_does_not_end_the_phase(self) -> None:
        loss = plateau_then_fall()
        end = first_phase_end(loss)
        loss[300:330] = 0.5
        assert first_phase_end(loss) == end

    def test_dip_counts_neither_in_a_long_run(self) -> None:
        loss = plateau_then_fall(steps=20_000)
        end = first_phase_end(loss)
        loss[300:330] = 0.5
        assert first_phase_end(loss) == end

    def test_dip_of_a_stuck_run(self) -> None:
        loss = np.full(1000, 2.3)
        loss[300:330] = 0.5
        assert first_phase_end(loss) is None

    def test_spike_after_the_end_does_not_undo_it(self) -> None:
        loss = plateau_then_fall()
        end = first_phase_end(loss)
        loss[1100:1150] = 5.0
        assert first_phase_end(loss) == end

    def test_coming_back_for_good_undoes_the_end(self) -> None:
        loss = plateau_then_fall()
        loss[1000:] = 2.3
        assert first_phase_end(loss) is None

    def test_nonfinite_losses_are_passed_over(self) -> None:
        loss = plateau_then_fall()
        end = first_phase_end(loss)
        loss[[0, 5, 100, 1499]] = [math.nan, math.inf, -math.inf, math.nan]
        assert first_phase_end(loss) == pytest.approx(end, abs=1)

    def test_nothing_finite_never_ends(self) -> None:
        assert first_phase_end([math.nan] * 5) is None
        assert first_phase_end([]) is None


class TestChanceLoss:
    def test_start_above_chance_ends_only_below_chance(self) -> None:
        step = np.arange(1500)
        loss = plateau_then_fall() + 5.0 * np.exp(-step / 20)
        without = first_phase_end(loss)
        assert without is not None
        assert without < 30
        assert first_phase_end(loss, chance_loss=CHANCE) == plain_rule(loss, CHANCE) > 600

    def test_chance_above_the_curve_changes_nothing(self) -> None:
        loss = plateau_then_fall()
        assert first_phase_end(loss, chance_loss=100.0) == first_phase_end(loss)

    def test_must_be_a_number(self) -> None:
        with pytest.raises(TypeError, match=r"^chance_loss: 'x' given, a number is wanted"):
            first_phase_end([1.0], chance_loss="x")  # type: ignore[arg-type]

    def test_must_be_finite(self) -> None:
        with pytest.raises(ValueError, match="chance_loss: nan given"):
            first_phase_end([1.0], chance_loss=math.nan)


class TestSteps:
    def test_are_what_is_returned(self) -> None:
        loss = plateau_then_fall()
        end = first_phase_end(loss)
        assert end is not None
        assert first_phase_end(loss, steps=10 * np.arange(1500) + 7) == 10 * end + 7

    @pytest.mark.parametrize(
        ("steps", "message"),
        [
            ([0, 1], r"steps: shape \(2,\) given, one step for each of the 3 losses"),
            ([0, 2, 2], "steps: 2 is followed by 2"),
            ([0.0, 1.0, 2.0], "steps: dtype float64 given, integers"),
        ],
    )
    def test_are_checked(self, steps: list[float], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            first_phase_end([1.0, 1.0, 1.0], steps=steps)

    def test_drop_is_checked(self) -> None:
        with pytest.raises(ValueError, match=r"drop: 1\.5 given"):
            first_phase_end([1.0], drop=1.5)
