r"""Cosine similarity over all pairs of rows, without the matrix of pairs.

With `u_i = x_i / |x_i|` for the M rows that are finite and not all zero, `S_c` the sum of `u_i`
over class c, `n_c` its rows and `S` the sum of all `S_c`, the means over pairs of rows are

    all      (|S|^2 - M)              / (M (M - 1))
    within   (sum_c |S_c|^2 - M)      / (sum_c n_c (n_c - 1))
    between  (|S|^2 - sum_c |S_c|^2)  / (M^2 - sum_c n_c^2)

so that n rows of d numbers cost O(n d), and one pass over memory, instead of O(n^2 d).

The gradient costs as little: with w_i the derivative with respect to `u_i`, a combination of S and
the `S_c` of its class, that with respect to `x_i` is `(w_i - u_i (u_i . w_i)) / |x_i|`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tfc_fast import _extension  # noqa: F401  (registers the ops)
from tfc_fast._inputs import Array, as_rows, group_labels
from tfc_fast._results import measures_and_counts

__all__ = ["CosineMeans", "mean_cosine"]


class CosineMeans(NamedTuple):
    """Mean cosines over pairs of rows, and how many rows they rest on.

    Tensors of no dimension (float64 means, int64 counts), or numpy scalars for numpy input. A mean
    over no pairs is NaN.
    """

    all: Tensor | np.float64
    within: Tensor | np.float64
    between: Tensor | np.float64
    n_rows: Tensor | np.int64
    n_zero: Tensor | np.int64
    n_nonfinite: Tensor | np.int64


def mean_cosine(
    x: Array, labels: Array | None = None, *, num_classes: int | None = None
) -> CosineMeans:
    """Mean cosine similarity over all pairs of different rows, within and between classes.

    The formulas stand at the top of this module. There is no epsilon: a row takes part however
    small it is. Only rows that are exactly zero or hold a NaN or Inf are left out, and counted. The
    result does not depend on the number of threads.

    The means can be differentiated with respect to `x`, as often as you like, to keep features
    apart in a loss. Rows that are left out get a gradient of exactly 0, and a mean over no pairs
    gives none. The gradient of a row is as large as the row is small: that of a row of 1e-30 is
    near 1e+30, and where it exceeds the dtype of `x` it is inf. Only to watch, pass `x.detach()`.

    Args:
        x: Rows, `[n, ...]`, flattened to `[n, d]`; float16, bfloat16, float32 or float64; any
            strides (no copy where each row is contiguous); a tensor or a numpy array. A 1-D input
            is n rows of one number each; a single vector is `x[None]`.
        labels: Class of each row, integer, `[n]`. Without labels `within` and `between` are NaN.
        num_classes: Number of classes; default: the largest label + 1. Give it inside
            `torch.compile`, where the largest label is not known beforehand.

    Returns:
        `CosineMeans`: `all`, `within`, `between` in [-1, 1], float64, NaN where there is no pair;
        `n_rows` rows that took part; `n_zero` all-zero rows; `n_nonfinite` rows with NaN or Inf.

    Raises:
        TypeError: `x` is no array of a supported float dtype, or `labels` are not integers.
        ValueError: `x` has no dimension, `labels` is not `[n]`, or a label is outside
            `0 ... num_classes - 1`.

    Absolute error: at most 1e-6 for float32 and 1e-5 for half precision input, 1e-12 for float64.

    Example:
        >>> import torch
        >>> x = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
        >>> means = mean_cosine(x, torch.tensor([0, 0, 1, 1]))
        >>> means.all.item(), means.within.item(), means.between.item()
        (0.333..., 1.0, 0.0)
        >>> int(means.n_rows), int(means.n_zero)
        (3, 1)

        As a loss:

        >>> x = torch.tensor([[1.0, 0.0], [1.0, 1.0]], requires_grad=True)
        >>> mean_cosine(x).all.backward()
        >>> x.grad
        tensor([[ 0.0000,  0.7071],
                [ 0.3536, -0.3536]])
    """
    rows = as_rows(x, "x", differentiable=True)
    order, class_ptr = group_labels(labels, num_classes, rows)
    values = torch.ops.tfc_fast.mean_cosine.default(rows, order, class_ptr)
    return CosineMeans(*measures_and_counts(values, 3, isinstance(x, np.ndarray)))
