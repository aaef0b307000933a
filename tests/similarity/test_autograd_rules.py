"""What autograd's other modes may and may not do with the differentiable functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from tfc_fast.gating import agreement_matrix
from tfc_fast.similarity import cosine_matrix, mean_cosine

FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "matrix": lambda x: cosine_matrix(x).square().sum(),  # type: ignore[union-attr]
    "matrix of two": lambda x: cosine_matrix(x, x.detach()).square().sum(),  # type: ignore[union-attr]
    "mean": lambda x: mean_cosine(x).all,
}
each_function = pytest.mark.parametrize("name", FUNCTIONS)


def random_rows(rng: np.random.Generator, n: int, d: int) -> Tensor:
    return torch.from_numpy(rng.standard_normal((n, d)) + 1)


@each_function
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_changes_nothing(rng: np.random.Generator, name: str, dtype: torch.dtype) -> None:
    x = random_rows(rng, 64, 32).to(dtype).requires_grad_()
    expected = FUNCTIONS[name](x)
    (wanted,) = torch.autograd.grad(expected, x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = FUNCTIONS[name](x)
        (grad,) = torch.autograd.grad(value, x)
    assert value.item() == expected.item()
    assert torch.equal(grad, wanted)


@each_function
def test_forward_mode_is_refused_instead_of_giving_zero(
    rng: np.random.Generator, name: str
) -> None:
    x = random_rows(rng, 5, 3)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        with pytest.raises(NotImplementedError, match="forward-mode differentiation"):
            FUNCTIONS[name](dual)
    with pytest.raises(NotImplementedError, match="forward-mode differentiation"):
        torch.func.jacfwd(FUNCTIONS[name])(x)


@pytest.mark.parametrize("two", [False, True])
def test_a_bad_row_spoils_no_second_derivative(rng: np.random.Generator, two: bool) -> None:
    bad, y = random_rows(rng, 6, 4), random_rows(rng, 5, 4).requires_grad_()
    good = bad.clone()
    bad[2] = torch.nan
    kept = torch.tensor([0, 1, 3, 4, 5])

    def second(x: Tensor) -> list[Tensor]:
        x = x.clone().requires_grad_()
        inputs = [x, y] if two else [x]
        cosines = cosine_matrix(x, y) if two else cosine_matrix(x)[:, kept]  # type: ignore[index]
        assert isinstance(cosines, Tensor)
        # All rows take part, so that the weights of the bad one are NaN.
        loss = cosines.square()
        loss = (loss if x.detach().isnan().any() else loss[kept]).sum()
        first = torch.autograd.grad(loss, inputs, create_graph=True)
        return list(torch.autograd.grad(sum(g[-3:].square().sum() for g in first), inputs))

    expected, actual = second(good), second(bad)
    for value, wanted in zip(actual, expected, strict=True):
        rows = kept if len(value) == 6 else slice(None)
        torch.testing.assert_close(value[rows], wanted[rows])


def test_writing_to_out_is_noticed_by_autograd(rng: np.random.Generator) -> None:
    x = random_rows(rng, 4, 3).float()
    for function in (cosine_matrix, agreement_matrix):
        out = torch.zeros(4, 4)
        w = torch.ones(4, 4, requires_grad=True)
        loss = (out * w).sum()
        function(x, out=out)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        out = torch.zeros(4, 4)
        cosine_matrix(x, out=out)
        assert out.diagonal().eq(1).all()
