"""The kernels for cosines one by one, as functions of tensors, for the tests."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import torch
from cuda_emulation.emulation import Array, Device, Library, bits_of, tensor_of
from cuda_emulation.kernels import SCALARS, place_rows
from torch import Tensor

FORMS = ("float", "double", "power of two")
SIDE = 64  # rows and columns of a block


class UnitRows(ctypes.Structure):
    """As in unit_rows.h."""

    _fields_ = [
        ("scalar", ctypes.c_int),
        ("rows", ctypes.c_void_p),
        ("stride", ctypes.c_int64),
        ("n", ctypes.c_int64),
        ("width", ctypes.c_int64),
        ("order", ctypes.c_void_p),
        ("form", ctypes.c_int),
        ("out", ctypes.c_void_p),
        ("padded_rows", ctypes.c_int64),
        ("pitch", ctypes.c_int64),
        ("factors", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
    ]


class CosineTile(ctypes.Structure):
    """As in cosine_tile.h."""

    _fields_ = [
        ("is_double", ctypes.c_bool),
        ("pieces", ctypes.c_void_p),
        ("count", ctypes.c_int64),
        ("rows", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("stride", ctypes.c_int64),
        ("row", ctypes.c_int64),
        ("column", ctypes.c_int64),
        ("triangle", ctypes.c_bool),
        ("row_factors", ctypes.c_void_p),
        ("column_factors", ctypes.c_void_p),
    ]


@dataclass(frozen=True)
class Units:
    rows: Tensor  # [padded, pitch]
    factors: Array
    scales: Array  # [n, 2]


def unit_rows(
    library: Library,
    x: Tensor,
    form: str,
    *,
    order: Array | None = None,
    padding: int = 0,
    seed: int = 0,
    skip_barrier: int = -1,
    gap: int = 0,
    offset: int = 0,
) -> Units:
    device = Device(library, seed, skip_barrier)
    n, width = x.shape
    call = UnitRows(scalar=SCALARS.index(x.dtype), n=n, width=width, form=FORMS.index(form))
    call.rows, call.stride = place_rows(device, x, gap, offset)
    if order is not None:
        call.order = device.place(order)
    call.padded_rows, call.pitch = n + padding, (width + 7) // 8 * 8 + 8 * padding
    dtype = {"float": torch.float32, "double": torch.float64}.get(form, x.dtype)
    bits = bits_of(torch.empty(0, dtype=dtype)).dtype
    call.out, out = device.empty((call.padded_rows, call.pitch), bits)
    call.factors, factors = device.empty((call.padded_rows,), np.float64)
    call.scales, scales = device.empty((n, 2), np.float64)
    device.call("kernels_unit_rows", call)
    return Units(tensor_of(out, dtype), factors, scales)


def place_tile(
    device: Device,
    pieces: Array,
    columns: int,
    factors: tuple[Array, Array],
    *,
    row: int = 0,
    column: int = 0,
    triangle: bool = False,
) -> CosineTile:
    """pieces: [count, rows, stride]; factors: of all rows and of all columns."""
    count, rows, stride = pieces.shape
    tile = CosineTile(
        is_double=pieces.dtype == np.float64,
        count=count,
        rows=rows,
        columns=columns,
        stride=stride,
        row=row,
        column=column,
        triangle=triangle,
    )
    tile.pieces = device.place(pieces)
    tile.row_factors = device.place(factors[0])
    tile.column_factors = tile.row_factors if triangle else device.place(factors[1])
    return tile
