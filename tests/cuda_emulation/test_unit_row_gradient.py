"""Gradients with respect to rows from those with respect to unit rows, run by the emulation."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest
import torch
from cuda_emulation.emulation import Device, Library, bits_of, tensor_of
from cuda_emulation.kernels import SCALARS, place_rows
from rows import all_sorts_of_rows
from torch import Tensor

TOLERANCE = {
    torch.float32: 1e-7,
    torch.float64: 1e-14,
    torch.bfloat16: 4e-3,
    torch.float16: 5e-4,
}
# Gradients are as large as rows are small: those of the smallest rows there are do not fit.
SCALES = {
    torch.float16: (1.0, 1e-2, 1e2),
    torch.bfloat16: (1.0, 1e-10, 1e-30, 1e30),
    torch.float32: (1.0, 1e-10, 1e-30, 1e30),
    torch.float64: (1.0, 1e-10, 1e-30, 1e30, 1e-300, 1e300),
}
each_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


class Gradient(ctypes.Structure):
    """As UnitRowGradient in unit_row_gradient.h."""

    _fields_ = [
        ("scalar", ctypes.c_int),
        ("rows", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("order", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("weights_stride", ctypes.c_int64),
        ("weights_are_double", ctypes.c_bool),
        ("label", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
    ]


def gradient_of(
    library: Library,
    x: Tensor,
    weights: Tensor,
    order: np.ndarray | None = None,
    label: np.ndarray | None = None,
    *,
    seed: int = 0,
    skip_barrier: int = -1,
    gap: int = 0,
    offset: int = 0,
) -> Tensor:
    device = Device(library, seed, skip_barrier)
    n, d = x.shape
    call = Gradient(scalar=SCALARS.index(x.dtype), n=n, width=d)
    call.rows, call.stride = place_rows(device, x, gap, offset)
    call.weights = device.place(weights.numpy())
    call.weights_stride = 0 if len(weights) == 1 < n else d
    call.weights_are_double = weights.dtype == torch.float64
    if order is not None:
        call.order = device.place(order)
    if label is not None:
        call.label = device.place(label.astype(np.int32))
    call.out, out = device.empty((n, d), bits_of(x).dtype, offset=offset * x.element_size())
    device.call("kernels_unit_row_gradient", call)
    return tensor_of(out, x.dtype)


def check(x: Tensor, weights: Tensor, actual: Tensor) -> None:
    """weights: [n, d], row by row those of x."""
    rows = x.double().numpy()
    largest = np.abs(rows).max(axis=1, keepdims=True)
    valid = np.isfinite(largest) & (largest > 0)
    scaled = np.where(valid, rows, 1.0) / np.where(valid, largest, 1.0)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit, w = scaled / lengths, weights.double().numpy()
    wanted = (w - unit * (unit * w).sum(axis=1, keepdims=True)) * valid
    # Times the norm: a row of 1e-300 has a gradient near 1e300. What the dtype cannot hold apart.
    size = np.where(valid, largest, 1.0)
    found = actual.double().numpy() * size * lengths
    least = torch.finfo(x.dtype).smallest_normal * torch.finfo(x.dtype).eps * size * lengths
    assert (np.abs(found - wanted) <= TOLERANCE[x.dtype] * np.abs(w).max(initial=0) + least).all()
    assert (found[~valid[:, 0]] == 0).all()


@each_dtype
@pytest.mark.parametrize("weights_dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("n", "d"), [(1, 1), (5, 7), (40, 33), (9, 256), (3, 2049), (2, 9000)])
def test_every_shape(
    library: Library,
    rng: np.random.Generator,
    n: int,
    d: int,
    dtype: torch.dtype,
    weights_dtype: torch.dtype,
) -> None:
    x = all_sorts_of_rows(rng, n, d, dtype, SCALES)
    weights = torch.from_numpy(rng.standard_normal((n, d))).to(weights_dtype)
    seed, gap, offset = (int(v) for v in rng.integers(0, 5, 3))
    for where in ({}, {"gap": gap, "offset": offset}, {"gap": 16, "offset": 8}):
        check(x, weights, gradient_of(library, x, weights, seed=seed, **where))


@each_dtype
def test_which_weights_belong_to_a_row(
    library: Library, rng: np.random.Generator, dtype: torch.dtype
) -> None:
    n, d = 30, 41
    x, order = all_sorts_of_rows(rng, n, d, dtype, SCALES), rng.permutation(n)
    place = np.argsort(order)
    weights = torch.from_numpy(rng.standard_normal((n, d)))
    check(x, weights[place], gradient_of(library, x, weights, order))
    label = np.sort(rng.integers(0, 4, n))
    by_class = gradient_of(library, x, weights[:4], order, label)
    check(x, weights[:4][label][place], by_class)
    check(x, weights[:1].expand(n, d), gradient_of(library, x, weights[:1]))


def test_what_a_bad_row_is_given_does_not_matter(
    library: Library, rng: np.random.Generator
) -> None:
    x = torch.from_numpy(rng.standard_normal((4, 9))).float()
    x[1], x[2, 3] = 0, math.nan
    weights = torch.full((4, 9), math.nan)
    weights[[0, 3]] = 1
    gradient = gradient_of(library, x, weights)
    assert (gradient[1:3] == 0).all()
    assert gradient.isfinite().all()


def test_a_gradient_beyond_the_dtype_is_inf(library: Library) -> None:
    x = torch.tensor([[1e-42, 0.0], [1e-42, 1e-42]])
    gradient = gradient_of(library, x, torch.tensor([[1.0, 1.0], [2.0, -1.0]]))
    assert gradient[0].tolist() == [0.0, math.inf]
    assert gradient[1].isinf().all()


@pytest.mark.parametrize("n", [0, 3])
def test_nothing_to_do(library: Library, n: int) -> None:
    x = torch.ones(n, 0 if n else 5)
    assert gradient_of(library, x, x).shape == x.shape


def test_every_barrier_is_needed(library: Library, rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.standard_normal((3, 900))).float()
    weights = torch.from_numpy(rng.standard_normal((3, 900)))

    def run(seed: int, skip: int) -> bytes:
        return gradient_of(library, x, weights, seed=seed, skip_barrier=skip).numpy().tobytes()

    assert len({run(seed, -1) for seed in range(4)}) == 1
    assert len(library.needed_barriers(run, orders=6)) == 2
