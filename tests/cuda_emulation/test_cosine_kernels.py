"""Unit rows and tiles of products, run by the emulation, against numpy in float64."""

from __future__ import annotations

import ctypes
import math
from typing import Any

import numpy as np
import pytest
import torch
from cuda_emulation.cosine_kernels import (
    SIDE,
    Units,
    place_tile,
    unit_rows,
)
from cuda_emulation.emulation import Array, Device, Library
from rows import all_sorts_of_rows
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_real = pytest.mark.parametrize("real", [np.float32, np.float64])


def units_of(x: Tensor) -> tuple[Array, Array]:
    """Unit rows in float64, zeros for those there are none of, and the factors 1, 0 and NaN."""
    rows = x.double().numpy()
    largest = np.abs(rows).max(axis=1, keepdims=True, initial=0)
    valid = np.isfinite(largest) & (largest > 0)
    scaled = np.where(valid, rows, 1.0) / np.where(valid, largest, 1.0)
    units = np.where(valid, scaled / np.linalg.norm(scaled, axis=1, keepdims=True), 0.0)
    factors = np.where(valid, 1.0, np.where(np.isfinite(largest), 0.0, math.nan))
    return units, factors[:, 0]


def check_units(x: Tensor, units: Units, form: str) -> None:
    n, width = x.shape
    expected, factors = units_of(x)
    whole = units.rows.double().numpy()
    rows = whole[:n, :width]
    assert (whole[n:] == 0).all()
    assert (whole[:, width:] == 0).all()
    assert (units.factors[n:] == 0).all()
    if form == "power of two":
        assert np.isfinite(whole).all()
        assert np.abs(whole).max(initial=0) <= (1 if x.dtype == torch.bfloat16 else 2**15)
        np.testing.assert_array_equal(np.sign(units.factors[:n]), factors)
        valid = factors == 1
        scaled = rows[valid] * units.factors[:n, None][valid]
        np.testing.assert_allclose(scaled, expected[valid], rtol=1e-14, atol=1e-11)
        assert (rows[~valid] == 0).all()
        return
    np.testing.assert_array_equal(units.factors[:n], factors)
    relative = 2**-24 * 1.01 if form == "float" else 1e-15
    np.testing.assert_allclose(rows, expected, rtol=relative, atol=1e-44)
    scales = units.scales.prod(axis=1) if x.dtype != torch.float64 else None
    if scales is not None:
        again = np.where(factors == 1, scales, 0)[:, None] * x.double().nan_to_num(0, 0, 0).numpy()
        np.testing.assert_allclose(again, expected, rtol=1e-14)


def forms_of(dtype: torch.dtype) -> list[str]:
    if dtype == torch.float64:
        return ["double"]
    return ["float", "double", *(["power of two"] if dtype != torch.float32 else [])]


@each_dtype
@pytest.mark.parametrize(("n", "d"), [(1, 1), (5, 7), (40, 33), (9, 256), (3, 2049), (2, 9000)])
def test_unit_rows(
    library: Library, rng: np.random.Generator, n: int, d: int, dtype: torch.dtype
) -> None:
    x = all_sorts_of_rows(rng, n, d, dtype)
    for form in forms_of(dtype):
        seed, gap, offset, padding = (int(v) for v in rng.integers(0, 5, 4))
        check_units(x, unit_rows(library, x, form, seed=seed), form)
        where = {"gap": gap, "offset": offset, "padding": padding}
        check_units(x, unit_rows(library, x, form, seed=seed, **where), form)
        order = rng.permutation(n)
        ordered = unit_rows(library, x, form, order=order, gap=16, offset=8)
        check_units(x[torch.from_numpy(order)], ordered, form)


@each_dtype
def test_unit_rows_of_no_rows_or_columns(library: Library, dtype: torch.dtype) -> None:
    for form in forms_of(dtype):
        check_units(
            torch.ones(0, 5, dtype=dtype),
            unit_rows(library, torch.ones(0, 5, dtype=dtype), form, padding=2),
            form,
        )
        check_units(
            torch.ones(3, 0, dtype=dtype),
            unit_rows(library, torch.ones(3, 0, dtype=dtype), form, padding=1),
            form,
        )


