"""Whether a similarity rises by more than chance explains: a test that knows autocorrelation."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

BLOCKS = 40
"""Blocks into which a series is averaged before the test."""

FEWEST_BLOCKS = 10
"""Of fewer values the normal approximation of the test says nothing."""

_MOST_CORRELATION = 0.98


def rise_p_value(values: npt.ArrayLike) -> float:
    """Probability that a series without trend would rise as this one does, or more.

    The one-sided Mann-Kendall test with the correction of Hamed and Rao, on the means of 40 blocks
    `y_1 ... y_n` of consecutive values (on the values themselves if they are fewer than 80):

        S = sum_{i<j} sign(y_j - y_i),   V = n (n - 1) (2n + 5) / 18 - (the same sum over ties),
        c = 1 + 2 sum_k (n-k)(n-k-1)(n-k-2) r^k / (n (n-1) (n-2)),
        p = 1 - Phi((S - sign S) / sqrt(c V)).

    r is the lag-1 correlation of the ranks of y less its Theil-Sen line, freed from the bias that a
    fitted line brings: `r = (n r_1 + 2) / (n - 4)`, at most 0.98. c is at least 1. Hamed and Rao
    take each r_k as it is measured; in 40 values that leaves 10 % of the series without trend below
    p = 0.05 where the correlation of neighbouring values is 0.9, and one r for all does not.

    Args:
        values: in step order, `[n]`; NaN and infinite ones are left out.

    Returns:
        p; NaN of fewer than 10 finite values.

    Raises:
        ValueError: if `values` is not one-dimensional.

    Sources:
        H. B. Mann, Nonparametric tests against trend, Econometrica 13 (1945). K. H. Hamed and A. R.
        Rao, A modified Mann-Kendall trend test for autocorrelated data, Journal of Hydrology 204
        (1998). K. H. Hamed, Enhancing the effectiveness of prewhitening in trend analysis of
        hydrologic data, Journal of Hydrology 368 (2009), of the bias.

    Example:
        >>> noise = np.random.default_rng(0).standard_normal(500)
        >>> rise_p_value(noise) > 0.05, rise_p_value(noise + np.arange(500) / 250) < 1e-6
        (True, True)
    """
    series = np.asarray(values, dtype=np.float64)
    if series.ndim != 1:
        raise ValueError(f"values: shape {series.shape} given, one value per record is wanted")
    means = _block_means(series[np.isfinite(series)])
    count = means.size
    if count < FEWEST_BLOCKS:
        return math.nan
    rows, columns = np.triu_indices(count, 1)
    differences = means[columns] - means[rows]
    score = float(np.sign(differences).sum())
    _, ties = np.unique(means, return_counts=True)
    variance = (_pairs_variance(np.array([count])) - _pairs_variance(ties).sum()).item()
    if variance == 0.0:  # constant
        return 1.0
    slope = float(np.median(differences / (columns - rows)))
    variance *= _correction(means - slope * np.arange(count))
    score -= np.sign(score)
    return 0.5 * math.erfc(score / math.sqrt(2.0 * variance))


def _block_means(values: FloatArray) -> FloatArray:
    length = values.size // BLOCKS
    if length < 2:
        return values
    # what is left over goes off the beginning
    means: FloatArray = values[values.size - BLOCKS * length :].reshape(BLOCKS, length).mean(axis=1)
    return means


def _pairs_variance(count: npt.NDArray[np.int64]) -> FloatArray:
    n = count.astype(np.float64)
    return n * (n - 1) * (2 * n + 5) / 18


def _correction(detrended: FloatArray) -> float:
    """By how much autocorrelation of the ranks enlarges the variance of the score; at least 1."""
    n = detrended.size
    ranks = _ranks(detrended)
    ranks -= ranks.mean()
    square = float(ranks @ ranks)
    if square == 0.0:
        return 1.0
    correlation = (n * float(ranks[1:] @ ranks[:-1]) / square + 2) / (n - 4)
    correlation = min(max(correlation, 0.0), _MOST_CORRELATION)
    lags = np.arange(1, n - 2)
    weights = (n - lags) * (n - lags - 1) * (n - lags - 2)
    total = 2.0 * float(weights @ correlation**lags) / (n * (n - 1) * (n - 2))
    return 1.0 + total


def _ranks(values: FloatArray) -> FloatArray:
    """Ranks, ties sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    shared: FloatArray = (ends - (counts - 1) / 2)[inverse]
    return shared
