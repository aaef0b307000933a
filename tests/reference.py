"""Slow, obvious float64 twins of the package's statistics, for tests and benchmarks.

They look at every pair of rows: n x n matrices, no sums of unit rows, no counts per class. Rows are
brought to a largest entry near 1 by a power of two, which is exact, so that 1e-300 is as good as 1.
Gate statistics are exact fractions (`reference_gates.py`).

Arrays are tensors or numpy arrays `[n, ...]` of any float dtype and strides.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from reference_gates import (
    GateCounts,
    GateStats,
    UnitActivity,
    agreement_histogram,
    agreement_matrix,
    gate_stats,
    pack_gates,
)
from reference_pairs import (
    KINDS,
    Array,
    Floats,
    Total,
    as_float64,
    fraction,
    mean,
    pairs_by_kind,
)

__all__ = [
    "Array",
    "CosineMeans",
    "CosineSpread",
    "CrossCosineMeans",
    "Floats",
    "GateStats",
    "PairedCosines",
    "UnitActivity",
    "agreement_histogram",
    "agreement_matrix",
    "as_float64",
    "cosine_matrix",
    "cosine_matrix_gradient",
    "cosine_spread",
    "cross_cosine",
    "gate_stats",
    "group_labels",
    "mean_cosine",
    "mean_cosine_gradient",
    "norms",
    "pack_gates",
    "paired_cosine",
    "site_record",
]


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
        *(mean(totals[kind]) for kind in KINDS),
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
    chosen = [distances[pairs] for pairs in pairs_by_kind(labels, rows.valid).values()]
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
    weights = as_float64(grad)
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
    for grad, mask in zip(grads, pairs_by_kind(labels, valid).values(), strict=True):
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
        *(mean(Total(float(cosines[masks[kind]].sum()), int(masks[kind].sum()))) for kind in KINDS),
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
        mean(Total(math.fsum(measured), len(measured))),
        *(int(mask.sum()) for mask in (valid, zero, nonfinite)),
    )


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
    totals = {f"{name}_cos_{kind}": Total() for name in ("feature", "grad") for kind in KINDS} | {
        f"{name}_norm_mean": Total() for name in ("feature", "grad")
    }
    counts = dict.fromkeys(("n_rows", "n_zero_features", "n_zero_grads", "n_nonfinite"), 0)
    gates = GateCounts()
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
        [(as_float64(f) > 0).any(axis=0) for f in earlier] or [False], axis=0
    )
    return {
        **{name: mean(total) for name, total in totals.items()},
        "active_rate": float(stats.active_rate),
        "gate_agreement_all": float(stats.agreement_all),
        "gate_agreement_within": float(stats.agreement_within),
        "gate_agreement_between": float(stats.agreement_between),
        "dead_frac": float(stats.dead_frac),
        "always_on_frac": float(stats.always_on_frac),
        "dead_window_frac": float(fraction(int((~seen).sum()), len(seen) if gates.rows else 0)),
        **{name: float(count) for name, count in counts.items()},
    }


def _micro_batches(arrays: Array | Sequence[Array]) -> Sequence[Array]:
    return arrays if isinstance(arrays, (list, tuple)) else [arrays]


class _Rows:
    """Which rows of an array are valid, their unit rows and norms."""

    def __init__(self, x: Array) -> None:
        rows = as_float64(x)
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

    def cosines(self, labels: Array | None) -> dict[str, Total]:
        cosines = self.units @ self.units.T
        return {
            kind: Total(float(cosines[mask].sum()), int(mask.sum()))
            for kind, mask in pairs_by_kind(labels, self.valid).items()
        }
