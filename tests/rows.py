"""Random rows that the tests of similarity share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

# What the dtype can hold of 1, 1e-10, 1e-20, 1e-30, 1e+30, and its own extremes, subnormals among
# them. `random_rows` never reaches 10, so the largest overflow no entry, if every square.
SCALES: Mapping[torch.dtype, Sequence[float]] = {
    torch.float16: (1.0, 1e-3, 1e-6, 5e3),
    torch.bfloat16: (1.0, 1e-10, 1e-20, 1e-30, 1e30, 1e-38, 2e37),
    torch.float32: (1.0, 1e-10, 1e-20, 1e-30, 1e30, 1e-38, 1e-43, 2e37),
    torch.float64: (
        *(1.0, 1e-10, 1e-20, 1e-30, 1e30, 1e-100, 1e100),
        *(1e-300, 1e300, 1e-320, 1e307),
    ),
}


def random_rows(rng: np.random.Generator, n: int, d: int, dtype: torch.dtype) -> Tensor:
    """Rows with something in common, so that the cosines are spread around a half."""
    common, own = rng.standard_normal(d), rng.standard_normal((n, d))
    return torch.from_numpy(common + own).to(dtype)


def rows_at_all_angles(rng: np.random.Generator, n: int, d: int, dtype: torch.dtype) -> Tensor:
    """Rows with more or less in common, so that cosines of all sizes occur."""
    common, own = rng.standard_normal(d), rng.standard_normal((n, d))
    return torch.from_numpy(common * rng.uniform(-1, 1, (n, 1)) + own).to(dtype)


def all_sorts_of_rows(
    rng: np.random.Generator,
    n: int,
    d: int,
    dtype: torch.dtype,
    scales: Mapping[torch.dtype, Sequence[float]] = SCALES,
) -> Tensor:
    """Rows with something in common, of many sizes, some zero or not finite."""
    x = random_rows(rng, n, d, torch.float64)
    x *= torch.from_numpy(rng.choice(scales[dtype], (n, 1)))
    x[torch.from_numpy(rng.random(n) < 0.05)] = 0
    if n and d:
        bad = torch.from_numpy(rng.random(n) < 0.05)
        x[bad, int(rng.integers(d))] = rng.choice([np.nan, np.inf, -np.inf])
    return x.to(dtype)
