from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from tfc_fast.phases import site_phases

FloatArray = npt.NDArray[np.float64]


def hill(start: float, top: float, at: int, low: float, steps: int = 1000) -> FloatArray:
    """From `start` at step 0 straight up to `top`, then straight down to `low`."""
    return np.interp(np.arange(steps), [0, at, steps - 1], [start, top, low])


def make_records(
    feature: dict[str, FloatArray], grad: dict[str, FloatArray] | None = None
) -> dict[str, npt.NDArray[np.generic]]:
    """Records as a probe writes them: step by step, all sites of a step together."""
    sites = list(feature)
    steps = len(feature[sites[0]])
    grad = grad or {site: np.full(steps, np.nan) for site in sites}
    return {
        "step": np.repeat(np.arange(steps), len(sites)),
        "site": np.array(sites * steps, dtype=object),
        "feature_cos_between": np.stack([feature[site] for site in sites], 1).ravel(),
        "grad_cos_within": np.stack([grad[site] for site in sites], 1).ravel(),
    }


def test_course_of_a_hill() -> None:
    records = make_records({"a": hill(0.5, 0.9, 400, 0.3)}, {"a": hill(0.2, 0.8, 300, 0.6)})
    (site,) = site_phases(records, 500)
    feature, grad = site.feature_between, site.grad_within
    assert site.site == "a"
    assert feature.start == pytest.approx(0.5, abs=0.01)
    assert feature.peak == pytest.approx(0.9, abs=0.01)
    assert feature.peak_step == pytest.approx(400, abs=5)
    assert feature.rise == feature.peak - feature.start
    assert feature.fall == pytest.approx(0.6, abs=0.02)
    assert grad.peak == pytest.approx(0.8, abs=0.01)
    assert grad.peak_step == pytest.approx(300, abs=10)
    assert grad.fall == pytest.approx(0.2, abs=0.02)


def test_peak_is_searched_in_the_first_phase_only() -> None:
    (site,) = site_phases(make_records({"a": hill(0.1, 0.9, 900, 0.2)}), 450)
    assert site.feature_between.peak == pytest.approx(0.5, abs=0.01)
    assert site.feature_between.peak_step == pytest.approx(449, abs=1)


def test_phase_that_never_ended_is_the_whole_run() -> None:
    (site,) = site_phases(make_records({"a": hill(0.1, 0.9, 900, 0.2)}), None)
    assert site.feature_between.peak_step == pytest.approx(900, abs=10)
    assert math.isnan(site.feature_between.fall)


def test_what_comes_after_the_phase_does_not_leak_into_it() -> None:
    values = np.r_[np.full(5, 0.5), np.full(100, 1.0)]
    (site,) = site_phases(make_records({"a": values}), 5)
    assert site.feature_between.rise == 0.0
    assert site.feature_between.fall == -0.5


def test_step_noise_is_averaged() -> None:
    noise = 0.05 * np.random.default_rng(0).standard_normal(2000)
    (rough,) = site_phases(make_records({"a": 0.5 + noise}), None, window=1)
    (smooth,) = site_phases(make_records({"a": 0.5 + noise}), None, window=201)
    assert rough.feature_between.rise > 0.1
    assert smooth.feature_between.rise < 0.02


def test_nan_is_left_out() -> None:
    values = hill(0.5, 0.9, 400, 0.3)
    (clean,) = site_phases(make_records({"a": values}), 500)
    values = values.copy()
    values[::7] = np.nan
    values[:3] = np.nan
    (holed,) = site_phases(make_records({"a": values}), 500)
    assert holed.feature_between.peak == pytest.approx(clean.feature_between.peak, abs=0.01)
    assert holed.feature_between.fall == pytest.approx(clean.feature_between.fall, abs=0.01)


def test_what_was_not_measured_is_nan() -> None:
    (site,) = site_phases(make_records({"a": hill(0.5, 0.9, 400, 0.3)}), 500)
    course = site.grad_within
    assert course.peak_step is None
    assert all(math.isnan(value) for value in (course.start, course.peak, course.rise))


def test_phase_that_ended_before_the_first_record_is_nan() -> None:
    (site,) = site_phases(make_records({"a": hill(0.5, 0.9, 400, 0.3)}), 0)
    assert math.isnan(site.feature_between.rise)


def test_sites_keep_the_order_of_the_records() -> None:
    curves = {name: hill(0.5, 0.9, 400, 0.3) for name in ("hidden.10", "hidden.9", "a")}
    assert [site.site for site in site_phases(make_records(curves), 500)] == list(curves)


def test_records_may_come_in_any_order_of_steps() -> None:
    records = make_records({"a": hill(0.5, 0.9, 400, 0.3), "b": hill(0.1, 0.2, 100, 0.1)})
    order = np.argsort(np.random.default_rng(0).random(len(records["step"])))
    order = np.r_[0, order[order != 0]]  # "a" is still seen first
    shuffled = {name: column[order] for name, column in records.items()}
    assert {site.site: site.feature_between for site in site_phases(shuffled, 500)} == {
        site.site: site.feature_between for site in site_phases(records, 500)
    }


def test_no_records_are_no_sites() -> None:
    records = {name: np.array([]) for name in ("step", "feature_cos_between", "grad_cos_within")}
    assert site_phases({**records, "site": np.array([], dtype=object)}, 500) == []


def test_bad_arguments() -> None:
    records = make_records({"a": hill(0.5, 0.9, 400, 0.3)})
    with pytest.raises(ValueError, match="window: 20 given, an odd number"):
        site_phases(records, None, window=20)
    with pytest.raises(ValueError, match="1-D columns of one length"):
        site_phases({**records, "step": np.arange(3)}, None)
    del records["site"]
    with pytest.raises(ValueError, match="column 'site' is missing"):
        site_phases(records, None)
