"""The change point of the loss: where it leaves its plateau, and how surely that is known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from tfc_fast.phases.curve import FloatArray, first_phase_end, loss_vector, step_vector
from tfc_fast.phases.thresholds import DECAY, DROP, WINDOW

# A loss counts as a spike when it is that many standard deviations off its running median, ...
_SPIKE = 6.0
# ... which are taken as no less than this part of the level: a smooth curve has spikes, too.
_LEAST_NOISE = 1e-3
# Losses on either side of a change point: fewer do not make a line. Before it also this part of all
# of them: the sums below are differences, and too exact a one is rounding.
_FEWEST = 3
_LEAST_PART = 1e-3


@dataclass(frozen=True)
class ChangePoint:
    """Where the loss leaves its plateau.

    Attributes:
        step: the step of the best fit.
        low: first step of the confidence interval.
        high: last step of the confidence interval.
        confidence: level of the interval.
    """

    step: int
    low: int
    high: int
    confidence: float


def loss_change_point(
    loss: npt.ArrayLike,
    *,
    steps: npt.ArrayLike | None = None,
    decay: float = DECAY,
    drop: float = DROP,
    chance_loss: float | None = None,
    confidence: float = 0.95,
) -> ChangePoint | None:
    """The step at which the loss bends down at the end of its first phase.

    A broken line, `a + b t + c max(t - tau, 0)` with `c < 0`, is fitted by least squares to the
    losses up to `first_phase_end`, with every recorded step for `tau`. Losses more than six
    standard deviations (from the median absolute deviation) off their running median are put on it.

    The interval is that of the profile likelihood: all `tau` with
    `m log(RSS(tau) / RSS(best)) <= z^2`, z the normal quantile of `confidence`. With lag-1
    correlation `r >= 0` of the residuals, n losses are worth `m = n (1 - r) / (1 + r)`. There is a
    change point if the broken line is better than a straight one by Schwarz's criterion,
    `m log(RSS(straight) / RSS(best)) > 2 log m`.

    `first_phase_end` tells when the fall is beyond doubt; this tells when it began. Where the fall
    sets in gradually, `step` is the corner of the broken line that comes closest to it, and the
    interval is one for that corner.

    Args:
        loss: see `first_phase_end`.
        steps: see `first_phase_end`.
        decay: see `first_phase_end`.
        drop: see `first_phase_end`.
        chance_loss: see `first_phase_end`.
        confidence: level of the interval, in `(0, 1)`.

    Returns:
        The change point, or None: the first phase has not ended, or the loss fell without a bend.

    Raises:
        ValueError: as `first_phase_end`, or `confidence` is out of range.

    Sources:
        P. I. Feder, On asymptotic distribution theory in segmented regression problems, Annals of
        Statistics 3 (1975). G. Schwarz, Estimating the dimension of a model, Annals of Statistics 6
        (1978).

    Example:
        >>> import numpy as np
        >>> noise = 0.01 * np.random.default_rng(0).standard_normal(400)
        >>> loss_change_point(2.3 - 0.005 * np.maximum(np.arange(400) - 200, 0) + noise)
        ChangePoint(step=200, low=199, high=201, confidence=0.95)
    """
    values = loss_vector(loss)
    numbers = step_vector(steps, values.size)
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence: {confidence} given, above 0 and below 1 is wanted")
    end = first_phase_end(values, steps=numbers, decay=decay, drop=drop, chance_loss=chance_loss)
    if end is None:
        return None
    used = np.isfinite(values) & (numbers <= end)
    numbers = numbers[used]
    if numbers.size < 2 * _FEWEST:
        return None
    time = (numbers - numbers[0]) / (numbers[-1] - numbers[0])
    despiked = without_spikes(values[used])
    straight, broken = residual_sums(time, despiked)
    best = int(np.argmin(broken))
    least = float(broken[best])
    # what a line leaves of a curve that is one is rounding
    rounding = 1e-20 * float(despiked @ despiked)
    if straight - least <= rounding:
        return None
    least = max(least, rounding)
    worth = _worth(_residuals(time, despiked, best))
    if worth * math.log(straight / least) <= 2.0 * math.log(worth):
        return None
    quantile = NormalDist().inv_cdf((1.0 + confidence) / 2.0)
    # log(RSS / least) <= z^2 / m, in a form that knows infinities
    likely = np.flatnonzero(broken <= least * math.exp(quantile**2 / worth))
    return ChangePoint(
        step=int(numbers[best]),
        low=int(numbers[likely[0]]),
        high=int(numbers[likely[-1]]),
        confidence=confidence,
    )


def without_spikes(values: FloatArray) -> FloatArray:
    """The values, with those far off their running median over `WINDOW` values put on it."""
    padded = np.pad(values, WINDOW // 2, mode="edge")
    median = np.median(np.lib.stride_tricks.sliding_window_view(padded, WINDOW), axis=1)
    off = np.abs(values - median)
    deviation = max(1.4826 * float(np.median(off)), _LEAST_NOISE * abs(float(np.median(values))))
    return np.where(off > _SPIKE * deviation, median, values)


def residual_sums(time: FloatArray, values: FloatArray) -> tuple[float, FloatArray]:
    """Residual sums of squares of the straight line, and of the line broken at each time.

    Args:
        time: increasing, from 0 to 1, `[n]`.
        values: `[n]`.

    Returns:
        The one sum, and `[n]`; infinite where the broken line does not bend down, and close to
        either end.
    """
    count = time.size
    centred = time - time.mean()
    spread = float(centred @ centred)
    rest = values - values.mean()
    rest = rest - centred * (centred @ rest) / spread
    straight = float(rest @ rest)

    # h = max(t - tau, 0) by sums over all later values, with what the straight line takes of it
    def later(terms: FloatArray) -> FloatArray:
        sums: FloatArray = np.cumsum(terms[::-1])[::-1]
        return sums

    ones = later(np.ones(count))
    times = later(time)
    h_sum = times - time * ones
    h_centred = later(time * centred) - time * later(centred)
    h_square = later(time * time) - 2 * time * times + time * time * ones
    h_rest = later(time * rest) - time * later(rest)
    unexplained = h_square - h_sum**2 / count - h_centred**2 / spread
    possible = h_rest < 0
    possible[: max(_FEWEST, int(_LEAST_PART * count))] = possible[-_FEWEST:] = False
    broken = np.full(count, np.inf)
    np.divide(h_rest**2, unexplained, out=broken, where=possible)
    return straight, np.where(possible, np.maximum(straight - broken, 0.0), np.inf)


def _residuals(time: FloatArray, values: FloatArray, at: int) -> FloatArray:
    design = np.stack([np.ones(time.size), time, np.maximum(time - time[at], 0.0)], axis=1)
    fitted: FloatArray = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return values - fitted


def _worth(residuals: FloatArray) -> float:
    """How many independent values these are worth, at least 2."""
    square = float(residuals @ residuals)
    lag = float(residuals[1:] @ residuals[:-1]) / square if square > 0.0 else 0.0
    lag = max(lag, 0.0)
    return max(residuals.size * (1.0 - lag) / (1.0 + lag), 2.0)
