"""The significance of a rise: against the test by hand and scipy's, and on noise without one."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from tfc_fast.phases import rise_p_value, site_phases

FloatArray = npt.NDArray[np.float64]


def mann_kendall(values: list[float]) -> float:
    """The test as it is written down, pair by pair, without blocks."""
    n = len(values)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    score = sum(np.sign(values[j] - values[i]) for i, j in pairs)
    ties = [values.count(value) for value in set(values)]
    variance = (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18
    slope = np.median([(values[j] - values[i]) / (j - i) for i, j in pairs])
    ranks = stats.rankdata([value - slope * i for i, value in enumerate(values)])
    ranks -= ranks.mean()
    lag_one = sum(ranks[1:] * ranks[:-1]) / sum(ranks**2)
    lag_one = min(max((n * lag_one + 2) / (n - 4), 0), 0.98)
    correction = 1.0
    for lag in range(1, n - 2):
        weight = (n - lag) * (n - lag - 1) * (n - lag - 2) / (n * (n - 1) * (n - 2))
        correction += 2 * weight * lag_one**lag
    z = (score - np.sign(score)) / math.sqrt(variance * correction)
    return float(stats.norm.sf(z))


@pytest.mark.parametrize("count", [10, 39, 79])
@pytest.mark.parametrize("decimals", [1, 8])
def test_is_the_test_by_hand(rng: np.random.Generator, count: int, decimals: int) -> None:
    walk = np.cumsum(rng.standard_normal(count)) / 5
    for values in (rng.standard_normal(count), walk, np.arange(count) / count + walk):
        rounded = np.round(values, decimals)  # with ties and without
        assert rise_p_value(rounded) == pytest.approx(mann_kendall(rounded.tolist()), rel=1e-9)


def test_long_series_are_tested_by_the_means_of_forty_blocks(rng: np.random.Generator) -> None:
    values = rng.standard_normal(1234) + np.arange(1234) / 1000
    means = values[1234 - 40 * 30 :].reshape(40, 30).mean(1)
    assert rise_p_value(values) == pytest.approx(mann_kendall(means.tolist()), rel=1e-9)


@pytest.mark.parametrize("correlation", [0.0, 0.8, 0.95])
def test_noise_without_a_rise_is_rarely_significant(
    rng: np.random.Generator, correlation: float
) -> None:
    """At 5 %, in 15 of 300 series."""
    noise = rng.standard_normal((800, 300))
    for index in range(1, 800):
        fresh = math.sqrt(1 - correlation**2) * noise[index]
        noise[index] = correlation * noise[index - 1] + fresh
    p = np.array([rise_p_value(series) for series in noise.T])
    assert (p < 0.05).sum() <= 40
    assert 90 < (p < 0.5).sum() < 210
    # the largest distance of the two distribution functions; 0.1 by chance in 1 of 200 tests
    assert stats.kstest(p, "uniform").statistic < 0.2


def test_autocorrelation_that_reaches_beyond_a_block_is_taken_into_account(
    rng: np.random.Generator,
) -> None:
    """Without the correction a fifth of such series has p < 0.05."""
    noise = rng.standard_normal((60, 400))
    for index in range(1, 60):
        noise[index] = 0.6 * noise[index - 1] + 0.8 * noise[index]
    assert sum(rise_p_value(series) < 0.05 for series in noise.T) <= 52


def test_a_rise_in_noise_is_found_and_a_fall_is_none(rng: np.random.Generator) -> None:
    noise = 0.02 * rng.standard_normal(600)
    rise = np.linspace(0.5, 0.6, 600)
    assert rise_p_value(rise + noise) < 1e-4
    assert rise_p_value(noise - rise) > 1 - 1e-4


def test_what_is_not_finite_is_left_out(rng: np.random.Generator) -> None:
    values = rng.standard_normal(60)
    holed = np.insert(values, [0, 20, 40], [math.nan, math.inf, -math.inf])
    assert rise_p_value(holed) == rise_p_value(values)


def test_spikes_count_as_little_as_any_other_value() -> None:
    values = np.arange(60.0)
    values[[10, 30]] = [1e9, -1e9]
    assert rise_p_value(values) < 1e-6


def test_a_constant_does_not_rise() -> None:
    assert rise_p_value(np.full(500, 0.7)) == 1.0


@pytest.mark.parametrize("count", [0, 1, 9])
def test_of_a_few_values_it_is_not_known(count: int) -> None:
    assert math.isnan(rise_p_value(np.arange(count)))


def test_shape_is_checked() -> None:
    with pytest.raises(ValueError, match=r"^values: shape \(2, 3\) given"):
        rise_p_value(np.zeros((2, 3)))


def test_sites_have_the_one_of_their_first_phase(rng: np.random.Generator) -> None:
    feature, grad = rng.standard_normal((2, 300)) + np.interp(np.arange(300), [0, 150], [0, 2])
    records = {
        "step": np.arange(300),
        "site": np.array(["a"] * 300, dtype=object),
        "feature_cos_between": feature,
        "grad_cos_within": np.where(np.arange(300) < 200, np.nan, grad),
    }
    (site,) = site_phases(records, 200)
    assert site.feature_between.p_value == rise_p_value(feature[:200])
    assert math.isnan(site.grad_within.p_value)
