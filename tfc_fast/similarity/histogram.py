r"""Distribution of the cosine similarities over all pairs of rows, without the matrix of pairs.

The matrix is computed tile by tile; each tile is counted while it is in cache, and forgotten. Rows
are visited class by class, so that the pairs of one class are neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from tfc_fast import _extension  # noqa: F401  (registers the ops)
from tfc_fast._histogram import Kind, PairHistogram, as_numpy_array, by_kind, checked_shares
from tfc_fast._inputs import Array, as_count, as_rows_to_keep, group_labels

__all__ = ["CosineHistogram", "cosine_histogram"]

MOST_BINS = 2**16


@dataclass(frozen=True)
class CosineHistogram(PairHistogram):
    """Counts of pairs of rows by their cosine.

    Attributes:
        all: Pairs of rows in each bin, int64 `[bins]`; they add up to `M (M - 1) / 2` for M rows.
        within: Those of two rows of the same class; without labels 0.
        between: Those of rows of different classes; without labels 0.
        edges: Where the bins begin and end, float64 `[bins + 1]`, from -1 to 1 in equal steps. A
            bin holds its lower edge, the last one both.
        n_rows: Rows that took part.
        n_zero: Rows left out because they are all zero.
        n_nonfinite: Rows left out because they hold a NaN or Inf.
    """

    edges: Array
    n_rows: int
    n_zero: int
    n_nonfinite: int

    def quantile(self, q: float | Array, kind: Kind = "all") -> np.float64 | np.ndarray:
        """The cosine below which a share `q` of the pairs lies, linear inside a bin.

        It is off by less than a bin. Without pairs it is NaN.

        Args:
            q: Shares in [0, 1].
            kind: `"all"`, `"within"` or `"between"`.

        Returns:
            float64, of the shape of `q`.
        """
        shares = checked_shares(q)
        counts, edges = self._counts(kind), as_numpy_array(self.edges)
        below = np.concatenate([[0], np.cumsum(counts)])
        pairs = below[-1]
        if pairs == 0:
            return np.full_like(shares, np.nan)[()]
        # The first bin that reaches the share; empty bins hold no quantile.
        bins = np.searchsorted(below[1:], shares * pairs)
        bins = np.clip(bins, *np.flatnonzero(counts)[[0, -1]])
        inside = (shares * pairs - below[bins]) / counts[bins]
        quantiles = edges[bins] + np.clip(inside, 0, 1) * (edges[bins + 1] - edges[bins])
        return np.asarray(quantiles)[()]

    def cdf(self, t: float | Array, kind: Kind = "all") -> np.float64 | np.ndarray:
        """The share of pairs whose cosine is at most `t`, linear inside a bin.

        Args:
            t: Cosines; below -1 gives 0, above 1 gives 1.
            kind: `"all"`, `"within"` or `"between"`.

        Returns:
            float64, of the shape of `t`; NaN where `t` is, and without pairs.
        """
        below = np.concatenate([[0], np.cumsum(self._counts(kind))])
        if below[-1] == 0:
            return np.full_like(np.asarray(t, np.float64), np.nan)[()]
        share = np.interp(np.asarray(t, np.float64), as_numpy_array(self.edges), below / below[-1])
        return np.asarray(share)[()]

    def _bars(self, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
        return self._counts(kind), as_numpy_array(self.edges)

    def _quantity(self) -> str:
        return "cosine similarity"


def cosine_histogram(
    x: Array, labels: Array | None = None, *, num_classes: int | None = None, bins: int = 256
) -> CosineHistogram:
    """Count all pairs of different rows by their cosine, within and between classes.

    The counts are exact integers; only a cosine within 1e-6 (float64: 1e-12) of an edge may be
    counted on either side of it. They do not depend on the number of threads. There is no epsilon:
    only rows that are exactly zero or hold a NaN or Inf are left out, and counted. Costs about
    `n^2 d / 2` multiplications and, besides the input, a few megabytes and about 32 bytes per row;
    on a GPU the unit rows and 64 MB.

    Args:
        x: Rows, `[n, ...]`, flattened to `[n, d]`; float16, bfloat16, float32 or float64; any
            strides (no copy where each row is contiguous); a tensor or a numpy array. A 1-D input
            is n rows of one number each; a single vector is `x[None]`.
        labels: Class of each row, integer, `[n]`. Without labels `within` and `between` are 0.
        num_classes: Number of classes; default: the largest label + 1.
        bins: Bins of equal width from -1 to 1; 1 ... 65536.

    Returns:
        `CosineHistogram`, with `quantile`, `cdf` and `plot`; its arrays are tensors, or numpy
        arrays for numpy input.

    Raises:
        TypeError: `x` is no array of a supported float dtype, `labels` are not integers, or `bins`
            is no integer.
        ValueError: `x` has no dimension or is on meta, `labels` is not `[n]`, a label is outside
            `0 ... num_classes - 1`, or `bins` is out of range.

    Example:
        >>> import torch
        >>> x = torch.tensor([[2.0, 0.0], [1.0, 0.0], [1.0, 1.0], [-1.0, 0.0]])
        >>> histogram = cosine_histogram(x, torch.tensor([0, 0, 0, 1]), bins=4)
        >>> histogram.edges.tolist()
        [-1.0, -0.5, 0.0, 0.5, 1.0]
        >>> histogram.within.tolist(), histogram.between.tolist()
        ([0, 0, 0, 3], [3, 0, 0, 0])
        >>> float(histogram.cdf(0.5)), float(histogram.quantile(0.25, "between"))
        (0.5, -0.875)
    """
    # Not that they are kept, but the counts are looked at.
    rows = as_rows_to_keep(x, "x")
    bins = as_count(bins, "bins", 1, MOST_BINS)
    order, class_ptr = group_labels(labels, num_classes, rows)
    counts, found = torch.ops.tfc_fast.cosine_histogram.default(rows, order, class_ptr, bins)
    edges = (2 * torch.arange(bins + 1, dtype=torch.float64, device=rows.device) - bins) / bins
    n_rows, n_zero, n_nonfinite = found.tolist()
    as_numpy = isinstance(x, np.ndarray)
    return CosineHistogram(
        **by_kind(counts, labels is not None, as_numpy),
        edges=edges.numpy() if as_numpy else edges,
        n_rows=n_rows,
        n_zero=n_zero,
        n_nonfinite=n_nonfinite,
    )
