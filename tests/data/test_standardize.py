"""Standardisation of inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tfc_fast.data import Standardization, load_dataset, standardize
from tfc_fast.data.standardize import measure


def standardised(inputs: npt.NDArray[Any], method: str) -> npt.NDArray[np.float64]:
    result = measure(inputs, method).apply(inputs)
    assert result.dtype == np.float32
    return result.astype(np.float64)


@pytest.fixture
def inputs() -> npt.NDArray[np.float64]:
    generator = np.random.default_rng(2)
    return generator.standard_normal((50, 6)) * [1, 10, 1e-8, 1e8, 3, 1] + [0, 5, 1, 0, -9, 1e4]


def test_feature_gives_each_feature_mean_0_and_variance_1(inputs: npt.NDArray[Any]) -> None:
    values = standardised(inputs, "feature")
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-7)
    np.testing.assert_allclose(values.var(axis=0), 1, atol=1e-6)


def test_global_keeps_the_relation_between_features(inputs: npt.NDArray[Any]) -> None:
    values = standardised(inputs, "global")
    assert values.mean() == pytest.approx(0, abs=1e-7)
    assert values.var() == pytest.approx(1, abs=1e-6)
    expected = (inputs - inputs.mean()) / inputs.std()
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-9)


def test_none_changes_no_value(inputs: npt.NDArray[Any]) -> None:
    np.testing.assert_array_equal(standardised(inputs, "none"), inputs.astype(np.float32))


@pytest.mark.parametrize("method", ["feature", "global"])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e30, 1e-30])
def test_constant_becomes_zero(method: str, value: float) -> None:
    # The float64 mean of 1000 equal values is not always that value.
    assert (standardised(np.full((1000, 3), value), method) == 0).all()


@pytest.mark.parametrize("method", ["feature", "global"])
def test_one_sample(method: str) -> None:
    values = standardised(np.array([[4.0, 4.0]]), method)
    assert (values == 0).all()


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e-30, 1.0, 1e30])
def test_size_does_not_matter(size: float) -> None:
    inputs = np.array([[0.0], [1.0], [5.0]])
    expected = (inputs - 2) / np.sqrt(14 / 3)
    np.testing.assert_allclose(standardised(inputs * size, "feature"), expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float16, np.float32])
def test_any_type_of_number(dtype: type[np.generic]) -> None:
    inputs = np.array([[0, 255], [200, 254], [100, 250]]).astype(dtype)
    exact = inputs.astype(np.float64)
    expected = (exact - exact.mean(axis=0)) / exact.std(axis=0)
    np.testing.assert_allclose(standardised(inputs, "feature"), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ["none", "feature", "global"])
def test_blocks_join_without_a_seam(
    inputs: npt.NDArray[Any], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = standardised(inputs, method)
    monkeypatch.setattr(standardize, "_BLOCK_ELEMENTS", 7 * inputs.shape[1])
    np.testing.assert_allclose(standardised(inputs, method), whole, rtol=1e-6, atol=1e-9)


@given(
    arrays.arrays(
        np.float32,
        arrays.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.floats(allow_nan=False, allow_infinity=False, width=32),
    ),
    st.sampled_from(["none", "feature", "global"]),
)
def test_finite_in_finite_out(inputs: npt.NDArray[np.float32], method: str) -> None:
    values = standardised(inputs, method)
    assert np.isfinite(values).all()
    if method != "none":
        assert np.abs(values).max() <= np.sqrt(inputs.size) * (1 + 1e-6)


def test_constant_feature_stays_zero_on_other_data() -> None:
    measured = measure(np.array([[1.0, 3.0], [1.0, 5.0]]), "feature")
    np.testing.assert_array_equal(measured.apply(np.array([[9.0, 6.0]])), [[0.0, 2.0]])


def test_other_number_of_features() -> None:
    measured = load_dataset("gaussian", dim=5).standardization
    assert isinstance(measured, Standardization)
    with pytest.raises(ValueError, match=r"measured on 5 features, .* shape \[2000, 6\]"):
        load_dataset("gaussian", dim=6, standardize=measured)


def test_other_data_far_away() -> None:
    measured = measure(np.array([[0.0], [1e-30]]), "feature")
    with pytest.raises(ValueError, match="too large for float32: they lie too far"):
        measured.apply(np.array([[1e30]]))


@pytest.mark.parametrize("method", ["zscore", "", None, 3])
def test_unknown_method(method: Any) -> None:
    with pytest.raises(ValueError, match="standardize must be one of none, feature, global; got"):
        load_dataset("gaussian", standardize=method)
