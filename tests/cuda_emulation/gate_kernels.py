"""The launchers of gates as bits as functions of tensors, for the tests."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
from cuda_emulation.emulation import Array, Device, _structure
from cuda_emulation.kernels import MULTIPROCESSORS, SCALARS, SHARED_BYTES, place_rows
from torch import Tensor

# As in gate_launchers.h.
PackedPairs: Callable[..., ctypes.Structure] = _structure(
    "PackedPairs", "left right", "left_stride right_stride left_rows right_rows units"
)
PackedGroups: Callable[..., ctypes.Structure] = _structure(
    "PackedGroups", "rows", "stride n units", "order label_at"
)
UnitRecord: Callable[..., ctypes.Structure] = _structure(
    "UnitRecord", "open_rows last_active revived"
)


def pack_gates(device: Device, x: Tensor, *, gap: int = 0, offset: int = 0) -> Array:
    address, stride = place_rows(device, x, gap, offset)
    n, width = x.shape
    out_at, out = device.empty((n, -(-width // 64)), np.int64)
    device.call(
        "kernels_pack_gates",
        *(ctypes.c_void_p(address), SCALARS.index(x.dtype), stride, n, width),
        ctypes.c_void_p(out_at),
    )
    return out


def agreement_matrix(
    device: Device,
    left: Array,
    right: Array | None,
    units: int,
    metric: str,
    *,
    gap: int = 0,
    transposed: bool = False,
) -> Array:
    """Of packed gates `gap` words apart; `transposed`: `out` lies column after column."""
    pairs = PackedPairs()
    pairs.left, pairs.left_stride = _place_words(device, left, gap)
    pairs.left_rows, pairs.units = len(left), units
    if right is None:
        pairs.right, pairs.right_stride = pairs.left, pairs.left_stride
    else:
        pairs.right, pairs.right_stride = _place_words(device, right, gap)
    n, m = len(left), len(left if right is None else right)
    pairs.right_rows = m
    out_at, out = device.empty((m, n) if transposed else (n, m), np.float32)
    strides = (1, n) if transposed else (m, 1)
    device.call(
        "kernels_agreement_matrix",
        *(pairs, int(metric == "jaccard"), ctypes.c_void_p(out_at), *strides),
    )
    return out.T if transposed else out


def agreement_histogram(
    device: Device,
    packed: Array,
    units: int,
    order: Array | None = None,
    label_at: Array | None = None,
    *,
    shared_bytes: int = SHARED_BYTES,
) -> Array:
    groups = PackedGroups()
    groups.rows, groups.stride = _place_words(device, packed, 0)
    groups.n, groups.units = len(packed), units
    if order is not None:
        assert label_at is not None
        groups.order = device.place(order.astype(np.int64))
        groups.label_at = device.place(label_at.astype(np.int32))
    counts_at, counts = device.state(np.zeros((2, units + 1), np.int64))
    device.call(
        "kernels_agreement_histogram",
        *(groups, MULTIPROCESSORS, shared_bytes, ctypes.c_void_p(counts_at)),
    )
    return counts


class Units:
    """State of `update_units`."""

    def __init__(self, device: Device, width: int) -> None:
        self._device = device
        self._record = UnitRecord()
        none = np.zeros(width, np.int64)
        self._record.open_rows, self.open_rows = device.state(none)
        self._record.last_active, self.last_active = device.state(none)
        self._record.revived, self.revived = device.state(none)

    def update(
        self,
        x: Tensor,
        update: int,
        window: int,
        *,
        gap: int = 0,
        offset: int = 0,
        multiprocessors: int = MULTIPROCESSORS,
    ) -> None:
        address, stride = place_rows(self._device, x, gap, offset)
        what = (SCALARS.index(x.dtype), stride, *x.shape, update, window, multiprocessors)
        self._device.call(
            "kernels_update_units",
            *(ctypes.c_void_p(address), (ctypes.c_int64 * 7)(*what), self._record),
        )


def _place_words(device: Device, packed: Array, gap: int) -> tuple[int, int]:
    """Rows `gap` words apart; address and stride."""
    n, words = packed.shape
    padded = np.full((n, words + gap), -1, np.int64)
    padded[:, :words] = packed
    return device.place(padded.reshape(-1)[: max(0, padded.size - gap)]), words + gap
