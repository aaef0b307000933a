r"""How far the cosines of pairs of rows are spread about their mean, without the matrix of pairs.

The mean of the squares less the square of the mean would lose everything where features have
collapsed: cosines of nearly parallel rows differ by less than their squares can hold. So each unit
row is taken as the mean of its class plus the rest, `u_i = m_c + w_i`, and the sums of squares are
formed from `m` and `w`, whose terms do not cancel.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tfc_fast import _extension  # noqa: F401  (registers the ops)
from tfc_fast._inputs import Array, as_rows, group_labels
from tfc_fast._results import measures_and_counts

__all__ = ["CosineSpread", "cosine_spread"]


class CosineSpread(NamedTuple):
    """Standard deviations of cosines over pairs of rows, and how many rows they rest on.

    Tensors of no dimension (float64 deviations, int64 counts), or numpy scalars for numpy input. A
    deviation over no pairs is NaN, over one pair 0.
    """

    all: Tensor | np.float64
    within: Tensor | np.float64
    between: Tensor | np.float64
    n_rows: Tensor | np.int64
    n_zero: Tensor | np.int64
    n_nonfinite: Tensor | np.int64


def cosine_spread(
    x: Array, labels: Array | None = None, *, num_classes: int | None = None
) -> CosineSpread:
    """Standard deviation of the cosines over all pairs of rows, within and between classes.

    `sqrt(mean over pairs of (cos - mean cos)^2)`, the mean being that of `mean_cosine`. A mean near
    1 with a spread near 0 is a collapse of all rows onto one direction; the same mean with a wide
    spread is a few rows that are still apart.

    The matrix of pairs is never held. Costs about `n^2 d / 2` or `n d^2 / 2` multiplications,
    whichever is less, and `n C d` for C classes, with twice the means of the classes, about
    56 bytes per row and up to 70 MB besides the input; on a GPU the centred rows and about 100 MB.
    The result does not depend on the number of threads. On a GPU the call waits for the device.

    Args:
        x: Rows, `[n, ...]`, flattened to `[n, d]`; float16, bfloat16, float32 or float64; any
            strides (no copy where each row is contiguous); a tensor or a numpy array. A 1-D input
            is n rows of one number each; a single vector is `x[None]`.
        labels: Class of each row, integer, `[n]`. Without labels `within` and `between` are NaN.
        num_classes: Number of classes; default: the largest label + 1.

    Returns:
        `CosineSpread`: `all`, `within`, `between` at least 0, float64, NaN where there is no pair;
        `n_rows` rows that took part; `n_zero` all-zero rows; `n_nonfinite` rows with NaN or Inf.
        Detached: no gradient flows through it.

    Raises:
        TypeError: `x` is no array of a supported float dtype, or `labels` are not integers.
        ValueError: `x` has no dimension, `labels` is not `[n]`, or a label is outside
            `0 ... num_classes - 1`.

    Relative error: at most 1e-3 down to deviations of 1e-8.

    Example:
        >>> import torch
        >>> x = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
        >>> spread = cosine_spread(x, torch.tensor([0, 0, 1, 1]))
        >>> spread.all.item(), spread.within.item(), spread.between.item()
        (0.471..., 0.0, 0.0)
    """
    rows = as_rows(x, "x")
    order, class_ptr = group_labels(labels, num_classes, rows)
    values = torch.ops.tfc_fast.cosine_spread.default(rows, order, class_ptr)
    return CosineSpread(*measures_and_counts(values, 3, isinstance(x, np.ndarray)))
