"""Slow, obvious twins of the statistics of gates: every pair of rows, exact fractions."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from reference_pairs import KINDS, Array, Floats, Mask, as_float64, fraction, pairs_by_kind


class GateStats(NamedTuple):
    """Exact fractions; NaN where nothing was measured."""

    active_rate: Fraction | float
    dead_frac: Fraction | float
    always_on_frac: Fraction | float
    agreement_all: Fraction | float
    agreement_within: Fraction | float
    agreement_between: Fraction | float
    n_rows: int


def gate_stats(features: Array, labels: Array | None = None) -> GateStats:
    """Rates of open gates, and the mean fraction of units in the same state over pairs of rows."""
    gates = GateCounts()
    gates.add(features, labels)
    return gates.stats()


def pack_gates(features: Array) -> npt.NDArray[np.int64]:
    """Bit j % 64 of word j // 64 says whether unit j is open."""
    is_open = as_float64(features) > 0
    rows, width = is_open.shape
    words = np.zeros((rows, -(-width // 64)), np.uint64)
    for j in range(width):
        words[:, j // 64] |= is_open[:, j].astype(np.uint64) << np.uint64(j % 64)
    return words.view(np.int64)


def agreement_matrix(features: Array, y: Array | None = None, metric: str = "hamming") -> Floats:
    """Share of units in the same state, or of those open in either row that are so in both."""
    left = as_float64(features) > 0
    right = left if y is None else as_float64(y) > 0
    in_both, in_none = _open_in_both(left, right), _open_in_both(~left, ~right)
    width = left.shape[1]
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        if metric == "hamming":
            return (in_both + in_none) / np.float64(width)
        return in_both / (width - in_none)


def agreement_histogram(
    features: Array, labels: Array | None = None
) -> dict[str, npt.NDArray[np.int64]]:
    """Pairs of rows that agree in 0, 1, ... d units."""
    is_open = as_float64(features) > 0
    rows, width = is_open.shape
    agreeing = (_open_in_both(is_open, is_open) + _open_in_both(~is_open, ~is_open)).astype(int)
    pairs = pairs_by_kind(labels, np.ones(rows, np.bool_))
    return {kind: np.bincount(agreeing[mask], minlength=width + 1) for kind, mask in pairs.items()}


class UnitActivity:
    """Remembers in which updates each unit was open in how many rows."""

    def __init__(self, num_units: int, window: int) -> None:
        self.window = window
        self.open_rows: list[list[int]] = [[] for _ in range(num_units)]
        self.n_rows = 0

    def update(self, features: Array) -> None:
        is_open = as_float64(features) > 0
        self.n_rows += len(is_open)
        for unit, gates in zip(self.open_rows, is_open.T, strict=True):
            unit.append(int(gates.sum()))

    @property
    def active_rate(self) -> list[float]:
        return [float(fraction(sum(unit), self.n_rows)) for unit in self.open_rows]

    @property
    def last_active(self) -> list[int]:
        return [max([t for t, k in enumerate(unit, 1) if k], default=0) for unit in self.open_rows]

    @property
    def dead_window(self) -> list[bool]:
        return [not any(unit[-self.window :]) for unit in self.open_rows]

    @property
    def revived(self) -> list[int]:
        return [
            sum(
                unit[t] > 0 and t >= self.window and not any(unit[t - self.window : t])
                for t in range(len(unit))
            )
            for unit in self.open_rows
        ]


@dataclass
class GateCounts:
    """Counts of gates over micro-batches; integers throughout."""

    rows: int = 0
    gates: int = 0
    open: int = 0
    agreeing: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    compared: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    open_in_some: Any = False  # [d] after the first micro-batch
    open_in_all: Any = True

    def add(self, features: Array, labels: Array | None) -> None:
        is_open = as_float64(features) > 0  # a NaN is closed
        rows, width = is_open.shape
        self.rows += rows
        self.gates += rows * width
        self.open += int(is_open.sum())
        self.open_in_some = self.open_in_some | is_open.any(axis=0)
        self.open_in_all = self.open_in_all & is_open.all(axis=0)
        agreeing_units = _open_in_both(is_open, is_open) + _open_in_both(~is_open, ~is_open)
        for kind, mask in pairs_by_kind(labels, np.ones(rows, np.bool_)).items():
            self.agreeing[kind] += int(agreeing_units[mask].sum())
            self.compared[kind] += int(mask.sum()) * width

    def stats(self) -> GateStats:
        width = len(self.open_in_some) if self.rows else 0
        return GateStats(
            fraction(self.open, self.gates),
            fraction(int((~self.open_in_some).sum()), width),
            fraction(int(self.open_in_all.sum()), width),
            *(fraction(self.agreeing[kind], self.compared[kind]) for kind in KINDS),
            n_rows=self.rows,
        )


def _open_in_both(left: Mask, right: Mask) -> Floats:
    # Whole numbers below 2^53, so float64 holds them exactly, and its product is the fast one.
    return left.astype(np.float64) @ right.T.astype(np.float64)
