from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
from checks import (
    COSINE_TOLERANCE,
    DTYPES,
    INSTRUCTION_SETS,
    assert_same_bits,
    dtype_name,
    random_labels,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Array
from rows import SCALES, all_sorts_of_rows, random_rows
from torch import Tensor
from torch.library import opcheck

from tfc_fast.similarity import (
    CrossCosineMeans,
    FeatureDrift,
    PairedCosines,
    cross_cosine,
    paired_cosine,
)

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def check_cross(
    x: Array, y: Array, x_labels: Array | None = None, y_labels: Array | None = None
) -> CrossCosineMeans:
    actual = cross_cosine(x, y, x_labels, y_labels)
    expected = reference.cross_cosine(x, y, x_labels, y_labels)
    assert [int(count) for count in actual[3:]] == list(expected[3:])
    tolerance = max(COSINE_TOLERANCE[dtype_name(x)], COSINE_TOLERANCE[dtype_name(y)])
    for name, value, wanted in zip(actual._fields[:3], actual, expected, strict=False):
        np.testing.assert_allclose(float(value), wanted, rtol=0, atol=tolerance, err_msg=name)
        assert not abs(float(value)) > 1
    return actual


def check_paired(x: Array, y: Array) -> PairedCosines:
    actual = paired_cosine(x, y)
    expected = reference.paired_cosine(x, y)
    assert [int(count) for count in actual[2:]] == list(expected[2:])
    # Squares and products are double, whatever the input.
    np.testing.assert_allclose(actual.cosines, expected.cosines, rtol=0, atol=1e-12)
    np.testing.assert_allclose(float(actual.mean), expected.mean, rtol=0, atol=1e-12)
    assert not (abs(np.asarray(actual.cosines)) > 1).any()
    return actual


@each_dtype
@pytest.mark.parametrize("d", [1, 7, 16, 17, 64, 1000, 4097])
@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (1, 1), (2, 1), (3, 127), (127, 127)])
def test_every_shape(rng: np.random.Generator, n: int, m: int, d: int, dtype: torch.dtype) -> None:
    x, y = all_sorts_of_rows(rng, n, d, dtype), all_sorts_of_rows(rng, m, d, dtype)
    means = check_cross(x, y)
    assert math.isnan(means.within)
    assert math.isnan(means.between)
    check_cross(x, y, random_labels(rng, n), random_labels(rng, m, 9))
    check_paired(x, all_sorts_of_rows(rng, n, d, dtype))


