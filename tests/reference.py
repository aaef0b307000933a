"""Slow, obvious float64 twins of the package's statistics, for tests and benchmarks.

They look at every pair of rows: n x n matrices, no sums of unit rows, no counts per class. Rows are
brought to a largest entry near 1 by a power of two, which is exact, so that 1e-300 is as good as 1.
Gate statistics are exact fractions.

Arrays are tensors or numpy arrays `[n, ...]` of any float dtype and strides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Array: TypeAlias = "torch.Tensor | npt.NDArray[Any]"
Floats: TypeAlias = "npt.NDArray[np.float64]"
Mask: TypeAlias = "npt.NDArray[np.bool_]"

_KINDS = ("all", "within", "between")


class CosineMeans(NamedTuple):
    all: float
    within: float
    between: float
    n_rows: int
    n_zero: int
    n_nonfinite: int


class CosineSpread(NamedTuple):
    all: float
    within: float
    between: float
    n_rows: int
    n_zero: int
    n_nonfinite: int


class CrossCosineMeans(NamedTuple):
    all: float
    within: float
    between: float
    n_x_rows: int
    n_x_zero: int
    n_x_nonfinite: int
    n_y_rows: int
    n_y_zero: int
    n_y_nonfinite: int


class PairedCosines(NamedTuple):
    cosines: Floats
    mean: float
    n_rows: int
    n_zero: int
    n_nonfinite: int


class GateStats(NamedTuple):
    """Exact fractions; NaN where nothing was measured."""

    active_rate: Fraction | float
    dead_frac: Fraction | float
    always_on_frac: Fraction | float
    agreement_all: Fraction | float
    agreement_within: Fraction | float
    agreement_between: Fraction | float
    n_rows: int


def group_labels(
    labels: Array, num_classes: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows sorted by class, rows of one class as they lie, and where each class begins."""
    values = [int(label) for label in labels]
    order = [row for c in range(num_classes) for row, label in enumerate(values) if label == c]
    class_ptr = [sum(label < c for label in values) for c in range(num_classes + 1)]
    return np.array(order, np.int64), np.array(class_ptr, np.int64)


def mean_cosine(x: Array, labels: Array | None = None) -> CosineMeans:
    """Mean of the cosines of all pairs of valid rows, and within and between classes."""
    rows = _Rows(x)
    totals = rows.cosines(labels)
    return CosineMeans(
        *(_mean(totals[kind]) for kind in _KINDS),
        n_rows=int(rows.valid.sum()),
        n_zero=int(rows.zero.sum()),
        n_nonfinite=int(rows.nonfinite.sum()),
    )


def cosine_matrix(x: Array, y: Array | None = None) -> Floats:
    """Cosine of every row of `x` with every row of `y`, or of `x`; zero rows 0, bad rows NaN."""
    left = _Rows(x)
    right = left if y is None else _Rows(y)
    cosines = np.zeros((len(left.valid), len(right.valid)))
    cosines[np.ix_(left.valid, right.valid)] = left.units @ right.units.T
    cosines[left.nonfinite] = math.nan
    cosines[:, right.nonfinite] = math.nan
    if y is None:
        cosines[left.valid, left.valid] = 1
    return cosines


def cosine_spread(x: Array, labels: Array | None = None) -> CosineSpread:
    """Standard deviation of the cosines of all pairs of valid rows, and within and between classes.

    Of their distances from 1, that is, `|u - v|^2 / 2`, which keeps its digits when rows are nearly
    parallel.
    """
    rows = _Rows(x)
    distances = np.zeros((len(rows.units), len(rows.units)))
    for i, unit in enumerate(rows.units):
        distances[i] = ((rows.units - unit) ** 2).sum(axis=1) / 2
    chosen = [distances[pairs] for pairs in _pairs(labels, rows.valid).values()]
    return CosineSpread(
        *(float(values.std()) if len(values) else math.nan for values in chosen),
        n_rows=int(rows.valid.sum()),
        n_zero=int(rows.zero.sum()),
        n_nonfinite=int(rows.nonfinite.sum()),
    )


