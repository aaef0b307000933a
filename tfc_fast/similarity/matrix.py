r"""The matrix of cosine similarities itself, for when every pair is wanted.

With `u_i = x_i / |x_i|` and `v_j = y_j / |y_j|`, entry `(i, j)` is `u_i . v_j`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tfc_fast import _extension  # noqa: F401  (registers the ops)
from tfc_fast._inputs import Array, as_output, as_rows

__all__ = ["cosine_matrix"]


def cosine_matrix(x: Array, y: Array | None = None, *, out: Array | None = None) -> Array:
    """Cosine similarity of every row of `x` with every row of `y`, or of `x`.

    There is no epsilon: rows of any size give right cosines, 1e-30 as well as 1e+30. A row of zeros
    has no direction: its cosines are 0. A row with a NaN or Inf gives NaN. Without `y` only half of
    the products are computed: the result is symmetric to the last bit, with exactly 1 on the
    diagonal where the row is neither. The result does not depend on the number of threads; on a GPU
    it depends on the shapes and the values alone.

    The matrix can be differentiated with respect to `x` and `y`, as often as you like. A row of
    zeros or with a NaN or Inf gets a gradient of exactly 0 and adds nothing to that of others. The
    products of the backward are torch's: on the CPU `torch.set_float32_matmul_precision` holds for
    them, on a GPU they are never TF32.

    The `n m` numbers of the result are needed besides the input, and unit rows of up to 64 MB for
    each of `x` and `y` (on a GPU all unit rows and 64 MB); the backward makes the unit rows, and up
    to two more matrices of that size. Means, spread or distribution of the entries cost far less:
    see `mean_cosine`, `cosine_spread` and `cosine_histogram`.

    Args:
        x: Rows, `[n, ...]`, flattened to `[n, d]`; float16, bfloat16, float32 or float64; any
            strides (no copy where each row is contiguous); a tensor or a numpy array. A 1-D input
            is n rows of one number each; a single vector is `x[None]`.
        y: Rows, `[m, ...]`, as long as those of `x` and of the same dtype. Default: `x`.
        out: Where to put the result: a tensor or writable numpy array `[n, m]` of the result's
            dtype, of any strides, apart in memory from `x` and `y`. Not for differentiation.

    Returns:
        `[n, m]` in [-1, 1], float32 for half precision and float32 input, float64 for float64;
        `out` if that was given.

    Raises:
        TypeError: `x` or `y` is no array of a supported float dtype, their dtypes differ, or `out`
            has another dtype than the result.
        ValueError: Rows of different length; `out` has the wrong shape, cannot be written to,
            shares memory with the input or with itself, or is given where `x` or `y` requires grad.

    Absolute error: at most 1e-6, for float64 1e-12.

    Example:
        >>> import torch
        >>> x = torch.tensor([[3.0, 4.0], [0.0, 1e-30], [0.0, 0.0]])
        >>> cosine_matrix(x)
        tensor([[1.0000, 0.8000, 0.0000],
                [0.8000, 1.0000, 0.0000],
                [0.0000, 0.0000, 0.0000]])
        >>> cosine_matrix(x, torch.tensor([[0.0, -2.0]])).T
        tensor([[-0.8000, -1.0000,  0.0000]])
    """
    rows = as_rows(x, "x", differentiable=True)
    columns = None if y is None else as_rows(y, "y", differentiable=True)
    if out is None:
        cosines: Tensor = torch.ops.tfc_fast.cosine_matrix.default(rows, columns)
        return cosines.detach().numpy() if isinstance(x, np.ndarray) else cosines
    if torch.is_grad_enabled():
        for name, value in (("x", rows), ("y", columns)):
            if value is not None and value.requires_grad:
                raise ValueError(
                    f"out: cannot be differentiated, but {name} requires grad; pass "
                    f"{name}.detach(), or leave out= away"
                )
    torch.ops.tfc_fast.cosine_matrix_out.default(rows, columns, as_output(out))
    return out