@pytest.mark.parametrize(("n", "d"), [(4096, 64), (3, 200_000)])
def test_large_shapes(rng: np.random.Generator, n: int, d: int) -> None:
    x, y = random_rows(rng, n, d, torch.float32), random_rows(rng, n, d, torch.float32)
    check_cross(x, y, random_labels(rng, n), random_labels(rng, n))
    check_paired(x, y)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_shape_strides_dtype_and_labels(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    d = data.draw(st.integers(1, 40))
    dtypes = [data.draw(st.sampled_from(DTYPES)) for _ in range(2)]
    sides, labels = [], []
    for dtype in dtypes:
        n, step = data.draw(st.integers(0, 30)), data.draw(st.integers(1, 3))
        x = all_sorts_of_rows(rng, 2 * n, step * d, dtype)[::2, ::step]
        sides.append(x.t().contiguous().t() if data.draw(st.booleans()) else x)
        labels.append(random_labels(rng, n, data.draw(st.integers(1, 9))))
    check_cross(*sides, *(labels if data.draw(st.booleans()) else []))
    if dtypes[0] == dtypes[1]:
        n = min(len(x) for x in sides)
        check_paired(sides[0][:n].unflatten(1, (1, d)), sides[1][:n])


@each_dtype
def test_equal_and_opposite_rows(rng: np.random.Generator, dtype: torch.dtype) -> None:
    for scale in SCALES[dtype]:
        x = (random_rows(rng, 20, 300, torch.float64) * scale).to(dtype)
        assert (paired_cosine(x, x).cosines == 1).all()
        assert (paired_cosine(x, -x).cosines == -1).all()
        assert float(paired_cosine(x, x).mean) == 1
        row = x[:1].expand(20, -1)
        means = check_cross(row, -row, torch.arange(20), torch.arange(20))
        for mean in means[:3]:
            assert float(mean) == pytest.approx(-1, abs=COSINE_TOLERANCE[dtype_name(x)])


@each_dtype
def test_long_rows_of_one_value(rng: np.random.Generator, dtype: torch.dtype) -> None:
    # Every term is rounded the same way, so that nothing averages out.
    for d in (225, 2606, 54_710, 200_000):
        x = torch.full((1, d), rng.uniform(1, 2), dtype=dtype)
        assert abs(float(paired_cosine(x, 3 * x).mean) - 1) <= 1e-12


@each_dtype
def test_nearly_equal_and_orthogonal_rows(rng: np.random.Generator, dtype: torch.dtype) -> None:
    row, noise = rng.standard_normal(1000), rng.standard_normal((130, 1000))
    x = torch.from_numpy(row + 1e-6 * noise).to(dtype)
    check_cross(x[:65], x[65:], random_labels(rng, 65), random_labels(rng, 65))
    check_paired(x[:65], x[65:])
    eye = torch.eye(128, dtype=dtype)
    means = check_cross(eye[:64], eye[64:])
    assert float(means.all) == 0
    assert (paired_cosine(eye[:64], eye[64:]).cosines == 0).all()


def test_labels_that_tell_the_rows_apart(rng: np.random.Generator) -> None:
    x_labels = torch.from_numpy(rng.permutation(np.repeat([0, 4], [33, 70])))
    y_labels = torch.from_numpy(rng.permutation(np.repeat([0, 4, 5], [10, 20, 40])))
    directions = torch.eye(6)
    means = check_cross(directions[x_labels], 3 * directions[y_labels], x_labels, y_labels)
    assert float(means.within) == pytest.approx(1, abs=1e-6)
    assert float(means.between) == pytest.approx(0, abs=1e-6)
    alone = check_cross(directions[:2], directions[2:4], torch.tensor([0, 0]), torch.tensor([1, 2]))
    assert math.isnan(alone.within), "no class has rows in both"


@each_dtype
def test_what_is_not_measured_is_nan_and_counted(dtype: torch.dtype) -> None:
    x = torch.ones(6, 3, dtype=dtype)
    y = x.clone()
    x[0], y[1] = 0, -0.0
    x[2, 1], y[3, 0] = math.nan, math.inf
    y[0, 2] = -math.inf
    turned = check_paired(x, y)
    assert [int(count) for count in turned[2:]] == [2, 1, 3]
    assert np.isnan(np.asarray(turned.cosines)).tolist() == [True] * 4 + [False] * 2
    assert math.isnan(paired_cosine(x[:4], y[:4]).mean)
    assert math.isnan(paired_cosine(x[:0], y[:0]).mean)
    assert math.isnan(cross_cosine(torch.zeros_like(x), y).all)
    assert math.isnan(paired_cosine(x[:, :0], y[:, :0]).mean)


def test_numpy_in_numpy_out(rng: np.random.Generator) -> None:
    x, y = rng.standard_normal((9, 2, 3)), rng.standard_normal((9, 6))[::-1]
    means = check_cross(x, y, rng.integers(0, 3, 9), rng.integers(0, 3, 9))
    assert [type(value) for value in means] == 3 * [np.float64] + 6 * [np.int64]
    turned = check_paired(x, y)
    assert [type(value) for value in turned] == [np.ndarray, np.float64] + 3 * [np.int64]


def test_results_are_detached(rng: np.random.Generator) -> None:
    x = random_rows(rng, 4, 3, torch.float32).requires_grad_()
    values = [*cross_cosine(x, x), *paired_cosine(x, x), FeatureDrift().update(x)]
    assert not any(torch.as_tensor(value).requires_grad for value in values)


def test_wrong_input_is_refused_by_name() -> None:
    x, y = torch.ones(4, 6), torch.tensor([0, 1, 0, 1])
    drift = FeatureDrift(lag=2)
    drift.update(x)
    refused: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (TypeError, "x: .*int32", lambda: cross_cosine(x.int(), x)),
        (TypeError, "y: .*list", lambda: cross_cosine(x, [1.0])),  # type: ignore[arg-type]
        (ValueError, "rows of y must be as long", lambda: cross_cosine(x, x[:, :5])),
        (ValueError, "y_labels: missing, but x_labels", lambda: cross_cosine(x, x, y)),
        (ValueError, "x_labels: missing, but y", lambda: cross_cosine(x, x, None, y)),
        (ValueError, r"y_labels: .*\[4\].*\[3\]", lambda: cross_cosine(x, x, y, y[:3])),
        (TypeError, "x_labels: .*float32", lambda: cross_cosine(x, x, y.float(), y)),
        (
            ValueError,
            "y_labels: row 1 has label -1; labels are numbered",
            lambda: cross_cosine(x, x, y, -y),
        ),
        (ValueError, "y_labels: row 1 .*=2", lambda: cross_cosine(x, x, y, 2 * y, num_classes=2)),
        (ValueError, "num_classes: given without", lambda: cross_cosine(x, x, num_classes=2)),
        (TypeError, "y must have the dtype of x", lambda: paired_cosine(x, x.double())),
        (ValueError, r"y must have as many rows.*\[3, 6\]", lambda: paired_cosine(x, x[:3])),
        (ValueError, r"y must have as many rows.*\[4, 5\]", lambda: paired_cosine(x, x[:, :5])),
        (ValueError, "x: wanted at least one dim", lambda: paired_cosine(x[0, 0], x)),
        (TypeError, "lag: .*float", lambda: FeatureDrift(1.0)),  # type: ignore[arg-type]
        (ValueError, "lag: .*0", lambda: FeatureDrift(0)),
        (ValueError, r"features: wanted shape \[4, 6\]", lambda: drift.update(x[:3])),
        (TypeError, "features: wanted torch.float32", lambda: drift.update(x.half())),
        (TypeError, "features: .*int32", lambda: drift.update(x.int())),
    ]
    for error, message, call in refused:
        with pytest.raises(error, match=message):
            call()
    assert math.isnan(drift.update(-x)), "a refused update must not count"
    assert float(drift.update(x)) == 1