def random_tile(
    rng: np.random.Generator, rows: int, columns: int, count: int, real: Any
) -> tuple[Array, Array, Array]:
    """Pieces [count, rows, stride], NaN behind the columns, and factors of rows and of columns."""
    stride = (columns + 7) // 8 * 8
    pieces = (rng.uniform(-1.2, 1.2, (count, rows, stride)) / count**0.5).astype(real)
    pieces[:, :, columns:] = math.nan
    row_factors, column_factors = (
        rng.choice([1.0, 1.0, 1.0, 0.0, math.nan, 0.75], k) for k in (rows, columns)
    )
    return pieces, row_factors, column_factors


def check_close(actual: Array, expected: Array) -> None:
    tolerance = 2e-7 if actual.dtype == np.float32 else 1e-15
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance, equal_nan=True)


LAYOUTS = {
    "rows": lambda n, m: (m, 1, 0),
    "rows apart": lambda n, m: (m + 5, 1, 3),
    "columns": lambda n, m: (1, n, 0),
    "both apart": lambda n, m: (2 * m + 3, 2, 1),
    "columns apart": lambda n, m: (3, 3 * n, 2),
}


def strided(memory: Array, shape: tuple[int, int], strides: tuple[int, int, int]) -> Array:
    row, column, offset = strides
    item = memory.itemsize
    return np.lib.stride_tricks.as_strided(memory[offset:], shape, (row * item, column * item))


def memory_for(shape: tuple[int, int], strides: tuple[int, int, int]) -> int:
    return strides[2] + 1 + sum((k - 1) * s for k, s in zip(shape, strides, strict=False))


@each_real
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 130), (70, 65), (129, 64)])
def test_cosines_are_placed(
    library: Library, rng: np.random.Generator, *, n: int, m: int, layout: str, real: Any
) -> None:
    pieces, rows, columns = random_tile(rng, n, m, int(rng.integers(1, 7)), real)
    expected = pieces[:, :, :m].astype(np.float64).sum(0) * rows[:, None] * columns
    device = Device(library, int(rng.integers(100)))
    tile = place_tile(device, pieces, m, (rows, columns))
    strides = LAYOUTS[layout](n, m)
    address, memory = device.empty((memory_for((n, m), strides),), real)
    before = memory.copy()
    place = ctypes.c_void_p(address + strides[2] * memory.itemsize)
    device.call("kernels_place_cosines", tile, place, *strides[:2])
    out = strided(memory, (n, m), strides)
    check_close(out, np.clip(expected, -1, 1))
    out[:] = strided(before, (n, m), strides)
    assert memory.tobytes() == before.tobytes(), "wrote beside the matrix"


