"""Records thinned out for drawing: mean, smallest and largest value in bins of steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc_fast.phases.sites import site_codes

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

MAX_BINS = 500
"""Bins that a figure can show: more would be finer than its pixels."""


@dataclass(frozen=True)
class Band:
    """One column in bins, `[sites, bins]`, NaN where nothing finite was measured.

    Attributes:
        mean: mean of the values in the bin.
        low: smallest of them.
        high: largest of them.
    """

    mean: FloatArray
    low: FloatArray
    high: FloatArray


class BinnedRecords:
    """Records with their steps put into bins; made by `bin_records`.

    Attributes:
        sites: names of the sites, as first recorded.
        steps: mean step of each bin, `[bins]`.
        edges: first step of each bin, and where the last one ends: as far behind the last step as
            recorded steps mostly (median) lie apart, `[bins + 1]`.
        lasts: last recorded step of each bin, `[bins]`.
    """

    def __init__(self, records: Mapping[str, npt.NDArray[Any]], max_bins: int) -> None:
        if max_bins < 1:
            raise ValueError(f"max_bins: {max_bins} given, at least 1 is wanted")
        self._records = records
        unique, rank = np.unique(np.asarray(records["step"], np.int64), return_inverse=True)
        self.sites, code = site_codes(records["site"])
        bins = min(max_bins, unique.size)
        # Bins hold equal numbers of recorded steps, so none is empty, however sparse the records.
        bin_of = np.arange(unique.size) * bins // max(unique.size, 1)
        first = np.searchsorted(bin_of, np.arange(bins))
        distance = int(np.median(np.diff(unique))) if unique.size > 1 else 1
        self.edges: IntArray = np.append(unique[first], unique[-1:] + distance)
        self.lasts: IntArray = unique[np.append(first, unique.size)[1:] - 1]
        counts = np.bincount(bin_of, minlength=bins)
        self.steps: FloatArray = np.bincount(bin_of, unique, minlength=bins) / counts
        cell = code * bins + bin_of[rank]
        self._order = np.argsort(cell, kind="stable")
        cell = cell[self._order]
        self._starts = np.flatnonzero(np.diff(cell, prepend=-1))
        self._cells = cell[self._starts]

    def band(self, column: str) -> Band | None:
        """A column in bins.

        Args:
            column: name of a column with numbers.

        Returns:
            The band; None if no value of the column is finite, or there is no such column.
        """
        values = self._records.get(column)
        if values is None:
            return None
        sorted_values = np.asarray(values, np.float64)[self._order]
        finite = np.isfinite(sorted_values)
        if not finite.any():
            return None
        counts = np.add.reduceat(finite.astype(np.int64), self._starts)
        sums = np.add.reduceat(np.where(finite, sorted_values, 0.0), self._starts)
        low = np.minimum.reduceat(np.where(finite, sorted_values, np.inf), self._starts)
        high = np.maximum.reduceat(np.where(finite, sorted_values, -np.inf), self._starts)
        measured = counts > 0
        mean = sums[measured] / counts[measured]
        cells = self._cells[measured]
        return Band(*(self._grid(cells, part) for part in (mean, low[measured], high[measured])))

    def _grid(self, cells: IntArray, values: FloatArray) -> FloatArray:
        grid = np.full(len(self.sites) * self.steps.size, np.nan)
        grid[cells] = values
        return grid.reshape(len(self.sites), self.steps.size)


def bin_records(records: Mapping[str, npt.NDArray[Any]], max_bins: int = MAX_BINS) -> BinnedRecords:
    """Put the steps of records into bins; with few steps every bin is one step.

    Args:
        records: columns `step`, `site` and the columns to draw, equal-length 1-D.
        max_bins: largest number of bins.

    Returns:
        The binned records; columns are binned when they are asked for.

    Raises:
        ValueError: `max_bins` is less than 1.

    Example:
        >>> records = {"step": np.arange(4), "site": np.array(["relu"] * 4, dtype=object),
        ...            "active_rate": np.array([0.5, 0.25, 1.0, 0.5])}
        >>> binned = bin_records(records, max_bins=2)
        >>> binned.band("active_rate").mean
        array([[0.375, 0.75 ]])
    """
    return BinnedRecords(records, max_bins)
