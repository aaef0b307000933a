from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tfc_fast.records import Records, empty
from tfc_fast.report import bin_records


def test_few_steps_are_a_bin_each(records: Records) -> None:
    binned = bin_records(records)
    band = binned.band("feature_cos_between")
    assert band is not None
    assert binned.sites == ["hidden.0.relu", "hidden.1.relu", "hidden.2.relu"]
    assert binned.steps.tolist() == list(range(1, 401))
    assert binned.edges.tolist() == list(range(1, 402))
    assert np.array_equal(band.mean, records["feature_cos_between"].reshape(400, 3).T)
    assert np.array_equal(band.low, band.mean)
    assert np.array_equal(band.high, band.mean)


def test_many_steps_are_thinned_out(make_records: Callable[..., Records]) -> None:
    records = make_records(1003)
    rng = np.random.default_rng(0)
    values = rng.random(1003 * 3)
    binned = bin_records({**records, "active_rate": values}, max_bins=100)
    band = binned.band("active_rate")
    assert band is not None
    assert band.mean.shape == (3, 100)
    by_site = values.reshape(1003, 3).T
    for index in (0, 50, 99):
        rows = slice(binned.edges[index] - 1, binned.edges[index + 1] - 1)
        assert band.mean[1, index] == pytest.approx(by_site[1, rows].mean())
        assert band.low[1, index] == by_site[1, rows].min()
        assert band.high[1, index] == by_site[1, rows].max()
    assert np.diff(binned.edges).min() >= 10
    assert (binned.edges[0], binned.edges[-1]) == (1, 1004)


def test_single_value_survives_in_the_range(make_records: Callable[..., Records]) -> None:
    records = make_records(10_000)
    records["dead_frac"][15_000] = 77.0
    band = bin_records(records).band("dead_frac")
    assert band is not None
    assert band.high.max() == 77.0
    assert band.mean.max() < 10.0


def test_sparse_records_leave_no_empty_bin(make_records: Callable[..., Records]) -> None:
    band = bin_records(make_records(90, every=1000), max_bins=50).band("active_rate")
    assert band is not None
    assert band.mean.shape == (3, 50)
    assert np.isfinite(band.mean).all()


@pytest.mark.parametrize(("steps", "end"), [([7], 8), ([1, 3], 5), ([0, 10, 20, 500, 510], 520)])
def test_last_bin_is_as_wide_as_steps_lie_apart(steps: list[int], end: int) -> None:
    records = {"step": np.array(steps), "site": np.full(len(steps), "relu", dtype=object)}
    assert bin_records(records).edges.tolist() == [*steps, end]


def test_gap_in_the_steps_leaves_no_empty_bin(make_records: Callable[..., Records]) -> None:
    records = make_records(90)
    records["step"] = np.where(records["step"] > 45, records["step"] + 10_000, records["step"])
    band = bin_records(records, max_bins=50).band("active_rate")
    assert band is not None
    assert np.isfinite(band.mean).all()


def test_range_ignores_what_is_not_finite(records: Records) -> None:
    values = np.full(1200, -1.0)
    values[::6] = np.nan
    band = bin_records({**records, "active_rate": values}, max_bins=10).band("active_rate")
    assert band is not None
    assert (band.low == -1.0).all()
    assert (band.high == -1.0).all()


def test_what_is_not_finite_is_left_out(records: Records) -> None:
    values = records["active_rate"].copy()
    values[0] = np.nan
    values[3] = np.inf
    band = bin_records({**records, "active_rate": values}, max_bins=200).band("active_rate")
    assert band is not None
    assert np.isnan(band.mean[0, 0])  # steps 1 and 2 of the first site
    assert np.isnan(band.low[0, 0])
    assert np.isfinite(band.mean[1:]).all()


def test_order_of_the_rows_does_not_matter(records: Records) -> None:
    order = np.r_[:3, 3 + np.random.default_rng(0).permutation(1197)]
    shuffled = {name: column[order] for name, column in records.items()}
    one = bin_records(records, 70).band("active_rate")
    other = bin_records(shuffled, 70).band("active_rate")
    assert one is not None
    assert other is not None
    assert np.allclose(one.mean, other.mean)


def test_what_was_not_measured_is_none(records: Records) -> None:
    binned = bin_records({**records, "active_rate": np.full(1200, np.nan)})
    assert binned.band("active_rate") is None
    assert binned.band("no such column") is None


def test_no_records() -> None:
    binned = bin_records(empty())
    assert binned.sites == []
    assert binned.band("active_rate") is None


def test_at_least_one_bin(records: Records) -> None:
    with pytest.raises(ValueError, match="max_bins: 0 given"):
        bin_records(records, 0)
