"""How alike the gates of every row are to those of every other.

Two rows are compared by the units that are open in them, packed into bits: 64 units at a time.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tfc_fast import _extension  # noqa: F401  (registers the ops)
from tfc_fast._inputs import Array, as_output, as_packed_gates

__all__ = ["agreement_matrix"]


def agreement_matrix(
    features_or_packed: Array,
    y: Array | None = None,
    *,
    num_units: int | None = None,
    metric: Literal["hamming", "jaccard"] = "hamming",
    out: Array | None = None,
) -> Array:
    """Agreement of the gates of every row with those of every row of `y`, or of the same batch.

    With `a` and `b` the sets of units that are open in two rows of `d` units:

        hamming   1 - |a xor b| / d      units in the same state, of all units
        jaccard   |a and b| / |a or b|   units open in both, of those open in either

    Each entry is a quotient of whole numbers, rounded once to float32: it is the float32 nearest to
    the exact fraction. Without `y` only half of the pairs are computed, and the result is
    symmetric. It does not depend on the number of threads.

    Only `n m` numbers are needed besides packed input. The mean agreement costs far less
    (`gate_stats`), its distribution less memory (`agreement_histogram`).

    Args:
        features_or_packed: Features `[n, ...]`, flattened to `[n, d]`, of a float dtype, or their
            gates as `pack_gates` gives them, int64 `[n, ceil(d / 64)]`; a tensor or a numpy array.
        y: Features or packed gates of `m` rows of as many units. Default: the first argument.
        num_units: `d`, at most 2^28. Needed if an argument is packed; bits beyond it are ignored.
        metric: `"hamming"` or `"jaccard"`.
        out: Where to put the result: a float32 tensor or writable numpy array `[n, m]` of any
            strides, apart in memory from the input.

    Returns:
        float32 `[n, m]` in [0, 1]; `out` if that was given. Two rows with no open unit have no
        Jaccard agreement, and rows of no unit none at all: NaN.

    Raises:
        TypeError: An argument is no array of a supported dtype, `num_units` is no integer, or `out`
            is not float32.
        ValueError: Rows of different length, `num_units` is missing or does not fit, `metric` is
            unknown, or `out` has the wrong shape, cannot be written to, or shares memory.

    Example:
        >>> import torch
        >>> from tfc_fast.gating import pack_gates
        >>> features = torch.tensor([[1.0, 2.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
        >>> agreement_matrix(features)
        tensor([[1.0000, 0.7500],
                [0.7500, 1.0000]])
        >>> agreement_matrix(pack_gates(features), num_units=4, metric="jaccard")
        tensor([[1.0000, 0.5000],
                [0.5000, 1.0000]])
    """
    if metric not in ("hamming", "jaccard"):
        raise ValueError(f"metric: wanted 'hamming' or 'jaccard', got {metric!r}")
    rows, units = as_packed_gates(features_or_packed, "features_or_packed", num_units)
    columns = None
    if y is not None:
        columns, y_units = as_packed_gates(y, "y", num_units)
        if y_units != units:
            raise ValueError(
                f"y: rows have {y_units} units, but those of features_or_packed have {units}"
            )
    arguments = (rows, columns, units, metric == "jaccard")
    if out is None:
        agreement: Tensor = torch.ops.tfc_fast.agreement_matrix.default(*arguments)
        return agreement.numpy() if isinstance(features_or_packed, np.ndarray) else agreement
    torch.ops.tfc_fast.agreement_matrix_out.default(*arguments, as_output(out))
    return out