def cosine_matrix_gradient(grad: Array, x: Array, y: Array | None = None) -> Floats:
    """Gradient of `sum(grad * cosine_matrix(x, y))` with respect to x, each row times its norm.

    So that rows of all sizes can be compared; rows that are left out have 0.
    """
    left = _Rows(x)
    right = left if y is None else _Rows(y)
    weights = _as_float64(grad)
    if y is None:
        weights = weights + weights.T
        np.fill_diagonal(weights, 0)
    weights = weights[np.ix_(left.valid, right.valid)]
    cosines = left.units @ right.units.T
    out = np.zeros((len(left.valid), left.units.shape[1]))
    # d cos(i, j) / d x_i = (v_j - cos(i, j) u_i) / |x_i|
    out[left.valid] = weights @ right.units - (weights * cosines).sum(1, keepdims=True) * left.units
    return out


def mean_cosine_gradient(grads: Sequence[float], x: Array, labels: Array | None = None) -> Floats:
    """Gradient of `sum(grads * (all, within, between))` with respect to x, rows times norms.

    A mean over no pairs has no gradient.
    """
    valid = _Rows(x).valid
    weights = np.zeros((len(valid), len(valid)))
    for grad, mask in zip(grads, _pairs(labels, valid).values(), strict=True):
        if mask.any():
            weights[np.ix_(valid, valid)] += grad * mask / mask.sum()
    return cosine_matrix_gradient(weights, x)


def norms(x: Array) -> Floats:
    """Lengths of the rows `[n, 1]`; 1 for those that are left out."""
    rows = _Rows(x)
    out = np.ones((len(rows.valid), 1))
    out[rows.valid, 0] = rows.norms
    return out


def cross_cosine(
    x: Array, y: Array, x_labels: Array | None = None, y_labels: Array | None = None
) -> CrossCosineMeans:
    """Mean of the cosines of all pairs (valid row of x, valid row of y)."""
    left, right = _Rows(x), _Rows(y)
    cosines = left.units @ right.units.T
    pairs = np.ones(cosines.shape, np.bool_)
    masks = {"all": pairs, "within": pairs & False, "between": pairs & False}
    if x_labels is not None and y_labels is not None:
        same = np.asarray(x_labels)[left.valid][:, None] == np.asarray(y_labels)[right.valid]
        masks |= {"within": same, "between": ~same}
    return CrossCosineMeans(
        *(
            _mean(_Total(float(cosines[masks[kind]].sum()), int(masks[kind].sum())))
            for kind in _KINDS
        ),
        *(int(mask.sum()) for mask in (left.valid, left.zero, left.nonfinite)),
        *(int(mask.sum()) for mask in (right.valid, right.zero, right.nonfinite)),
    )


def paired_cosine(x: Array, y: Array) -> PairedCosines:
    """Cosine of each row of x with the row of y at the same place; NaN where one is left out."""
    left, right = _Rows(x), _Rows(y)
    nonfinite = left.nonfinite | right.nonfinite
    zero = (left.zero | right.zero) & ~nonfinite
    valid = ~nonfinite & ~zero
    cosines = np.full(len(valid), math.nan)
    for i in np.flatnonzero(valid):
        u = left.units[int(left.valid[:i].sum())]
        v = right.units[int(right.valid[:i].sum())]
        cosines[i] = math.fsum(u * v)
    measured = cosines[valid]
    return PairedCosines(
        cosines,
        _mean(_Total(math.fsum(measured), len(measured))),
        *(int(mask.sum()) for mask in (valid, zero, nonfinite)),
    )


def gate_stats(features: Array, labels: Array | None = None) -> GateStats:
    """Rates of open gates, and the mean fraction of units in the same state over pairs of rows."""
    gates = _Gates()
    gates.add(features, labels)
    return gates.stats()


