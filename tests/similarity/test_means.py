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
    LARGE_SHAPES,
    SHAPES,
    check_mean_cosine,
    compare_cosine_means,
    dtype_name,
    random_labels,
)
from rows import SCALES, random_rows
from torch import Tensor

from tfc_fast.similarity import mean_cosine

DTYPES_AND_SCALES = [(dtype, scale) for dtype in DTYPES for scale in SCALES[dtype]]

WIDTHS = [1, 7, 15, 16, 17, 255, 256, 257, 300]  # around whole lanes and runs of them


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_every_shape(rng: np.random.Generator, n: int, d: int, dtype: torch.dtype) -> None:
    means = check_mean_cosine(random_rows(rng, n, d, dtype), random_labels(rng, n))
    assert int(means.n_rows) == n
    assert math.isnan(means.all) == (n < 2)


@pytest.mark.parametrize(("n", "d"), LARGE_SHAPES)
def test_large_shapes(rng: np.random.Generator, n: int, d: int) -> None:
    check_mean_cosine(random_rows(rng, n, d, torch.float32), random_labels(rng, n))


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize(("dtype", "scale"), DTYPES_AND_SCALES, ids=str)
def test_scaled_rows(rng: np.random.Generator, d: int, dtype: torch.dtype, scale: float) -> None:
    x = (random_rows(rng, 37, d, torch.float64) * scale).to(dtype)
    means = check_mean_cosine(x, random_labels(rng, 37))
    assert int(means.n_nonfinite) == 0


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scales_mixed_in_one_batch(rng: np.random.Generator, d: int, dtype: torch.dtype) -> None:
    n = 131
    scale = torch.from_numpy(rng.choice(SCALES[dtype], (n, 1)))
    x = (random_rows(rng, n, d, torch.float64) * scale).to(dtype)
    check_mean_cosine(x, random_labels(rng, n))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scales_mixed_within_a_row(rng: np.random.Generator, dtype: torch.dtype) -> None:
    n, d = 40, 300
    scale = torch.from_numpy(rng.choice(SCALES[dtype], (n, d)))
    x = (random_rows(rng, n, d, torch.float64) * scale).to(dtype)
    check_mean_cosine(x, random_labels(rng, n))


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize(("dtype", "largest"), [(torch.float16, 1e-6), (torch.float64, 1.7e308)])
def test_flushing_denormals_loses_no_row(
    rng: np.random.Generator,
    flush_denormal: Callable[[bool], bool],
    use_instruction_set: Callable[[str], None],
    instruction_set: str,
    dtype: torch.dtype,
    largest: float,
) -> None:
    # A subnormal half is a normal float, and 1.7e308 has nothing denormal about it.
    x = random_rows(rng, 37, 40, torch.float64)
    x = (x / x.abs().amax(dim=1, keepdim=True) * largest).to(dtype)
    labels = random_labels(rng, 37)
    expected = reference.mean_cosine(x, labels)
    use_instruction_set(instruction_set)
    assert flush_denormal(True)
    means = mean_cosine(x, labels)
    flush_denormal(False)
    compare_cosine_means(means, expected, dtype_name(x))


