"""Cosines of pairs of rows, run by the emulation."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import reference
import torch
from cuda_emulation.emulation import Array, Device, Library
from cuda_emulation.kernels import SCALARS, place_rows
from rows import SCALES, all_sorts_of_rows, random_rows
from torch import Tensor

each_dtype = pytest.mark.parametrize("dtype", SCALARS, ids=str)


class RowPairs(ctypes.Structure):
    """As in row_pairs.h."""

    _fields_ = [
        ("scalar", ctypes.c_int),
        ("left", ctypes.c_void_p),
        ("right", ctypes.c_void_p),
        ("left_stride", ctypes.c_int64),
        ("right_stride", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("width", ctypes.c_int64),
    ]


def pair_cosines(
    library: Library,
    x: Tensor,
    y: Tensor,
    *,
    seed: int = 0,
    skip_barrier: int = -1,
    gap: int = 0,
    offset: int = 0,
) -> tuple[Array, Array]:
    device = Device(library, seed, skip_barrier)
    n, d = x.shape
    pairs = RowPairs(scalar=SCALARS.index(x.dtype), rows=n, width=d)
    pairs.left, pairs.left_stride = place_rows(device, x, gap, offset)
    pairs.right, pairs.right_stride = place_rows(device, y, 0, 0)
    states, _ = device.empty((n,), np.uint8)
    cosines_at, cosines = device.empty((n,), np.float64)
    summary_at, summary = device.empty((4,), np.float64)
    device.call(
        "kernels_pair_cosines", pairs, *map(ctypes.c_void_p, (states, cosines_at, summary_at))
    )
    return cosines, summary


def check(x: Tensor, y: Tensor, actual: tuple[Array, Array]) -> None:
    expected = reference.paired_cosine(x, y)
    np.testing.assert_allclose(actual[0], expected.cosines, rtol=0, atol=1e-12)
    np.testing.assert_allclose(actual[1], expected[1:], rtol=0, atol=1e-12)


@each_dtype
@pytest.mark.parametrize(
    ("n", "d"), [(0, 3), (1, 1), (9, 7), (40, 64), (17, 300), (3, 2049), (1030, 2)]
)
def test_every_shape(
    library: Library, rng: np.random.Generator, n: int, d: int, dtype: torch.dtype
) -> None:
    x, y = (all_sorts_of_rows(rng, n, d, dtype) for _ in range(2))
    check(x, y, pair_cosines(library, x, y, seed=int(rng.integers(1000))))


@each_dtype
@pytest.mark.parametrize("d", [50, 2100])
def test_equal_and_opposite_rows(
    library: Library, rng: np.random.Generator, d: int, dtype: torch.dtype
) -> None:
    for scale in SCALES[dtype]:
        x = (random_rows(rng, 4, d, torch.float64) * scale).to(dtype)
        assert (pair_cosines(library, x, x)[0] == 1).all()
        assert (pair_cosines(library, x, -x)[0] == -1).all()


def test_float64_of_any_two_sizes(library: Library, rng: np.random.Generator) -> None:
    scales = [1e-323, 1e-310, 1e-200, 1e-135, 1.0, 1e135, 1e200, 1e307]
    sizes = torch.tensor([(a, b) for a in scales for b in scales], dtype=torch.float64)
    x, y = (random_rows(rng, len(sizes), 11, torch.float64) * sizes[:, i : i + 1] for i in (0, 1))
    check(x, y, pair_cosines(library, x, y))


@each_dtype
@pytest.mark.parametrize(("gap", "offset"), [(3, 0), (0, 1), (8, 8), (5, 3)])
def test_rows_that_are_not_aligned(
    library: Library, rng: np.random.Generator, gap: int, offset: int, dtype: torch.dtype
) -> None:
    x, y = (all_sorts_of_rows(rng, 10, 45, dtype) for _ in range(2))
    check(x, y, pair_cosines(library, x, y, gap=gap, offset=offset))


def test_same_bits_for_every_order_of_threads_and_barriers_are_needed(
    library: Library, rng: np.random.Generator
) -> None:
    x, y = (all_sorts_of_rows(rng, 70, 2100, torch.float64) for _ in range(2))

    def run(seed: int, skip: int) -> bytes:
        cosines, summary = pair_cosines(library, x, y, seed=seed, skip_barrier=skip)
        return cosines.tobytes() + summary.tobytes()

    assert len({run(seed, -1) for seed in range(3)}) == 1
    assert len(library.needed_barriers(run)) == 2, "the two of block_sum"