def pack_gates(features: Array) -> npt.NDArray[np.int64]:
    """Bit j % 64 of word j // 64 says whether unit j is open."""
    is_open = _as_float64(features) > 0
    rows, width = is_open.shape
    words = np.zeros((rows, -(-width // 64)), np.uint64)
    for j in range(width):
        words[:, j // 64] |= is_open[:, j].astype(np.uint64) << np.uint64(j % 64)
    return words.view(np.int64)


def agreement_matrix(features: Array, y: Array | None = None, metric: str = "hamming") -> Floats:
    """Share of units in the same state, or of those open in either row that are so in both."""
    left = _as_float64(features) > 0
    right = left if y is None else _as_float64(y) > 0
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
    is_open = _as_float64(features) > 0
    rows, width = is_open.shape
    agreeing = (_open_in_both(is_open, is_open) + _open_in_both(~is_open, ~is_open)).astype(int)
    pairs = _pairs(labels, np.ones(rows, np.bool_))
    return {kind: np.bincount(agreeing[mask], minlength=width + 1) for kind, mask in pairs.items()}


class UnitActivity:
    """Remembers in which updates each unit was open in how many rows."""

    def __init__(self, num_units: int, window: int) -> None:
        self.window = window
        self.open_rows: list[list[int]] = [[] for _ in range(num_units)]
        self.n_rows = 0

    def update(self, features: Array) -> None:
        is_open = _as_float64(features) > 0
        self.n_rows += len(is_open)
        for unit, gates in zip(self.open_rows, is_open.T, strict=True):
            unit.append(int(gates.sum()))

    @property
    def active_rate(self) -> list[float]:
        return [float(_fraction(sum(unit), self.n_rows)) for unit in self.open_rows]

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


def site_record(
    features: Array | Sequence[Array],
    grads: Array | Sequence[Array],
    labels: Array | Sequence[Array] | None = None,
    *,
    earlier: Iterable[Array] = (),
) -> dict[str, float]:
    """The measured columns of the record of one site and step (`records.COLUMNS[3:]`).

    Args:
        features: Features of the step: one array `[n, ...]`, or a sequence of one per micro-batch.
        grads: Gradients with respect to them, likewise.
        labels: Class of each row, `[n]`, likewise; None: `within` and `between` are NaN.
        earlier: Features of the earlier steps that the window of `dead_window_frac` reaches back
            to.
    """
    features, grads = _micro_batches(features), _micro_batches(grads)
    batch_labels = [None] * len(features) if labels is None else _micro_batches(labels)
    totals = {f"{name}_cos_{kind}": _Total() for name in ("feature", "grad") for kind in _KINDS} | {
        f"{name}_norm_mean": _Total() for name in ("feature", "grad")
    }
    counts = dict.fromkeys(("n_rows", "n_zero_features", "n_zero_grads", "n_nonfinite"), 0)
    gates = _Gates()
    for f, g, y in zip(features, grads, batch_labels, strict=True):
        f_rows, g_rows = _Rows(f), _Rows(g)
        for name, rows in (("feature", f_rows), ("grad", g_rows)):
            for kind, total in rows.cosines(y).items():
                totals[f"{name}_cos_{kind}"].add(total.sum, total.count)
            totals[f"{name}_norm_mean"].add(math.fsum(rows.norms), len(rows.norms))
        gates.add(f, y)
        counts["n_rows"] += len(f)
        counts["n_zero_features"] += int(f_rows.zero.sum())
        counts["n_zero_grads"] += int(g_rows.zero.sum())
        counts["n_nonfinite"] += int((f_rows.nonfinite | g_rows.nonfinite).sum())
    stats = gates.stats()
    seen = gates.open_in_some | np.any(
        [(_as_float64(f) > 0).any(axis=0) for f in earlier] or [False], axis=0
    )
    return {
        **{name: _mean(total) for name, total in totals.items()},
        "active_rate": float(stats.active_rate),
        "gate_agreement_all": float(stats.agreement_all),
        "gate_agreement_within": float(stats.agreement_within),
        "gate_agreement_between": float(stats.agreement_between),
        "dead_frac": float(stats.dead_frac),
        "always_on_frac": float(stats.always_on_frac),
        "dead_window_frac": float(_fraction(int((~seen).sum()), len(seen) if gates.rows else 0)),
        **{name: float(count) for name, count in counts.items()},
    }


@dataclass
class _Total:
    sum: float = 0.0
    count: int = 0

    def add(self, sum: float, count: int) -> None:
        self.sum += sum
        self.count += count


def _mean(total: _Total) -> float:
    return total.sum / total.count if total.count else math.nan


def _fraction(numerator: int, denominator: int) -> Fraction | float:
    return Fraction(numerator, denominator) if denominator else math.nan


def _micro_batches(arrays: Array | Sequence[Array]) -> Sequence[Array]:
    return arrays if isinstance(arrays, (list, tuple)) else [arrays]


def _as_float64(x: Array) -> Floats:
    if isinstance(x, torch.Tensor):
        x = x.detach().to(torch.float64).resolve_neg().numpy()
    return np.asarray(x, np.float64).reshape(len(x), math.prod(x.shape[1:]))


def _open_in_both(left: Mask, right: Mask) -> Floats:
    # Whole numbers below 2^53, so float64 holds them exactly, and its product is the fast one.
    return left.astype(np.float64) @ right.T.astype(np.float64)


def _pairs(labels: Array | None, chosen: Mask) -> dict[str, Mask]:
    """The pairs of different chosen rows, each once, as masks over the matrix of pairs."""
    rows = int(chosen.sum())
    pairs = np.triu(np.ones((rows, rows), np.bool_), k=1)
    if labels is None:
        return {"all": pairs, "within": pairs & False, "between": pairs & False}
    y = np.asarray(labels)[chosen]
    same = y[:, None] == y[None, :]
    return {"all": pairs, "within": pairs & same, "between": pairs & ~same}


class _Rows:
    """Which rows of an array are valid, their unit rows and norms."""

    def __init__(self, x: Array) -> None:
        rows = _as_float64(x)
        self.nonfinite = ~np.isfinite(rows).all(axis=1)
        self.zero = (rows == 0).all(axis=1)
        self.valid = ~self.nonfinite & ~self.zero
        self.units = rows[self.valid]
        self.norms = np.empty(len(self.units))
        for i, row in enumerate(self.units):
            exponent = math.frexp(np.abs(row).max())[1]
            scaled = np.ldexp(row, -exponent)
            length = math.sqrt(scaled @ scaled)
            self.units[i] = scaled / length
            with np.errstate(over="ignore"):  # a norm above 1.8e308 is inf
                self.norms[i] = np.ldexp(length, exponent)

    def cosines(self, labels: Array | None) -> dict[str, _Total]:
        cosines = self.units @ self.units.T
        return {
            kind: _Total(float(cosines[mask].sum()), int(mask.sum()))
            for kind, mask in _pairs(labels, self.valid).items()
        }


@dataclass
class _Gates:
    """Counts of gates over micro-batches; integers throughout."""

    rows: int = 0
    gates: int = 0
    open: int = 0
    agreeing: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    compared: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_KINDS, 0))
    open_in_some: Any = False  # [d] after the first micro-batch
    open_in_all: Any = True

    def add(self, features: Array, labels: Array | None) -> None:
        is_open = _as_float64(features) > 0  # a NaN is closed
        rows, width = is_open.shape
        self.rows += rows
        self.gates += rows * width
        self.open += int(is_open.sum())
        self.open_in_some = self.open_in_some | is_open.any(axis=0)
        self.open_in_all = self.open_in_all & is_open.all(axis=0)
        agreeing_units = _open_in_both(is_open, is_open) + _open_in_both(~is_open, ~is_open)
        for kind, mask in _pairs(labels, np.ones(rows, np.bool_)).items():
            self.agreeing[kind] += int(agreeing_units[mask].sum())
            self.compared[kind] += int(mask.sum()) * width

    def stats(self) -> GateStats:
        width = len(self.open_in_some) if self.rows else 0
        return GateStats(
            _fraction(self.open, self.gates),
            _fraction(int((~self.open_in_some).sum()), width),
            _fraction(int(self.open_in_all.sum()), width),
            *(_fraction(self.agreeing[kind], self.compared[kind]) for kind in _KINDS),
            n_rows=self.rows,
        )
