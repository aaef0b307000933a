"""Sums of the unit rows of each class and what follows from them, run by the emulation."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import reference
import torch
from cuda_emulation.emulation import Array, Device, EmulationError, Library
from cuda_emulation.kernels import SCALARS, place_rows
from rows import all_sorts_of_rows
from torch import Tensor

# Of a sum of unit rows, relative to their number; of a mean.
SUM_TOLERANCE = dict.fromkeys(SCALARS, 4e-7) | {torch.float64: 1e-15}
MEAN_TOLERANCE = {
    torch.float32: 1e-6,
    torch.float64: 1e-12,
    torch.bfloat16: 1e-5,
    torch.float16: 1e-5,
}
each_dtype = pytest.mark.parametrize("dtype", SCALARS, ids=str)

Call = ctypes.c_void_p


def structure(name: str, *fields: tuple[str, Any]) -> type[ctypes.Structure]:
    return type(name, (ctypes.Structure,), {"_fields_": list(fields)})


# As in class_sums.h and emulated_class_sums.cpp.
Summary = structure(
    "Summary",
    *(
        (name, ctypes.c_int64)
        for name in ("workspace_bytes", "chunks", "chunk_rows", "tiles", "threads")
    ),
)
Groups = structure("Groups", *((name, Call) for name in ("order", "class_ptr", "label_at")))
ClassSums = structure("ClassSums", *((name, Call) for name in ("sums", "lost", "counts")))
ClassSide = structure(
    "ClassSide", ("sums", Call), ("lost", Call), ("counts", Call), ("classes", ctypes.c_int64)
)


@dataclass
class Sums:
    sums: Array
    lost: Array | None
    counts: Array
    chunks: int

    @classmethod
    def none(cls, classes: int, width: int, *, lost: bool = False) -> Sums:
        sums = np.zeros((classes, width))
        return cls(sums, sums.copy() if lost else None, np.zeros((classes, 3), np.int64), 0)

    def bits(self) -> bytes:
        lost = b"" if self.lost is None else self.lost.tobytes()
        return self.sums.tobytes() + lost + self.counts.tobytes()


def add_class_sums(
    library: Library,
    x: Tensor,
    labels: Array | None = None,
    classes: int = 1,
    to: Sums | None = None,
    *,
    seed: int = 0,
    skip_barrier: int = -1,
    gap: int = 0,
    offset: int = 0,
    multiprocessors: int = 1,
) -> Sums:
    """The sums `to`, or none, with the rows of x added."""
    device = Device(library, seed, skip_barrier)
    n, d = x.shape
    to = to or Sums.none(classes, d)
    shape = (ctypes.c_int64 * 4)(SCALARS.index(x.dtype), n, d, multiprocessors)
    plan: Any = Summary()
    library.functions.kernels_class_sums_plan(shape, ctypes.byref(plan))
    rows, stride = place_rows(device, x, gap, offset)
    groups: Any = Groups()
    if labels is not None:
        order, class_ptr = reference.group_labels(labels, classes)
        groups.order = device.place(order)
        groups.class_ptr = device.place(class_ptr)
        groups.label_at = device.place(np.asarray(labels)[order].astype(np.int32))
    result: Any = ClassSums()
    result.sums, sums = device.state(to.sums)
    lost = None
    if to.lost is not None:
        result.lost, lost = device.state(to.lost)
    result.counts, counts = device.state(to.counts)
    workspace, _ = device.empty((plan.workspace_bytes,), np.uint8)
    device.call(
        "kernels_add_class_sums",
        *(shape, Call(rows), stride, groups, Call(workspace), result),
    )
    return Sums(sums, lost, counts, plan.chunks)


def place_side(device: Device, of: Sums) -> ctypes.Structure:
    lost = None if of.lost is None else device.place(of.lost)
    return ClassSide(device.place(of.sums), lost, device.place(of.counts), len(of.sums))


def means_of(
    library: Library,
    x: Sums,
    y: Sums | None = None,
    *,
    labelled: bool,
    seed: int = 0,
    skip_barrier: int = -1,
) -> Array:
    device = Device(library, seed, skip_barrier)
    width = x.sums.shape[1]
    library.functions.kernels_class_products_doubles.restype = ctypes.c_int64
    size = library.functions.kernels_class_products_doubles(ctypes.c_int64(width))
    workspace, _ = device.empty((size,), np.float64)
    out_at, out = device.empty((6 if y is None else 9,), np.float64)
    sides = [place_side(device, side) for side in (x, y) if side is not None]
    name = "kernels_mean_cosine_of_sums" if y is None else "kernels_cross_cosine"
    device.call(name, *sides, width, int(labelled), Call(workspace), Call(out_at))
    return out


def weights_of(
    library: Library,
    of: Sums,
    grad: Array,
    *,
    labelled: bool,
    seed: int = 0,
    skip_barrier: int = -1,
) -> Array:
    device = Device(library, seed, skip_barrier)
    sums_at, sums = device.state(of.sums)
    factors, _ = device.empty((2,), np.float64)
    device.call(
        "kernels_sums_to_weights",
        *(Call(sums_at), Call(device.place(of.counts)), *of.sums.shape, int(labelled)),
        *(Call(device.place(grad)), Call(factors)),
    )
    return sums


def expected_sums(x: Tensor, labels: Array | None, classes: int) -> Sums:
    rows = reference._Rows(x)
    of_row = np.zeros(len(x), np.int64) if labels is None else labels
    sums = Sums.none(classes, x.shape[1])
    for c in range(classes):
        mine = of_row == c
        sums.sums[c] = rows.units[mine[rows.valid]].sum(axis=0)
        sums.counts[c] = [(mask & mine).sum() for mask in (rows.valid, rows.zero, rows.nonfinite)]
    return sums


def check(actual: Sums, x: Tensor, labels: Array | None, classes: int) -> None:
    wanted = expected_sums(x, labels, classes)
    np.testing.assert_array_equal(actual.counts, wanted.counts)
    most = SUM_TOLERANCE[x.dtype] * np.maximum(wanted.counts[:, :1], 1)
    assert (np.abs(actual.sums - wanted.sums) <= most).all()


# ---- sums ------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize(
    ("n", "d"), [(0, 5), (1, 1), (3, 7), (33, 64), (130, 45), (300, 3), (70, 1030), (9, 2100)]
)
def test_sums_of_every_shape(
    library: Library, rng: np.random.Generator, n: int, d: int, dtype: torch.dtype
) -> None:
    x = all_sorts_of_rows(rng, n, d, dtype)
    check(add_class_sums(library, x), x, None, 1)
    labels = rng.integers(0, 7, n)
    actual = add_class_sums(library, x, labels, 9, seed=int(rng.integers(1000)))
    check(actual, x, labels, 9)
    assert actual.chunks == max(0, -(-n // 32)) or d > 1000


LABELS = {
    "one": lambda rng, n: np.full(n, 3),
    "each its own": lambda rng, n: rng.permutation(n),
    "of about a chunk": lambda rng, n: np.arange(n) // 31,
    "of a chunk exactly": lambda rng, n: np.arange(n) // 32,
    "small and large": lambda rng, n: np.minimum(rng.geometric(0.2, n), 20),
    "one large in the middle": lambda rng, n: (
        np.clip(np.arange(n) - 40, 0, 1) + np.clip(np.arange(n) - n + 9, 0, 4)
    ),
}


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("n", [31, 32, 64, 65, 200])
def test_chunks_cut_classes_in_every_place(
    library: Library, rng: np.random.Generator, name: str, n: int
) -> None:
    x = all_sorts_of_rows(rng, n, 35, torch.float32)
    labels = LABELS[name](rng, n)
    check(add_class_sums(library, x, labels, n + 1), x, labels, n + 1)


def test_a_class_of_more_chunks_than_warps(library: Library, rng: np.random.Generator) -> None:
    x = all_sorts_of_rows(rng, 1100, 5, torch.float32)
    labels = np.clip(np.arange(1100) - 50, 0, 1)
    actual = add_class_sums(library, x, labels, 2, multiprocessors=20)
    check(actual, x, labels, 2)
    assert actual.chunks > 32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_equal_rows(library: Library, rng: np.random.Generator, dtype: torch.dtype) -> None:
    # Each addition is rounded the same way: short sums keep that small.
    x = torch.full((2000, 10), rng.uniform(1, 2), dtype=dtype)
    actual = add_class_sums(library, x, multiprocessors=1)
    np.testing.assert_allclose(actual.sums, 2000 / np.sqrt(10), rtol=1e-6)


@each_dtype
@pytest.mark.parametrize(("gap", "offset"), [(3, 0), (0, 1), (8, 8), (5, 3)])
def test_rows_that_are_not_aligned(
    library: Library, rng: np.random.Generator, gap: int, offset: int, dtype: torch.dtype
) -> None:
    x, labels = all_sorts_of_rows(rng, 50, 45, dtype), rng.integers(0, 3, 50)
    check(add_class_sums(library, x, labels, 3, gap=gap, offset=offset), x, labels, 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_additions_round_away_is_kept(
    library: Library, rng: np.random.Generator, dtype: torch.dtype
) -> None:
    batches = [all_sorts_of_rows(rng, 90, 6, dtype) for _ in range(7)]
    labels = rng.integers(0, 3, 90)
    to = Sums.none(3, 6, lost=True)
    to.sums += 1e9  # so that the additions do round
    exact = [Fraction(float(value)) for value in to.sums.flat]
    for x in batches:
        alone = add_class_sums(library, x, labels, 3)
        exact = [a + Fraction(float(b)) for a, b in zip(exact, alone.sums.flat, strict=True)]
        to = add_class_sums(library, x, labels, 3, to)
    assert to.lost is not None
    assert to.lost.any()
    for value, lost, wanted in zip(to.sums.flat, to.lost.flat, exact, strict=True):
        error = Fraction(float(value)) + Fraction(float(lost)) - wanted
        assert abs(error) <= Fraction(1, 10**21)
    assert to.counts.sum() == 7 * 90


# ---- means and weights -----------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize(("n", "d", "classes"), [(0, 3, 2), (1, 1, 1), (60, 33, 5), (50, 70, 40)])
def test_means_of_sums(
    library: Library,
    rng: np.random.Generator,
    *,
    n: int,
    d: int,
    classes: int,
    dtype: torch.dtype,
) -> None:
    x, labels = all_sorts_of_rows(rng, n, d, dtype), rng.integers(0, classes, n)
    to = Sums.none(classes, d, lost=True)
    for begin in range(0, n, 25):
        rows = slice(begin, begin + 25)
        to = add_class_sums(library, x[rows], labels[rows], classes, to)
    expected = reference.mean_cosine(x, torch.from_numpy(labels))
    actual = means_of(library, to, labelled=True)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=MEAN_TOLERANCE[dtype])
    unlabelled = means_of(library, to, labelled=False)
    np.testing.assert_array_equal(unlabelled[[0, 3, 4, 5]], actual[[0, 3, 4, 5]])
    assert np.isnan(unlabelled[1:3]).all()


@each_dtype
@pytest.mark.parametrize(("x_classes", "y_classes"), [(1, 1), (3, 40), (30, 2)])
def test_cross_cosine(
    library: Library, rng: np.random.Generator, x_classes: int, y_classes: int, dtype: torch.dtype
) -> None:
    x, y = all_sorts_of_rows(rng, 40, 37, dtype), all_sorts_of_rows(rng, 55, 37, dtype)
    labels = rng.integers(0, x_classes, 40), rng.integers(0, y_classes, 55)
    sides = (
        add_class_sums(library, x, labels[0], x_classes),
        add_class_sums(library, y, labels[1], y_classes),
    )
    expected = reference.cross_cosine(x, y, *(torch.from_numpy(y) for y in labels))
    actual = means_of(library, *sides, labelled=True)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=MEAN_TOLERANCE[dtype])


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(("n", "d", "classes"), [(0, 3, 2), (1, 1, 1), (60, 33, 5), (50, 70, 40)])
def test_weights(
    library: Library,
    rng: np.random.Generator,
    *,
    n: int,
    d: int,
    classes: int,
    labelled: bool,
) -> None:
    x = all_sorts_of_rows(rng, n, d, torch.float64)
    classes = classes if labelled else 1
    labels = rng.integers(0, classes, n)
    of = expected_sums(x, labels, classes)
    grad = rng.standard_normal(3)
    rows = of.counts[:, 0].astype(np.float64)
    all_pairs, within_pairs = rows.sum() * (rows.sum() - 1), (rows * (rows - 1)).sum()
    total = of.sums.sum(axis=0)
    expected = np.zeros_like(of.sums)
    if all_pairs > 0:
        expected += 2 * grad[0] / all_pairs * total
    if labelled and within_pairs > 0:
        expected += 2 * grad[1] / within_pairs * of.sums
    if labelled and all_pairs > within_pairs:
        expected += 2 * grad[2] / (all_pairs - within_pairs) * (total - of.sums)
    actual = weights_of(library, of, grad, labelled=labelled)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-15)


# ---- threads ---------------------------------------------------------------------------------


def test_same_bits_for_every_order_of_threads(library: Library, rng: np.random.Generator) -> None:
    x, labels = all_sorts_of_rows(rng, 150, 70, torch.float16), rng.integers(0, 4, 150)
    runs = [add_class_sums(library, x, labels, 4, seed=seed) for seed in range(4)]
    assert len({run.bits() for run in runs}) == 1
    means = [means_of(library, runs[0], labelled=True, seed=seed) for seed in range(4)]
    assert len({run.tobytes() for run in means}) == 1


def test_every_barrier_is_needed(library: Library, rng: np.random.Generator) -> None:
    x, labels = all_sorts_of_rows(rng, 600, 40, torch.float32), rng.integers(0, 40, 600)
    one = np.zeros(600, np.int64)
    whole = add_class_sums(library, x, labels, 40)

    def run(seed: int, skip: int) -> bytes | None:
        how = {"seed": seed, "skip_barrier": skip}
        try:
            sums = add_class_sums(library, x, one, 1, multiprocessors=20, **how)
            means = means_of(library, whole, labelled=True, **how)
            weights = weights_of(library, whole, np.ones(3), labelled=True, **how)
        except EmulationError:
            return None
        return sums.bits() + means.tobytes() + weights.tobytes()

    right = run(0, -1)
    assert {run(seed, -1) for seed in range(3)} == {right}
    barriers = library.barriers()
    for file, wanted in (("class_sums.cu", 1), ("class_products.cu", 2)):
        mine = [i for i, barrier in enumerate(barriers) if barrier.startswith(file)]
        assert len(mine) == wanted
        for index in mine:
            assert any(run(seed, index) != right for seed in range(4)), barriers[index]
