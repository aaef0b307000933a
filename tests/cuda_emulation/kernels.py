"""The launchers as functions of tensors, for the tests."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from cuda_emulation.emulation import (
    Array,
    Batch,
    Device,
    Library,
    Loss,
    PlanSummary,
    Results,
    Ring,
    bits_of,
    tensor_of,
)
from torch import Tensor

from tfc_fast.records import COLUMNS

STATISTICS = COLUMNS[3:]

JOBS = ("cosine", "gates", "feature", "pair", "relu_backward")
SCALARS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Small, so that small batches have several chunks.
MULTIPROCESSORS = 2
SHARED_BYTES = 227 * 1024


def site_doubles(library: Library) -> int:
    return int(library.functions.kernels_site_doubles())


@dataclass
class Measured:
    record: dict[str, float]
    grad_in: Tensor | None
    unit_counts: list[int]
    plan: PlanSummary
    bits: bytes = field(repr=False)  # of all that was written


@dataclass(frozen=True)
class Grouped:
    order: Array
    class_ptr: Array
    label_at: Array
    wrong: bool


def group_labels(device: Device, labels: Array, num_classes: int) -> Grouped:
    n = len(labels)
    source = device.place(labels.astype(np.int64))
    order_at, order = device.empty((n,), np.int64)
    class_ptr_at, class_ptr = device.empty((num_classes + 1,), np.int64)
    label_at_at, label_at = device.empty((n,), np.int32)
    wrong_at, wrong = device.state(np.zeros(1, np.int32))
    device.call(
        "kernels_group_labels",
        *(ctypes.c_void_p(source), n, num_classes, ctypes.c_void_p(order_at)),
        *(ctypes.c_void_p(class_ptr_at), ctypes.c_void_p(label_at_at), ctypes.c_void_p(wrong_at)),
        None,
    )
    return Grouped(order, class_ptr, label_at, bool(wrong[0]))


def place_rows(device: Device, x: Tensor, gap: int, offset: int) -> tuple[int, int]:
    """Rows `gap` elements apart, the first `offset` elements off alignment; address and stride."""
    rows = bits_of(x)
    padded = np.full((len(rows), rows.shape[1] + gap), -1, rows.dtype)
    padded[:, : rows.shape[1]] = rows
    # The gap behind the last row is no kernel's business.
    used = padded.reshape(-1)[: max(0, padded.size - gap)]
    return device.place(used, offset=offset * rows.itemsize), padded.shape[1]


def measure(
    library: Library,
    job: str,
    feature: Tensor,
    gradient: Tensor | None = None,
    labels: Array | None = None,
    num_classes: int = 0,
    *,
    seed: int = 0,
    skip_barrier: int = -1,
    gap: int = 0,
    offset: int = 0,
    in_place: bool = False,
    label_at: bool = True,
    multiprocessors: int = MULTIPROCESSORS,
    shared_bytes: int = SHARED_BYTES,
) -> Measured:
    """One batch through the kernels and the end of its step.

    Without `label_at` the kernels look classes up in class_ptr.
    """
    device = Device(library, seed, skip_barrier)
    n, width = feature.shape
    dtype = feature.dtype
    shape = (ctypes.c_int64 * 5)(
        JOBS.index(job), SCALARS.index(dtype), n, width, int(labels is not None)
    )
    plan = PlanSummary()
    room = (ctypes.c_int64(multiprocessors), ctypes.c_int64(shared_bytes))
    library.functions.kernels_plan(shape, *room, ctypes.byref(plan))

    batch = Batch()
    batch.feature, batch.feature_stride = place_rows(device, feature, gap, offset)
    grad_in = None
    if gradient is not None and in_place:
        batch.gradient, grad_in = device.state(bits_of(gradient))
        batch.grad_in, batch.gradient_stride, batch.grad_in_stride = batch.gradient, width, width
    elif gradient is not None:
        batch.gradient, batch.gradient_stride = place_rows(device, gradient, gap, offset)
        if job == "relu_backward":
            item = np.dtype(bits_of(feature).dtype)
            batch.grad_in, grad_in = device.empty((n, width), item, offset=offset * item.itemsize)
            batch.grad_in_stride = width
    if labels is not None:
        grouped = group_labels(device, labels, num_classes)
        assert not grouped.wrong
        batch.order = device.place(grouped.order)
        batch.class_ptr = device.place(grouped.class_ptr)
        batch.classes, batch.entries = num_classes, n
        if label_at:
            batch.label_at = device.place(grouped.label_at)
    workspace, _ = device.empty((plan.workspace_bytes,), np.uint8)

    step = Step(library, device, width)
    step.sites[0, 2:4] = [1, n]
    results = step.results(0)
    results.unit_counts, counts = device.empty((2,), np.int64)
    device.call("kernels_measure", shape, *room, batch, ctypes.c_void_p(workspace), results)
    site = step.sites[1].copy()
    step.end()
    out = None if grad_in is None else tensor_of(grad_in, dtype)
    return Measured(
        record=step.record(0, 0),
        grad_in=out,
        unit_counts=[int(x) for x in counts],
        plan=plan,
        bits=site.tobytes() + counts.tobytes() + (b"" if grad_in is None else grad_in.tobytes()),
    )


class Step:
    """Sites, window buffer and ring on the device, as the recorder will hold them."""

    def __init__(
        self,
        library: Library,
        device: Device,
        *widths: int,
        capacity: int = 3,
        every: int = 1,
        window: int = 5,
    ) -> None:
        self._device = device
        sites = np.zeros((1 + len(widths), site_doubles(library)))
        sites[0, :6] = [1, 1, 0, -1, window, sum(widths)]
        sites[1:, 2] = widths
        sites[1:, 6] = np.cumsum([0, *widths[:-1]])
        self.sites_at, self.sites = device.state(sites)
        never = np.full((2, max(1, sum(widths))), np.iinfo(np.int32).min, np.int32)
        self.units_at, self.units = device.state(never)
        self._ring = Ring()
        shape = (capacity, len(widths), len(STATISTICS))
        self._ring.values, self.values = device.empty(shape, np.float64)
        self._ring.steps, self.steps = device.empty((capacity,), np.int64)
        self._ring.losses, self.losses = device.empty((capacity,), np.float64)
        self._ring.recorded, self.recorded = device.state(np.zeros(1, np.int64))
        self._ring.blocks_ended, _ = device.state(np.zeros(1, np.uint32))
        self._ring.capacity, self._ring.every = capacity, every
        self._ring.sites = len(widths)

    def results(self, site: int) -> ctypes.Structure:
        """Where a batch of that site goes."""
        results = Results()
        results.header, results.site_index = self.sites_at, site
        results.rows_per_sample = 1
        results.site = self.sites_at + (1 + site) * self.sites.shape[1] * 8
        results.units, results.units_capacity = self.units_at, self.units.shape[1]
        return results

    def end(self, loss: float | Array | None = None, num_sites: int | None = None) -> None:
        """`loss`: a number that the host knows, or one that lies on the device."""
        given = Loss(number=math.nan)
        if isinstance(loss, np.ndarray):
            single = loss.dtype == np.float32
            setattr(given, "single_at" if single else "double_at", self._device.place(loss))
        elif loss is not None:
            given.number = loss
        self._device.call(
            "kernels_end_step",
            ctypes.c_void_p(self.sites_at),
            len(self.sites) - 1 if num_sites is None else num_sites,
            ctypes.c_void_p(self.units_at),
            *(self.units.shape[1], given, self._ring),
        )

    def record(self, place: int, site: int) -> dict[str, float]:
        return dict(zip(STATISTICS, map(float, self.values[place, site]), strict=True))


def same(actual: float, expected: float) -> bool:
    return actual == expected or (math.isnan(actual) and math.isnan(expected))
