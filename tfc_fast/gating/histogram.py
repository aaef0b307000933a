"""Distribution of the agreement of gates over all pairs of rows, without the matrix of pairs.

Two rows of d units agree in 0, 1, ... or d of them, so that there are d + 1 values and every pair
is counted exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tfc_fast import _extension  # noqa: F401  (registers the ops)
from tfc_fast._histogram import Kind, PairHistogram, as_numpy_array, by_kind, checked_shares
from tfc_fast._inputs import Array, as_packed_gates, group_labels

__all__ = ["AgreementHistogram", "agreement_histogram"]

MOST_BARS = 128


@dataclass(frozen=True)
class AgreementHistogram(PairHistogram):
    """Counts of pairs of rows by the units in which they agree.

    Attributes:
        all: Pairs of rows that agree in 0, 1, ... d units, int64 `[d + 1]`; they add up to
            `n (n - 1) / 2`.
        within: Those of two rows of the same class; without labels 0.
        between: Those of rows of different classes; without labels 0.
        values: The agreement that each count stands for, `k / d`, float64 `[d + 1]`.
        n_rows: Rows, n.
    """

    values: Array
    n_rows: int

    def mean(self, kind: Kind = "all") -> np.float64:
        """Mean agreement, that of `gate_stats`; NaN without pairs.

        Args:
            kind: `"all"`, `"within"` or `"between"`.
        """
        counts = self._counts(kind)
        units = int((counts * np.arange(len(counts))).sum())
        compared = int(counts.sum()) * (len(counts) - 1)
        mean: np.float64 = np.float64(units / compared if compared else np.nan)
        return mean

    def quantile(self, q: float | Array, kind: Kind = "all") -> np.float64 | np.ndarray:
        """The least agreement that a share `q` of the pairs does not exceed.

        It is the agreement of some pair, never a value in between. Without pairs it is NaN.

        Args:
            q: Shares in [0, 1]; 0 gives the least agreement of all pairs.
            kind: `"all"`, `"within"` or `"between"`.

        Returns:
            float64, of the shape of `q`.
        """
        shares = checked_shares(q)
        counts = self._counts(kind)
        up_to = np.cumsum(counts)
        if up_to[-1] == 0:
            return np.full_like(shares, np.nan)[()]
        index = np.searchsorted(up_to, shares * up_to[-1])
        index = np.maximum(index, np.flatnonzero(counts)[0])
        return np.asarray(as_numpy_array(self.values)[index])[()]

    def cdf(self, t: float | Array, kind: Kind = "all") -> np.float64 | np.ndarray:
        """The share of pairs whose agreement is at most `t`.

        Args:
            t: Agreements; below 0 gives 0, above 1 gives 1.
            kind: `"all"`, `"within"` or `"between"`.

        Returns:
            float64, of the shape of `t`; NaN where `t` is, and without pairs.
        """
        up_to = np.concatenate([[0], np.cumsum(self._counts(kind))])
        at = np.asarray(t, np.float64)
        if up_to[-1] == 0 or len(up_to) == 2:
            return np.full_like(at, np.nan)[()]
        index = np.searchsorted(as_numpy_array(self.values), at, side="right")
        # A NaN is sorted behind all values, as if it were the largest.
        return np.asarray(np.where(np.isnan(at), np.nan, up_to[index] / up_to[-1]))[()]

    def _bars(self, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
        """Neighbouring values, so many together that there are few bars."""
        counts = self._counts(kind)
        together = -(-len(counts) // MOST_BARS)
        first = np.arange(0, len(counts), together)
        ends = np.append(first, first[-1] + together)
        return np.add.reduceat(counts, first), (ends - 0.5) / max(len(counts) - 1, 1)

    def _quantity(self) -> str:
        return "agreement of gates"


def agreement_histogram(
    features_or_packed: Array,
    labels: Array | None = None,
    *,
    num_classes: int | None = None,
    num_units: int | None = None,
) -> AgreementHistogram:
    """Count all pairs of different rows by the units in which their gates agree.

    The counts are exact, within and between classes as well, and do not depend on the number of
    threads. Besides packed input and the `d + 1` counts, a few megabytes and 32 bytes per unit and
    thread are needed, whatever n is.

    Args:
        features_or_packed: Features `[n, ...]`, flattened to `[n, d]`, of a float dtype, or their
            gates as `pack_gates` gives them, int64 `[n, ceil(d / 64)]`; a tensor or a numpy array.
        labels: Class of each row, integer, `[n]`. Without labels `within` and `between` are 0.
        num_classes: Number of classes; default: the largest label + 1.
        num_units: `d`, at most 2^28. Needed with packed gates; bits beyond it are ignored.

    Returns:
        `AgreementHistogram`, with `mean`, `quantile`, `cdf` and `plot`; its arrays are tensors, or
        numpy arrays for numpy input.

    Raises:
        TypeError: `features_or_packed` is no array of a supported dtype, or `labels` or `num_units`
            are not integers.
        ValueError: `labels` is not `[n]`, a label is outside `0 ... num_classes - 1`, or
            `num_units` is missing or does not fit.

    Example:
        >>> import torch
        >>> features = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 4.0]])
        >>> histogram = agreement_histogram(features, torch.tensor([0, 0, 1]))
        >>> histogram.values.tolist()
        [0.0, 0.5, 1.0]
        >>> histogram.within.tolist(), histogram.between.tolist()
        ([0, 1, 0], [1, 1, 0])
        >>> float(histogram.quantile(0.5)), float(histogram.mean("between"))
        (0.5, 0.25)
    """
    rows, units = as_packed_gates(features_or_packed, "features_or_packed", num_units)
    order, class_ptr = group_labels(labels, num_classes, rows)
    counts = torch.ops.tfc_fast.agreement_histogram.default(rows, order, class_ptr, units)
    values = torch.arange(units + 1, dtype=torch.float64, device=rows.device) / units
    as_numpy = isinstance(features_or_packed, np.ndarray)
    return AgreementHistogram(
        **by_kind(counts, labels is not None, as_numpy),
        values=values.numpy() if as_numpy else values,
        n_rows=rows.shape[0],
    )
