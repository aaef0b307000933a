"""The CUDA kernels, run by the emulation, against the float64 reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import reference
import torch
from cuda_emulation.emulation import Library
from cuda_emulation.kernels import STATISTICS, Measured, measure
from torch import Tensor

COSINE_TOLERANCE = {
    torch.float32: 1e-6,
    torch.float16: 1e-5,
    torch.bfloat16: 1e-5,
    torch.float64: 1e-12,
}
DTYPES = tuple(COSINE_TOLERANCE)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def random_pair(
    rng: np.random.Generator, n: int, d: int, dtype: torch.dtype, *, odd: bool = False
) -> tuple[Tensor, Tensor]:
    """A feature with dead and always open units, and a gradient; `odd`: of all sorts of rows."""
    bias = rng.choice([-100.0, 100.0, *rng.standard_normal(8)], d)
    feature = torch.from_numpy(rng.standard_normal((n, d)) + bias).relu()
    grad = torch.from_numpy(rng.standard_normal((n, d)) + rng.standard_normal(d))
    if odd:
        for x in (feature, grad):
            x *= torch.from_numpy(rng.choice([1.0, 1e-3, 1e-10, 1e-20, 1e-30, 1e30], (n, 1)))
            x[torch.from_numpy(rng.random(n) < 0.1)] = 0
            for bad in (math.nan, math.inf, -math.inf):
                x[torch.from_numpy(rng.random(n) < 0.03), int(rng.integers(d))] = bad
    return feature.to(dtype), grad.to(dtype)


def check_record(
    measured: Measured, expected: dict[str, float], dtype: torch.dtype, only: str = ""
) -> None:
    relative = 1e-13 if dtype == torch.float64 else 5e-7
    for name in STATISTICS:
        if only and name.split("_")[0] not in only.split():
            continue
        np.testing.assert_allclose(
            measured.record[name],
            expected[name],
            rtol=relative if "norm" in name else 0,
            atol=COSINE_TOLERANCE[dtype] if "cos" in name else 0,
            err_msg=name,
        )


def check_backward(
    library: Library,
    feature: Tensor,
    grad: Tensor,
    labels: np.ndarray | None = None,
    num_classes: int = 0,
    **options: Any,
) -> Measured:
    measured = measure(library, "relu_backward", feature, grad, labels, num_classes, **options)
    check_record(measured, reference.site_record(feature, grad, labels), feature.dtype)
    expected = torch.where(feature <= 0, torch.zeros_like(grad), grad)
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[grad.element_size()]
    assert measured.grad_in is not None
    assert torch.equal(measured.grad_in.view(whole), expected.view(whole))
    return measured


@each_dtype
@pytest.mark.parametrize("odd", [False, True], ids=["usual", "odd"])
@pytest.mark.parametrize(
    ("n", "d"),
    [(1, 1), (2, 7), (3, 64), (50, 33), (37, 100), (130, 17), (9, 257), (17, 1000), (5, 2050)],
)
def test_relu_backward(
    library: Library, rng: np.random.Generator, n: int, d: int, odd: bool, dtype: torch.dtype
) -> None:
    feature, grad = random_pair(rng, n, d, dtype, odd=odd)
    check_backward(library, feature, grad)
    check_backward(library, feature, grad, rng.integers(0, 7, n), 9)
