"""Several runs that differ in their seed: the median, and how surely it is known."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tfc_fast.phases.summary import PhaseSummary


@dataclass(frozen=True)
class MedianInterval:
    """The median of a quantity over seeds, with its confidence interval; NaN of no runs.

    Attributes:
        median: of the runs; infinite if half of them or more were not over.
        low: lower end of the interval.
        high: upper end of the interval; infinite if the runs do not bound it.
        coverage: least probability with which such an interval holds the true median. With less
            than 6 runs even the widest interval falls short of 0.95, and this says by how much.
        n_runs: runs that count.
        n_censored: runs among them that were not over: their value is infinite.
    """

    median: float
    low: float
    high: float
    coverage: float
    n_runs: int
    n_censored: int


@dataclass(frozen=True)
class SeedSummary:
    """Result of `over_seeds`.

    Attributes:
        length: of the first phase, in steps. A run that did not end it is censored, not left out.
        rise: largest rise of the between-class feature similarity of each run.
    """

    length: MedianInterval
    rise: MedianInterval


def over_seeds(summaries: Iterable[PhaseSummary], *, confidence: float = 0.95) -> SeedSummary:
    """Length of the first phase and rise of the similarity over runs that differ in their seed.

    A run whose first phase did not end is longer than any number: it enters `length` as infinity,
    as the order of the runs is all that `median_interval` asks for. That holds if such runs were
    watched longer than those that ended theirs. Left out are, of `length`, runs without finite
    loss, those whose beginning is not known, and those below chance level from the start, which
    have no first phase; of `rise`, runs in which it was not measured.

    Args:
        summaries: one per run, from `analyze`.
        confidence: level wanted of the intervals, in `(0, 1)`.

    Returns:
        Both intervals.

    Raises:
        ValueError: `confidence` is out of range.

    Example:
        >>> from tfc_fast.phases import analyze
        >>> runs = [analyze([2.3] * n + [0.1] * 99, None) for n in (100, 120, 130, 140, 150, 900)]
        >>> over_seeds(runs).length
        MedianInterval(median=137.0, low=102.0, high=902.0, coverage=0.96875, n_runs=6,
                       n_censored=0)
    """
    runs = list(summaries)
    lengths = [_length(run) for run in runs]
    rises = [_largest_rise(run) for run in runs]
    return SeedSummary(
        length=median_interval(lengths, confidence=confidence),
        rise=median_interval(rises, confidence=confidence),
    )


def median_interval(values: npt.ArrayLike, *, confidence: float = 0.95) -> MedianInterval:
    """The median of independent values and its interval between two of them, `[x_(k), x_(n+1-k)]`.

    Whatever the distribution, the interval misses the true median with probability at most
    `2 P(B < k)`, B binomial with n trials of 1/2. k is the largest for which that is at most
    `1 - confidence`, and 1 if there is none.

    Args:
        values: `[n]`; infinity for a value that is known to be larger than the others, NaN for one
            that is to be left out.
        confidence: level wanted, in `(0, 1)`.

    Returns:
        The interval, with the level it has.

    Raises:
        ValueError: `values` is not one-dimensional, or `confidence` is out of range.

    Source:
        W. R. Thompson, On confidence ranges for the median, Annals of Mathematical Statistics 7
        (1936).

    Example:
        >>> median_interval([3, 1, 2, 5, 4, float("inf"), 6])
        MedianInterval(median=4.0, low=1.0, high=inf, coverage=0.984375, n_runs=7, n_censored=1)
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence: {confidence} given, above 0 and below 1 is wanted")
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1:
        raise ValueError(f"values: shape {given.shape} given, one value per run is wanted")
    ordered = np.sort(given[~np.isnan(given)]).tolist()
    count = len(ordered)
    if count == 0:
        return MedianInterval(math.nan, math.nan, math.nan, math.nan, 0, 0)
    # in units of 2^-n, exact: twice the probability to have fewer than k values below the median
    missed, rank = 2, 1
    while (missed + 2 * math.comb(count, rank)) / 2**count <= 1.0 - confidence:
        missed += 2 * math.comb(count, rank)
        rank += 1
    middle = (ordered[(count - 1) // 2], ordered[count // 2])
    return MedianInterval(
        median=(middle[0] + middle[1]) / 2,
        low=ordered[rank - 1],
        high=ordered[count - rank],
        coverage=1.0 - missed / 2**count,
        n_runs=count,
        n_censored=sum(math.isinf(value) for value in ordered),
    )


def _length(run: PhaseSummary) -> float:
    if run.always_below_chance or run.beginning_unknown or run.last_step is None:
        return math.nan
    return math.inf if run.phase_length is None else float(run.phase_length)


def _largest_rise(run: PhaseSummary) -> float:
    rises = [site.feature_between.rise for site in run.sites]
    return max((rise for rise in rises if not math.isnan(rise)), default=math.nan)
