"""Gates as bits: 1 bit per unit instead of 16 to 64, ready to be compared."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tfc_fast import _extension  # noqa: F401  (registers the ops)
from tfc_fast._inputs import Array, as_rows

__all__ = ["pack_gates"]


def pack_gates(features: Array) -> Array:
    """The gates `features > 0` as bit masks.

    Bit `j % 64` of word `j // 64` is set where unit `j` is open; bits beyond the last unit are 0.
    The masks take a 32nd of the memory of float32 features, are made about as fast as those can be
    read, and are all that `agreement_matrix` and `agreement_histogram` need.

    Args:
        features: Outputs of a ReLU (or any values), `[n, ...]`, flattened to `[n, d]`; float16,
            bfloat16, float32 or float64; any strides (no copy where each row is contiguous); a
            tensor or a numpy array. A gate is open where the value is greater than 0; a NaN counts
            as closed.

    Returns:
        int64 `[n, ceil(d / 64)]`, a numpy array for numpy input.

    Raises:
        TypeError: `features` is no array of a supported float dtype.
        ValueError: `features` has no dimension.

    Example:
        >>> import torch
        >>> pack_gates(torch.tensor([[0.5, 0.0, 2.0], [-1.0, 3.0, float("nan")]]))
        tensor([[5],
                [2]])
    """
    packed: Tensor = torch.ops.tfc_fast.pack_gates.default(as_rows(features, "features"))
    return packed.numpy() if isinstance(features, np.ndarray) else packed
