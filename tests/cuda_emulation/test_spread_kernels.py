"""Centred rows and sums of squares of their products, run by the emulation."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import torch
from cuda_emulation.cosine_kernels import SIDE, place_tile
from cuda_emulation.emulation import Array, Device, Library
from cuda_emulation.kernels import SCALARS, place_rows
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


class ClassedRows(ctypes.Structure):
    """As in centred_rows.h."""

    _fields_ = [
        ("scalar", ctypes.c_int),
        *((name, ctypes.c_void_p) for name in ("rows",)),
        *((name, ctypes.c_int64) for name in ("stride", "width")),
        *((name, ctypes.c_void_p) for name in ("order", "scales", "label", "class_ptr")),
        *((name, ctypes.c_int64) for name in ("n", "classes")),
    ]


class CentredRows(ctypes.Structure):
    """As in centred_rows.h."""

    _fields_ = [
        ("first", ctypes.c_int64),
        ("last", ctypes.c_int64),
        ("means", ctypes.c_void_p),
        ("is_double", ctypes.c_bool),
        ("out", ctypes.c_void_p),
        ("padded_rows", ctypes.c_int64),
        ("pitch", ctypes.c_int64),
        ("squares", ctypes.c_void_p),
    ]


def classed_rows(
    device: Device, x: Tensor, order: Array, label: Array, gap: int, offset: int
) -> tuple[ClassedRows, Array]:
    """What a kernel is given, and the unit rows in float64 by position."""
    values = x.double().numpy()
    pre = powers_of_two(values)
    lengths = np.linalg.norm(values * pre[:, None], axis=1)
    call = ClassedRows(scalar=SCALARS.index(x.dtype), width=x.shape[1], n=len(order))
    call.rows, call.stride = place_rows(device, x, gap, offset)
    call.order = device.place(order)
    call.scales = device.place(np.stack([pre, 1 / lengths], axis=1))
    call.label = device.place(label.astype(np.int32))
    call.classes = int(label.max()) + 1
    call.class_ptr = device.place(np.searchsorted(label, np.arange(call.classes + 1)))
    return call, (values * (pre / lengths)[:, None])[order]


def powers_of_two(values: Array) -> Array:
    return 2.0 ** -np.floor(np.log2(np.abs(values).max(axis=1)))


@each_dtype
@pytest.mark.parametrize(("n", "d", "classes"), [(1, 1, 1), (9, 7, 3), (70, 33, 2), (40, 130, 40)])
def test_rows_less_the_mean_of_their_class(
    library: Library, rng: np.random.Generator, n: int, d: int, classes: int, dtype: torch.dtype
) -> None:
    rows = rng.standard_normal((n + 3, d)) + rng.standard_normal(d)
    x = torch.from_numpy(rows * rng.choice([1.0, 0.01, 100.0], (n + 3, 1))).to(dtype)
    order = rng.permutation(n + 3)[:n]
    label = np.sort(np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)]))
    device = Device(library, int(rng.integers(99)))
    call, units = classed_rows(device, x, order, label, *map(int, rng.integers(0, 4, 2)))
    means_at, means = device.empty((classes, d), np.float64)
    device.call("kernels_class_means", call, ctypes.c_void_p(means_at))
    wanted = np.stack([units[label == c].mean(axis=0) for c in range(classes)])
    np.testing.assert_allclose(means, wanted, rtol=0, atol=1e-15)
    expected = units - wanted[label]
    first, last = sorted(int(v) for v in rng.integers(0, n + 1, 2))
    for is_double in (True, False)[: 1 if dtype == torch.float64 else 2]:
        real = np.float64 if is_double else np.float32
        to = CentredRows(first=first, last=last, means=means_at, is_double=is_double)
        to.padded_rows, to.pitch = last - first + 2, (d + 7) // 8 * 8 + 8
        to.out, out = device.empty((to.padded_rows, to.pitch), real)
        to.squares, squares = device.empty((last - first,), np.float64)
        device.call("kernels_centred_rows", call, to)
        tolerance = 4e-16 if is_double else 6e-8
        found = out[: last - first, :d]
        np.testing.assert_allclose(found, expected[first:last], rtol=0, atol=tolerance)
        assert (out[last - first :] == 0).all()
        assert (out[:, d:] == 0).all()
        lengths = (expected[first:last] ** 2).sum(axis=1)
        np.testing.assert_allclose(squares, lengths, rtol=1e-12, atol=1e-30)


def sums_of(
    library: Library, products: Array, label: Array, shifts: Array, seed: int = 0, skip: int = -1
) -> Array:
    """[2] sums over a matrix that comes in bands of rows; products: [count, n, stride]."""
    device = Device(library, seed, skip)
    n, total = len(label), np.zeros(2)
    label_at = ctypes.c_void_p(device.place(label.astype(np.int32)))
    shifts_at = ctypes.c_void_p(device.place(shifts))
    for row in range(0, n, 2 * SIDE):
        part = np.ascontiguousarray(products[:, row : row + 2 * SIDE, row:])
        tile = place_tile(
            device, part, n - row, (np.ones(n), np.ones(n)), row=row, column=row, triangle=True
        )
        blocks = library.functions.kernels_sum_squares_blocks(ctypes.byref(tile))
        address, partials = device.empty((blocks, 2), np.float64)
        device.call("kernels_sum_squares", tile, label_at, shifts_at, ctypes.c_void_p(address))
        total += partials.sum(axis=0)
    return total


@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 65, 330])
def test_sums_of_squares(library: Library, rng: np.random.Generator, n: int, real: Any) -> None:
    label, shifts = np.sort(rng.integers(0, 3, n)), rng.uniform(0, 1, 3)
    products = rng.uniform(-1, 1, (2, n, (n + 7) // 8 * 8)).astype(real)
    products[:, :, n:] = np.nan
    whole = products[:, :, :n].astype(np.float64).sum(axis=0)
    pairs, same = np.triu(np.ones((n, n), bool), 1), label[:, None] == label
    shifted = np.where(same, whole + shifts[label], whole)
    # The sum of the two products is rounded to `real`, which a shift of the other sign brings out.
    errors = np.finfo(real).eps * 2 * np.abs(shifted * whole) + 1e-12 * shifted**2
    expected = [(shifted**2)[of].sum() for of in (pairs & same, pairs & ~same)]
    bounds = [errors[of].sum() for of in (pairs & same, pairs & ~same)]
    found = {tuple(sums_of(library, products, label, shifts, seed)) for seed in range(3)}
    assert len(found) == 1
    assert (np.abs(np.array(found.pop()) - expected) <= bounds).all()


def test_every_barrier_is_needed(library: Library, rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.standard_normal((50, 40)))

    def means(seed: int, skip: int) -> bytes:
        device = Device(library, seed, skip)
        call, _ = classed_rows(device, x, np.arange(50), np.arange(50) // 25, 0, 0)
        address, found = device.empty((2, 40), np.float64)
        device.call("kernels_class_means", call, ctypes.c_void_p(address))
        return found.tobytes()

    assert library.needed_barriers(means, ("centred_rows",))