@pytest.mark.parametrize("lag", [1, 2, 5])
def test_drift_looks_back_by_the_lag(rng: np.random.Generator, lag: int) -> None:
    steps = [random_rows(rng, 8, 30, torch.float32) for _ in range(13)]
    drift = FeatureDrift(lag)
    buffer = torch.empty(8, 2, 15)  # the user's memory may be used again
    for begin in (0, 3):
        for t, step in enumerate(steps[begin:]):
            mean = drift.update(buffer.copy_(step.view(8, 2, 15)))
            if t < lag:
                assert math.isnan(mean)
            else:
                expected = reference.paired_cosine(step, steps[begin + t - lag]).mean
                assert float(mean) == pytest.approx(expected, abs=1e-12)
        drift.reset()
    assert isinstance(drift.update(np.ones((2, 3))), np.float64)


def test_drift_in_and_out_of_inference_mode() -> None:
    drift = FeatureDrift()
    with torch.inference_mode():
        drift.update(torch.ones(2, 3))
    for _ in range(2):
        assert float(drift.update(torch.ones(2, 3))) == 1


@each_dtype
@pytest.mark.parametrize(("n", "d"), [(5, 7), (700, 257), (64, 20_000)])
def test_same_bits_for_threads_and_instruction_sets(
    rng: np.random.Generator,
    set_threads: Callable[[int], None],
    use_instruction_set: Callable[[str], None],
    n: int,
    d: int,
    dtype: torch.dtype,
) -> None:
    x, y = all_sorts_of_rows(rng, n, d, dtype), all_sorts_of_rows(rng, n, d, dtype)
    labels = random_labels(rng, n), random_labels(rng, n)
    results = []
    last = INSTRUCTION_SETS[-1]
    for threads, name in [*((1, name) for name in INSTRUCTION_SETS), (2, last), (3, last)]:
        set_threads(threads)
        use_instruction_set(name)
        results.append([*cross_cosine(x, y, *labels), *paired_cosine(x, y)])
    for result in results[1:]:
        for value, wanted in zip(result, results[0], strict=True):
            assert_same_bits(torch.as_tensor(value), torch.as_tensor(wanted))


@each_dtype
def test_are_sound_ops(rng: np.random.Generator, dtype: torch.dtype) -> None:
    x, y = random_rows(rng, 6, 5, dtype), random_rows(rng, 6, 5, dtype)
    ops = torch.ops.tfc_fast
    x_groups = ops.group_labels(random_labels(rng, 6, 2), 2)
    y_groups = ops.group_labels(torch.tensor([0, 1, 0, 1, 2, 2]), 3)
    for results in (
        opcheck(ops.cross_cosine.default, (x, *x_groups, y, *y_groups)),
        opcheck(ops.paired_cosine.default, (x, y)),
        opcheck(ops.paired_cosine.default, (x.view(6, 5, 1)[::2], y[:3])),
    ):
        assert set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_by_torch(rng: np.random.Generator, dynamic: bool) -> None:
    def both(x: Tensor, y: Tensor, labels: Tensor) -> list[Array | np.float64 | np.int64]:
        return [*cross_cosine(x, y, labels, labels, num_classes=5), *paired_cosine(x, y)]

    torch.compiler.reset()
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for n in (40, 50):
        x, y = random_rows(rng, n, 9, torch.float32), random_rows(rng, n, 9, torch.float32)
        labels = random_labels(rng, n)
        for value, wanted in zip(compiled(x, y, labels), both(x, y, labels), strict=True):
            assert_same_bits(torch.as_tensor(value), torch.as_tensor(wanted))


def test_memory_depends_on_the_rows_not_on_the_classes(rng: np.random.Generator) -> None:
    x, y = torch.from_numpy(rng.standard_normal((2, 20, 300)))
    few = torch.from_numpy(rng.integers(0, 3, 20)), torch.from_numpy(rng.integers(1, 5, 20))
    far_apart = torch.tensor([2**24 - 1, 5, 7_000_000, 0, 2**23])
    # Sums of all classes would be 40 GB a batch.
    actual = cross_cosine(x, y, far_apart[few[0]], far_apart[few[1]], num_classes=2**24)
    torch.testing.assert_close(actual[:3], cross_cosine(x, y, *few)[:3], rtol=0, atol=1e-12)


def test_more_classes_than_rows(rng: np.random.Generator) -> None:
    x, y = random_rows(rng, 12, 5, torch.float64), random_rows(rng, 9, 5, torch.float64)
    x_labels = torch.from_numpy(rng.choice([3, 70, 299], 12))
    for choice in ([0, 70, 298], [3, 299], [500]):
        y_labels = torch.from_numpy(rng.choice(choice, 9))
        check_cross(x, y, x_labels, y_labels)
        check_cross(y, x, y_labels, x_labels)
