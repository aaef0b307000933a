r"""Cosine similarity of the rows of one batch with those of another.

With `u_i` the unit rows of x and `v_j` those of y, `S_c` and `T_c` their sums over class c, `m_c`
and `n_c` the rows in them, and S, T, m and n those over all classes, the means over pairs (row of
x, row of y) are

    all      S . T                        / (m n)
    within   sum_c S_c . T_c              / sum_c m_c n_c
    between  (S . T - sum_c S_c . T_c)    / (m n - sum_c m_c n_c)

so that they cost one pass over either batch.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tfc_fast import _extension  # noqa: F401  (registers the ops)
from tfc_fast._inputs import Array, as_rows, group_labels
from tfc_fast._results import measures_and_counts

__all__ = ["CrossCosineMeans", "PairedCosines", "cross_cosine", "paired_cosine"]


class CrossCosineMeans(NamedTuple):
    """Mean cosines over pairs (row of x, row of y), and how many rows of each they rest on.

    Tensors of no dimension (float64 means, int64 counts), or numpy scalars for numpy input. A mean
    over no pairs is NaN.
    """

    all: Tensor | np.float64
    within: Tensor | np.float64
    between: Tensor | np.float64
    n_x_rows: Tensor | np.int64
    n_x_zero: Tensor | np.int64
    n_x_nonfinite: Tensor | np.int64
    n_y_rows: Tensor | np.int64
    n_y_zero: Tensor | np.int64
    n_y_nonfinite: Tensor | np.int64


class PairedCosines(NamedTuple):
    """Cosines of row i of x with row i of y, their mean, and how many pairs it rests on.

    Tensors, or numpy arrays and scalars for numpy input.
    """

    cosines: Array
    mean: Tensor | np.float64
    n_rows: Tensor | np.int64
    n_zero: Tensor | np.int64
    n_nonfinite: Tensor | np.int64


def cross_cosine(
    x: Array,
    y: Array,
    x_labels: Array | None = None,
    y_labels: Array | None = None,
    *,
    num_classes: int | None = None,
) -> CrossCosineMeans:
    """Mean cosine similarity over all pairs of a row of `x` and a row of `y`.

    It tells how alike two batches are: training and test data in one layer, features of two steps,
    or two layers of equal width. The formulas stand at the top of this module; no pair is looked
    at. There is no epsilon: only rows that are exactly zero or hold a NaN or Inf are left out, and
    counted. The result does not depend on the number of threads.

    Args:
        x: Rows, `[n, ...]`, flattened to `[n, d]`; float16, bfloat16, float32 or float64; any
            strides (no copy where each row is contiguous); a tensor or a numpy array. A 1-D input
            is n rows of one number each; a single vector is `x[None]`.
        y: Rows, `[m, ...]`, as long as those of `x`; any of these dtypes.
        x_labels: Class of each row of `x`, integer, `[n]`. Without labels `within` and `between`
            are NaN.
        y_labels: Class of each row of `y`, integer, `[m]`; where `x_labels` are given, too.
        num_classes: Number of classes; default: the largest label + 1. Give it inside
            `torch.compile`.

    Returns:
        `CrossCosineMeans`: `all`, `within` (rows of the same class), `between` (of different
        classes) in [-1, 1], float64, NaN where there is no pair; of either batch the rows that took
        part, the all-zero rows, and those with NaN or Inf. Detached: no gradient flows through it.

    Raises:
        TypeError: `x` or `y` is no array of a supported float dtype, or labels are not integers.
        ValueError: Rows of different length; labels for one batch only, of the wrong shape, or
            outside `0 ... num_classes - 1`.

    Absolute error: at most 1e-6 for float32 and 1e-5 for half precision input, 1e-12 for float64.

    Example:
        >>> import torch
        >>> x, y = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        >>> means = cross_cosine(x, y, torch.tensor([0, 1]), torch.tensor([0, 1]))
        >>> means.all.item(), means.within.item(), means.between.item()
        (0.5, 1.0, 0.0)
        >>> int(means.n_x_rows), int(means.n_y_rows), int(means.n_y_zero)
        (2, 1, 1)
    """
    left, right = as_rows(x, "x"), as_rows(y, "y")
    if (x_labels is None) != (y_labels is None):
        given, missing = ("y", "x") if x_labels is None else ("x", "y")
        raise ValueError(
            f"{missing}_labels: missing, but {given}_labels were given; pass both, or neither"
        )
    values = torch.ops.tfc_fast.cross_cosine.default(
        left,
        *group_labels(x_labels, num_classes, left, "x_labels"),
        right,
        *group_labels(y_labels, num_classes, right, "y_labels"),
    )
    return CrossCosineMeans(*measures_and_counts(values, 3, isinstance(x, np.ndarray)))


def paired_cosine(x: Array, y: Array) -> PairedCosines:
    """Cosine similarity of each row of `x` with the row of `y` at the same place.

    It tells how far the feature of each sample has turned: between two steps, two layers of equal
    width, or with and without a change to the input. There is no epsilon: rows of any size have
    their cosine, with an error below 1e-12, and a row with itself has exactly 1. A pair in which a
    row is exactly zero or holds a NaN or Inf is not measured: its cosine is NaN, and it is counted.
    The result does not depend on the number of threads.

    Args:
        x: Rows, `[n, ...]`, flattened to `[n, d]`; float16, bfloat16, float32 or float64; any
            strides (no copy where each row is contiguous); a tensor or a numpy array. A 1-D input
            is n rows of one number each; a single vector is `x[None]`.
        y: Rows, `[n, ...]`, as many and as long as those of `x`, and of the same dtype.

    Returns:
        `PairedCosines`: `cosines`, float64 `[n]` in [-1, 1]; their `mean` over the pairs that were
        measured, float64, NaN if there is none; `n_rows` pairs that were measured; `n_zero` pairs
        of finite rows with a zero row; `n_nonfinite` pairs with NaN or Inf. Detached: no gradient
        flows through it.

    Raises:
        TypeError: `x` or `y` is no array of a supported float dtype, or their dtypes differ.
        ValueError: `x` and `y` differ in number or length of rows, or have no dimension.

    Example:
        >>> import torch
        >>> before = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
        >>> after = torch.tensor([[3.0, 0.0], [0.0, 1e-30], [1.0, 1.0]])
        >>> turned = paired_cosine(before, after)
        >>> turned.cosines
        tensor([1.0000, 0.7071,    nan], dtype=torch.float64)
        >>> round(turned.mean.item(), 4), int(turned.n_zero)
        (0.8536, 1)
    """
    cosines, summary = torch.ops.tfc_fast.paired_cosine.default(as_rows(x, "x"), as_rows(y, "y"))
    as_numpy = isinstance(x, np.ndarray)
    return PairedCosines(
        cosines.numpy() if as_numpy else cosines, *measures_and_counts(summary, 1, as_numpy)
    )
