"""What hypothesis draws."""

from __future__ import annotations

import numpy as np
import torch
from checks import DTYPES
from hypothesis import strategies as st
from torch import Tensor


@st.composite
def laid_out_tensors(draw: st.DrawFn) -> Tensor:
    """Tensors of up to four dimensions: sliced, with steps, permuted, expanded, of odd values."""
    sizes = draw(st.lists(st.integers(0, 7), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dtype = draw(st.sampled_from(DTYPES))
    steps = [draw(st.integers(1, 3)) for _ in sizes]
    starts = [draw(st.integers(0, 2)) for _ in sizes]
    whole = [start + size * step for start, size, step in zip(starts, sizes, steps, strict=True)]
    values = torch.from_numpy(rng.standard_normal(whole) * 10.0 ** rng.integers(-40, 30, whole))
    odd = draw(st.sampled_from([0.0, 0.1, 0.9]))
    special = torch.tensor([0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, 65504.0, 1.0])
    chosen = special[torch.from_numpy(rng.integers(0, len(special), whole))]
    x = torch.where(torch.from_numpy(rng.random(whole) < odd), chosen.double(), values).to(dtype)
    x = x[tuple(slice(a, None, step) for a, step in zip(starts, steps, strict=True))]
    x = x.permute(draw(st.permutations(range(x.dim()))))
    for dim in range(x.dim()):
        if x.shape[dim] > 0 and draw(st.integers(0, 5)) == 0:
            x = x.narrow(dim, 0, 1).expand(*x.shape)
    return x


@st.composite
def optional_labels(draw: st.DrawFn, rows: int) -> Tensor | None:
    """Labels 0 ... 4, or none."""
    if not draw(st.booleans()):
        return None
    labels = draw(st.lists(st.integers(0, 4), min_size=rows, max_size=rows))
    return torch.tensor(
        labels, dtype=draw(st.sampled_from([torch.uint8, torch.int32, torch.int64]))
    )
