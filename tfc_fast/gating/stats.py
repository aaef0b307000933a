"""Which units are open: statistics of the gates `x > 0` of a layer.

With `k_j` of n rows open at unit j, the fraction of units in the same state, averaged over pairs of
rows, is `sum_j [C(k_j, 2) + C(n - k_j, 2)] / (d C(n, 2))`; within and between classes it follows
from the counts per class. All counts are integers: the results are exact up to the last division.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tfc_fast import _extension  # noqa: F401  (registers the ops)
from tfc_fast._inputs import Array, as_rows, group_labels
from tfc_fast._results import measures_and_counts

__all__ = ["GateStats", "gate_stats"]


class GateStats(NamedTuple):
    """Gating statistics of one batch: float64 tensors of no dimension, or numpy scalars.

    A statistic over no pairs, or of no rows, is NaN.
    """

    active_rate: Tensor | np.float64
    dead_frac: Tensor | np.float64
    always_on_frac: Tensor | np.float64
    agreement_all: Tensor | np.float64
    agreement_within: Tensor | np.float64
    agreement_between: Tensor | np.float64
    n_rows: Tensor | np.int64


def gate_stats(
    features: Array, labels: Array | None = None, *, num_classes: int | None = None
) -> GateStats:
    """How often units are open, which never or always are, and how alike the gates of samples are.

    Args:
        features: Outputs of a ReLU (or any values), `[n, ...]`, flattened to `[n, d]`; float16,
            bfloat16, float32 or float64; a tensor or a numpy array. A gate is open where the value
            is greater than 0; a NaN counts as closed.
        labels: Class of each row, integer, `[n]`. Without labels the agreements within and between
            classes are NaN.
        num_classes: Number of classes; default: the largest label + 1.

    Returns:
        `GateStats`: `active_rate` = open gates / (n d); `dead_frac` = units open in no row;
        `always_on_frac` = units open in every row; `agreement_*` = fraction of units in the same
        state, averaged over pairs of different rows (all, of one class, of different classes), all
        in [0, 1]; `n_rows` = n.

    Raises:
        TypeError: `features` is no array of a supported float dtype, or `labels` are not integers.
        ValueError: `features` has no dimension, `labels` is not `[n]`, or a label is outside
            `0 ... num_classes - 1`.

    Example:
        >>> import torch
        >>> features = torch.tensor([[1.0, 0.0, 2.0], [3.0, 0.0, 0.0]])
        >>> stats = gate_stats(features)
        >>> stats.active_rate.item(), stats.dead_frac.item(), stats.agreement_all.item()
        (0.5, 0.333..., 0.666...)
    """
    rows = as_rows(features, "features")
    order, class_ptr = group_labels(labels, num_classes, rows)
    values = torch.ops.tfc_fast.gate_stats.default(rows, order, class_ptr)
    return GateStats(*measures_and_counts(values, 6, isinstance(features, np.ndarray)))