@each_real
@pytest.mark.parametrize("layout", ["rows", "rows apart", "columns", "both apart"])
@pytest.mark.parametrize("n", [1, 64, 65, 200])
def test_a_triangle_and_its_mirror_image(
    library: Library, rng: np.random.Generator, n: int, layout: str, real: Any
) -> None:
    factors = rng.choice([1.0, 1.0, 1.0, 0.0, math.nan], n)
    whole = rng.uniform(-1, 1, (3, n, (n + 7) // 8 * 8)).astype(real)
    expected = np.clip(
        whole[:, :, :n].astype(np.float64).sum(0) * factors[:, None] * factors, -1, 1
    )
    expected = np.triu(expected, 1)
    expected += expected.T + np.diag(factors)
    device = Device(library, int(rng.integers(100)))
    strides = LAYOUTS[layout](n, n)
    address, memory = device.empty((memory_for((n, n), strides),), real)
    # In tiles, as they come: two bands of rows, the second one begins at the diagonal.
    for row in range(0, n, 2 * SIDE):
        for column in range(row, n, SIDE):
            end = min(n, column + SIDE)
            padded = (end - column + 7) // 8 * 8
            pieces = whole[:, row : row + 2 * SIDE, column : column + padded]
            tile = place_tile(
                device,
                np.ascontiguousarray(pieces),
                end - column,
                (factors, factors),
                row=row,
                column=column,
                triangle=True,
            )
            place = ctypes.c_void_p(address + strides[2] * memory.itemsize)
            device.call("kernels_place_cosines", tile, place, *strides[:2])
    out = strided(memory, (n, n), strides)
    check_close(out, expected)
    np.testing.assert_array_equal(out, out.T)


def count(
    library: Library,
    pieces: Array,
    factors: Array,
    label_at: Array | None,
    bins: int,
    *,
    seed: int = 0,
    skip_barrier: int = -1,
) -> Array:
    """Counts [2, bins] of all pairs of a matrix that comes in two tiles."""
    device = Device(library, seed, skip_barrier)
    n = pieces.shape[1]
    address, counts = device.state(np.zeros((2, bins), np.int64))
    labels = None if label_at is None else ctypes.c_void_p(device.place(label_at.astype(np.int32)))
    for row in range(0, n, SIDE):
        part = np.ascontiguousarray(pieces[:, row : row + SIDE, row:])
        tile = place_tile(
            device, part, n - row, (factors, factors), row=row, column=row, triangle=True
        )
        device.call("kernels_count_cosines", tile, labels, bins, ctypes.c_void_p(address))
    return counts.copy()


@each_real
@pytest.mark.parametrize("bins", [1, 2, 7, 256, 4096, 5000])
@pytest.mark.parametrize("n", [1, 65, 330])
def test_pairs_are_counted(
    library: Library, rng: np.random.Generator, n: int, bins: int, real: Any
) -> None:
    kinds = rng.choice([1.0, 1.0, 1.0, 0.0, math.nan], n)
    cosines = rng.choice(
        [-1.5, -1.0, 1.0, 1.5, 0.0, *rng.uniform(-1, 1, 90)], (1, n, (n + 7) // 8 * 8)
    )
    # Ends of the bins, and numbers beside them.
    edges = (2 * rng.integers(0, bins + 1, cosines.shape) - bins) / bins
    cosines = np.where(rng.random(cosines.shape) < 0.3, edges, cosines).astype(real)
    labels = np.sort(rng.integers(0, 4, n))
    one, half, last = real(1), real(bins) / real(2), real(bins - 1)
    cells = np.clip((cosines[0, :, :n] + one) * half, real(0), last).astype(np.int64)
    pairs = np.triu((kinds[:, None] == 1) & (kinds == 1), 1)
    for label_at in (None, labels):
        same = np.ones((n, n), bool) if label_at is None else labels[:, None] == labels
        expected = [np.bincount(cells[pairs & kind], minlength=bins) for kind in (same, ~same)]
        actual = count(library, cosines, kinds, label_at, bins, seed=int(rng.integers(99)))
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize("n", [0, 1, 1000])
def test_rows_are_counted(library: Library, rng: np.random.Generator, n: int) -> None:
    factors = rng.choice([1.0, 1.7, 3e-5, 0.0, math.nan], n)
    device = Device(library, 1)
    address, rows = device.empty((3,), np.int64)
    device.call(
        "kernels_count_rows", ctypes.c_void_p(device.place(factors)), n, ctypes.c_void_p(address)
    )
    assert rows.tolist() == [(factors > 0).sum(), (factors == 0).sum(), np.isnan(factors).sum()]


def test_every_barrier_is_needed(library: Library, rng: np.random.Generator) -> None:
    pieces, rows, columns = random_tile(rng, 70, 130, 2, np.float32)
    cosines = rng.uniform(-1, 1, (1, 300, 304)).astype(np.float32)

    def placed(seed: int, skip: int) -> bytes | None:
        device = Device(library, seed, skip)
        tile = place_tile(device, pieces, 130, (rows, columns))
        address, out = device.empty((70, 130), np.float32)
        # Turned, so that threads write what others have read.
        device.call("kernels_place_cosines", tile, ctypes.c_void_p(address), 1, 70)
        return out.tobytes()

    def counted(seed: int, skip: int) -> bytes | None:
        factors = np.ones(300)
        return count(library, cosines, factors, None, 64, seed=seed, skip_barrier=skip).tobytes()

    for run, file in ((placed, "place_cosines"), (counted, "count_cosines")):
        assert len({run(seed, -1) for seed in range(3)}) == 1
        assert library.needed_barriers(run, (file,))