@pytest.mark.parametrize("n", [2, 3, 32, 127, 1000])
@pytest.mark.parametrize(("dtype", "scale"), DTYPES_AND_SCALES, ids=str)
def test_equal_rows_have_cosine_one(
    rng: np.random.Generator, n: int, dtype: torch.dtype, scale: float
) -> None:
    row = (random_rows(rng, 1, 100, torch.float64) * scale).to(dtype)
    means = check_mean_cosine(row.repeat(n, 1), random_labels(rng, n, 2))
    assert float(means.all) == pytest.approx(1, rel=0, abs=COSINE_TOLERANCE[dtype_name(row)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equal_rows_of_one_value_have_cosine_one(
    rng: np.random.Generator, dtype: torch.dtype
) -> None:
    # Every unit is rounded the same way, so that nothing averages out. 1.2345 at these widths is
    # among the worst there is.
    cases = [(32, 2606, 1.2345), (64, 2606, 1.2345), (4096, 225, 1.2345)]
    cases += [
        (n, int(rng.integers(1, 3000)), rng.uniform(1, 2)) for n in (2, 32) for _ in range(200)
    ]
    errors = {
        (n, d, value): abs(float(mean_cosine(torch.full((n, d), value, dtype=dtype)).all) - 1)
        for n, d, value in cases
    }
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] <= COSINE_TOLERANCE[str(dtype).removeprefix("torch.")], worst


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nearly_equal_rows(rng: np.random.Generator, dtype: torch.dtype) -> None:
    row, noise = rng.standard_normal(1000), rng.standard_normal((65, 1000))
    x = torch.from_numpy(row + 1e-6 * noise).to(dtype)
    check_mean_cosine(x, random_labels(rng, 65))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_orthogonal_rows_have_cosine_zero(rng: np.random.Generator, dtype: torch.dtype) -> None:
    n = 128
    x = torch.eye(n)[torch.from_numpy(rng.permutation(n))]
    x = (x * torch.from_numpy(rng.uniform(0.5, 2, (n, 1)))).to(dtype)
    means = check_mean_cosine(x, random_labels(rng, n))
    for mean in means[:3]:
        assert float(mean) == pytest.approx(0, abs=COSINE_TOLERANCE[dtype_name(x)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_opposite_rows_have_cosine_minus_one(rng: np.random.Generator, dtype: torch.dtype) -> None:
    row = random_rows(rng, 1, 333, dtype)
    means = check_mean_cosine(torch.cat([row, -row, row]), torch.tensor([0, 1, 0]))
    assert float(means.between) == pytest.approx(-1, rel=0, abs=COSINE_TOLERANCE[dtype_name(row)])
    assert float(means.all) == pytest.approx(-1 / 3, rel=0, abs=COSINE_TOLERANCE[dtype_name(row)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_has_no_pairs_is_nan(rng: np.random.Generator, dtype: torch.dtype) -> None:
    x = random_rows(rng, 4, 7, dtype)

    def is_nan(x: Tensor, labels: list[int] | None) -> list[bool]:
        y = None if labels is None else torch.tensor(labels, dtype=torch.int64)
        return [math.isnan(mean) for mean in check_mean_cosine(x, y)[:3]]

    assert is_nan(x[:0], None) == [True, True, True]
    assert is_nan(x[:0], []) == [True, True, True]
    assert is_nan(x[:1], [0]) == [True, True, True], "one class with one row"
    assert is_nan(x[:1], [3]) == [True, True, True]
    assert is_nan(x, None) == [False, True, True]
    assert is_nan(x, [2, 2, 2, 2]) == [False, False, True], "one class"
    assert is_nan(x, [3, 0, 2, 1]) == [False, True, False], "every row a class"
    assert is_nan(x, [0, 1, 1, 1]) == [False, False, False]
    assert is_nan(torch.zeros_like(x), [0, 0, 1, 1]) == [True, True, True]
    x[1:] = 0
    assert is_nan(x, [0, 0, 1, 1]) == [True, True, True], "one valid row"
    assert is_nan(torch.full_like(x, math.nan), [0, 0, 1, 1]) == [True, True, True]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_rows_are_left_out_and_counted(rng: np.random.Generator, dtype: torch.dtype) -> None:
    n = 70
    x = random_rows(rng, n, 50, dtype)
    zero = torch.from_numpy(rng.choice(n, 20, replace=False))
    x[zero] = 0
    x[zero[:5]] = -0.0
    means = check_mean_cosine(x, random_labels(rng, n))
    assert (int(means.n_rows), int(means.n_zero)) == (50, 20)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_entry_is_enough_to_be_a_row(rng: np.random.Generator, dtype: torch.dtype) -> None:
    n, d = 60, 37
    x = torch.zeros(n, d, dtype=dtype)
    x[torch.arange(n), torch.from_numpy(rng.integers(0, d, n))] = torch.finfo(dtype).tiny
    x[0, 0] = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps  # the least subnormal
    means = check_mean_cosine(x, random_labels(rng, n))
    assert int(means.n_rows) == n


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("d", [1, 16, 37, 1000])
def test_nonfinite_rows_are_left_out_and_counted(
    rng: np.random.Generator, d: int, bad: float, dtype: torch.dtype
) -> None:
    n = 40
    x = random_rows(rng, n, d, dtype)
    rows = torch.from_numpy(rng.choice(n, 9, replace=False))
    x[rows, torch.from_numpy(rng.integers(0, d, 9))] = bad
    x[rows[0]] = 0
    x[rows[0], d - 1] = bad
    means = check_mean_cosine(x, random_labels(rng, n))
    assert (int(means.n_rows), int(means.n_nonfinite), int(means.n_zero)) == (n - 9, 9, 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_all_kinds_of_rows_in_one_batch(rng: np.random.Generator, dtype: torch.dtype) -> None:
    n, d = 300, 129
    x = random_rows(rng, n, d, torch.float64) * torch.from_numpy(rng.choice(SCALES[dtype], (n, 1)))
    x[torch.from_numpy(rng.choice(n, 30, replace=False))] = 0
    for bad in (math.nan, math.inf, -math.inf):
        x[int(rng.integers(n)), int(rng.integers(d))] = bad
    x[100:140] = x[99]
    check_mean_cosine(x.to(dtype), random_labels(rng, n))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_uneven_and_empty_classes(rng: np.random.Generator, dtype: torch.dtype) -> None:
    n = 500
    x = random_rows(rng, n, 65, dtype)
    labels = torch.full((n,), 7)
    labels[int(rng.integers(n))] = 3  # one class of one row among empty ones
    check_mean_cosine(x, labels)
    check_mean_cosine(x, labels, num_classes=1000)
    check_mean_cosine(x, torch.from_numpy(rng.permutation(n)))
    check_mean_cosine(x, torch.from_numpy(rng.geometric(0.5, n)))
    check_mean_cosine(x, torch.from_numpy(np.sort(rng.integers(0, 40, n))[::-1].copy()))


def test_labels_that_tell_the_rows_apart(rng: np.random.Generator) -> None:
    # Two bundles of rows at right angles: a mistake in the grouping cannot hide.
    labels = torch.from_numpy(rng.permutation(np.repeat([0, 4], [33, 70])))
    x = torch.zeros(103, 20)
    x[labels == 0, :10] = 1
    x[labels == 4, 10:] = 1
    means = mean_cosine(x, labels)
    assert float(means.within) == pytest.approx(1, abs=1e-6)
    assert float(means.between) == pytest.approx(0, abs=1e-6)


def test_results_are_scalars(rng: np.random.Generator) -> None:
    x = random_rows(rng, 5, 4, torch.bfloat16)
    for requires_grad in (False, True):
        means = mean_cosine(x.requires_grad_(requires_grad), torch.tensor([0, 0, 1, 1, 1]))
        assert [value.dtype for value in means] == 3 * [torch.float64] + 3 * [torch.int64]
        assert all(value.shape == () for value in means)
        assert [value.requires_grad for value in means] == 3 * [requires_grad] + 3 * [False]
