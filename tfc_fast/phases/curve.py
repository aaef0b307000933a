"""The loss curve: its exponential average and the end of the first phase."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import SupportsFloat

import numpy as np
import numpy.typing as npt

from tfc_fast.phases.thresholds import DECAY, DROP, HOLD_TIME_CONSTANTS

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


def smoothed_loss(loss: npt.ArrayLike, decay: float = DECAY) -> FloatArray:
    """Exponential average of the loss, started at its first finite value.

    `s[0] = loss[0]`, `s[t] = decay * s[t-1] + (1 - decay) * loss[t]`. A NaN or infinite loss leaves
    the average as it is; before the first finite loss the average is NaN.

    Args:
        loss: losses in step order, `[n]`.
        decay: weight of the past, in `[0, 1)`; 0.95 averages over about 20 steps.

    Returns:
        The average, float64 `[n]`.

    Raises:
        TypeError: if `loss` or `decay` are no numbers.
        ValueError: if `loss` is not one-dimensional or `decay` is outside `[0, 1)`.

    Example:
        >>> smoothed_loss([1.0, 0.0, float("nan"), 0.0], decay=0.5).tolist()
        [1.0, 0.5, 0.5, 0.25]
    """
    check_numbers(decay=decay)
    values = loss_vector(loss)
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"decay: {decay} given, at least 0 and below 1 is wanted")
    result = np.full(values.shape, np.nan)
    finite = np.isfinite(values)
    kept = values[finite].tolist()
    if not kept:
        return result
    averages = accumulate(kept, lambda past, now: decay * past + (1.0 - decay) * now)
    result[finite] = np.fromiter(averages, np.float64, len(kept))
    # every step takes the average of the latest finite loss at or before it
    latest = np.maximum.accumulate(np.where(finite, np.arange(values.size), -1))
    known = latest >= 0
    result[known] = result[latest[known]]
    return result


def first_phase_end(
    loss: npt.ArrayLike,
    *,
    steps: npt.ArrayLike | None = None,
    decay: float = DECAY,
    drop: float = DROP,
    chance_loss: float | None = None,
) -> int | None:
    """First step at which the smoothed loss lies below its plateau by `drop`, for good.

    With `s = smoothed_loss(loss, decay)`, the plateau at a step is the highest level that `s` has
    held so far: the start `s[0]`, or a level that `s` did not leave for `5 / (1 - decay)` steps (a
    running maximum that a spike cannot lift), and no more than `chance_loss`. The line lies
    at `plateau - drop * |plateau|`. The phase ends at the first step with `s` below the line from
    which on `s` stays there for good: it is below the line at the last step, and in every stretch
    of steps that begins here it is below the line for at least half of them. So a dip that is
    longer gone than it lasted does not end the phase, and a spike after it does not undo it.

    On a curve without spikes this is the step at which the loss average is 10 % under its plateau.

    Args:
        loss: losses in step order, `[n]`; NaN and infinite ones are passed over.
        steps: step of each loss, strictly increasing integers `[n]`; None counts from 0.
        decay: of the exponential average.
        drop: fraction of the plateau, in `(0, 1)`.
        chance_loss: loss of a network that knows only the class frequencies (`log(num_classes)` for
            cross-entropy and balanced classes). With it, a loss that starts above chance level, as
            with large first logits, leaves the first phase only once it is below chance by `drop`.

    Returns:
        The step, or None if the phase has not ended.

    Raises:
        TypeError: if losses or other arguments are no numbers.
        ValueError: on wrong shapes, steps out of order, or an argument out of range.

    Example:
        >>> first_phase_end([2.0] * 100 + [1.0] * 100)  # the average needs 4 steps to fall by 10 %
        104
        >>> first_phase_end([2.0] * 200) is None
        True
    """
    check_numbers(decay=decay, drop=drop, chance_loss=chance_loss)
    values = loss_vector(loss)
    numbers = step_vector(steps, values.size)
    if not 0.0 < drop < 1.0:
        raise ValueError(f"drop: {drop} given, above 0 and below 1 is wanted")
    if chance_loss is not None and not math.isfinite(chance_loss):
        raise ValueError(f"chance_loss: {chance_loss} given, a finite number or None is wanted")
    average = smoothed_loss(values, decay)
    first = int(np.isnan(average).sum())  # NaN only before the first finite loss
    average = average[first:]
    if average.size == 0:
        return None
    plateau = _plateau(average, math.ceil(HOLD_TIME_CONSTANTS / (1.0 - decay)))
    if chance_loss is not None:
        plateau = np.minimum(plateau, chance_loss)
    below = average < plateau - drop * np.abs(plateau)
    if not below[-1]:
        return None
    balance = np.cumsum(np.where(below, 1, -1))
    lowest_later = np.minimum.accumulate(balance[::-1])[::-1]
    before = balance - np.where(below, 1, -1)
    ends = np.flatnonzero(below & (lowest_later >= before))
    return int(numbers[first + ends[0]])  # the last step always qualifies


def loss_vector(loss: npt.ArrayLike) -> FloatArray:
    """The losses as float64 `[n]`; TypeError if they are no numbers, ValueError if not 1-D."""
    try:
        values = np.asarray(loss, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError) as error:  # the last: a tensor with a gradient
        raise TypeError(
            f"loss: a {type(loss).__name__} given, one number per step is wanted ({error})"
        ) from error
    if values.ndim != 1:
        raise ValueError(f"loss: shape {values.shape} given, one value per step is wanted")
    return values


def check_numbers(**values: object) -> None:
    """TypeError that names an argument which is no number; None passes."""
    for name, value in values.items():
        if value is not None and (isinstance(value, str) or not isinstance(value, SupportsFloat)):
            raise TypeError(f"{name}: {value!r} given, a number is wanted")


def step_vector(steps: npt.ArrayLike | None, size: int) -> IntArray:
    """The step of each loss as int64 `[n]`, counted from 0 when None; checked to be increasing."""
    if steps is None:
        return np.arange(size, dtype=np.int64)
    numbers = np.asarray(steps)
    if numbers.shape != (size,):
        raise ValueError(
            f"steps: shape {numbers.shape} given, one step for each of the {size} losses is wanted"
        )
    if size and numbers.dtype.kind not in "iu":
        raise ValueError(f"steps: dtype {numbers.dtype} given, integers are wanted")
    numbers = numbers.astype(np.int64)
    bad = np.flatnonzero(np.diff(numbers) <= 0)
    if bad.size:
        at = int(bad[0])
        raise ValueError(
            f"steps: {numbers[at]} is followed by {numbers[at + 1]}, each has to be larger; "
            "sort the losses by step and keep one loss per step"
        )
    return numbers


def _plateau(average: FloatArray, hold: int) -> FloatArray:
    """Highest level held so far: the start, or the minimum over some `hold` consecutive steps."""
    held = np.full(average.shape, average[0])
    if average.size >= hold:
        lowest = average
        width = 1
        while width < hold:  # sliding minimum: the width doubles until it is `hold`
            shift = min(width, hold - width)
            lowest = np.minimum(lowest[shift:], lowest[:-shift])
            width += shift
        held[hold - 1 :] = np.maximum(lowest, average[0])
    return np.maximum.accumulate(held)
