"""What torchmetrics publishes for its pairwise cosine similarity holds for `cosine_matrix`.

Its documented example, and the cases of its test-suite: sizes, reductions, diagonal, precision.
Expected values come from its documentation and from our reference, not from the package itself.
"""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from torch import Tensor

from tfc_fast.similarity import cosine_matrix, mean_cosine

X = torch.tensor([[2.0, 3.0], [3.0, 5.0], [5.0, 8.0]])
Y = torch.tensor([[1.0, 0.0], [2.0, 1.0]])
DOCUMENTED_DIGITS = 5e-5


def cosines_of(x: Tensor, y: Tensor | None = None) -> Tensor:
    cosines = cosine_matrix(x, y)
    assert isinstance(cosines, Tensor)
    return cosines


def assert_near(actual: object, expected: object, atol: float) -> None:
    np.testing.assert_allclose(actual, expected, rtol=0, atol=atol)  # type: ignore[arg-type]


def test_documented_example_of_two_matrices() -> None:
    documented = [[0.5547, 0.8682], [0.5145, 0.8437], [0.5300, 0.8533]]
    assert_near(cosines_of(X, Y), documented, DOCUMENTED_DIGITS)
    assert_near(cosines_of(X, Y), reference.cosine_matrix(X, Y), 1e-6)


def test_documented_example_of_one_matrix() -> None:
    # There a row's cosine with itself is replaced by 0; here it is what it is, exactly 1.
    documented = torch.tensor([[0, 0.9989, 0.9996], [0.9989, 0, 0.9998], [0.9996, 0.9998, 0]])
    cosines = cosines_of(X)
    assert (cosines.diagonal() == 1).all()
    assert_near(cosines.clone().fill_diagonal_(0), documented, DOCUMENTED_DIGITS)
    assert_near(cosines, reference.cosine_matrix(X), 1e-6)


# Four batches of 32 rows of five uniform numbers, joined, are what the reductions are tested with.
@pytest.mark.parametrize("rows", [32, 4 * 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_random_rows_and_their_reductions(
    rng: np.random.Generator, rows: int, dtype: torch.dtype
) -> None:
    x, y = (torch.from_numpy(rng.random((rows, 5))).to(dtype) for _ in range(2))
    cosines, expected = cosines_of(x, y), reference.cosine_matrix(x, y)
    assert cosines.shape == (rows, rows)
    assert_near(cosines, expected, 1e-6)
    assert_near(cosines.sum(dim=-1), expected.sum(axis=-1), 1e-6 * rows)
    assert_near(cosines.mean(dim=-1), expected.mean(axis=-1), 1e-6)


def test_reductions_without_the_diagonal(rng: np.random.Generator) -> None:
    n = 128
    x = torch.from_numpy(rng.random((n, 5))).float()
    cosines, expected = cosines_of(x), reference.cosine_matrix(x)
    np.fill_diagonal(expected, 0)
    assert_near(cosines.sum(dim=-1) - 1, expected.sum(axis=-1), 1e-6 * n)
    assert_near(mean_cosine(x).all, expected.sum() / (n * (n - 1)), 1e-6)


def test_rows_that_need_precision() -> None:
    x = torch.tensor([[772.0, 112.0], [772.20001, 112.0]])
    expected = reference.cosine_matrix(x)
    assert 1 - expected[0, 1] < 1e-8, "the next float32 below 1 is further away"
    assert_near(cosines_of(x), expected, 1e-6)
    assert cosines_of(x).max() == 1


def test_zero_row_gives_zero_and_not_nan() -> None:
    x = torch.cat([X, torch.zeros(1, 2)])
    assert_near(cosines_of(x)[3], np.zeros(4), 0)
    assert_near(cosines_of(x, Y)[3], np.zeros(2), 0)


def test_shapes_that_do_not_fit_are_refused(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.standard_normal((10, 5)))
    with pytest.raises(ValueError, match="rows of y must be as long"):
        cosine_matrix(x, x[:5, :3])
    with pytest.raises(ValueError, match="x: wanted at least one dimension"):
        cosine_matrix(x[0, 0])
