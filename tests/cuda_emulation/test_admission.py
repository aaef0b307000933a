"""Which batches of a probe the kernels record, where they put their units, and what they refuse."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from cuda_emulation.emulation import Batch, Device, Library, PlanSummary, bits_of
from cuda_emulation.kernels import JOBS, MULTIPROCESSORS, SCALARS, SHARED_BYTES, Step
from torch import Tensor

# Positions in the rows of `sites`: see StepHeader and BatchSums in csrc/kernels/statistics.h.
ENABLED, STEP, BATCH, BATCH_ROWS, UNITS_USED = 0, 1, 2, 3, 5
FAULT = slice(6, 11)
ROWS, WIDTH, LAST_BATCH, UNITS_BEGIN = 1, 2, 5, 6
MISSING, COUNT, WRONG_LABEL, WIDTH_CHANGED, UNITS_BEYOND = 1, 2, 3, 4, 5
NO_LABELS = -1.0


class Recording:
    """A step whose sites have no place yet, and the labels of its micro-batch."""

    def __init__(self, library: Library, *widths: int, seed: int = 0) -> None:
        self.library = library
        self.device = Device(library, seed)
        self.step = Step(library, self.device, *widths)
        self.sites, self.units = self.step.sites, self.step.units
        self.sites[1:, WIDTH] = 0
        self.sites[1:, UNITS_BEGIN] = -1
        self.sites[0, UNITS_USED] = 0
        self.groups: tuple[int, int, int, int] | None = None

    def announce(self, labels: np.ndarray, num_classes: int) -> None:
        """Order and class_ptr are exactly as long as need be, so that reading past them is seen."""
        source = self.device.place(labels.astype(np.int64))
        order, _ = self.device.empty((len(labels),), np.int64)
        class_ptr, _ = self.device.empty((num_classes + 1,), np.int64)
        self.device.call(
            "kernels_group_labels",
            *(ctypes.c_void_p(source), len(labels), num_classes, ctypes.c_void_p(order)),
            *(ctypes.c_void_p(class_ptr), None, None, ctypes.c_void_p(self.step.sites_at)),
        )
        self.groups = (order, class_ptr, num_classes, len(labels))

    def backward(
        self, site: int, feature: Tensor, grad: Tensor, *, units_capacity: int | None = None
    ) -> None:
        """Checks that grad_in is ReLU's, whatever becomes of the record."""
        n, width = feature.shape
        job, scalar = JOBS.index("relu_backward"), SCALARS.index(feature.dtype)
        labelled = self.groups is not None
        shape = (ctypes.c_int64 * 5)(job, scalar, n, width, int(labelled))
        plan = PlanSummary()
        room = (ctypes.c_int64(MULTIPROCESSORS), ctypes.c_int64(SHARED_BYTES))
        self.library.functions.kernels_plan(shape, *room, ctypes.byref(plan))
        batch = Batch(feature_stride=width, gradient_stride=width, grad_in_stride=width)
        batch.feature = self.device.place(bits_of(feature))
        batch.gradient = self.device.place(bits_of(grad))
        batch.grad_in, grad_in = self.device.empty((n, width), bits_of(grad).dtype)
        if self.groups is not None:
            batch.order, batch.class_ptr, batch.classes, batch.entries = self.groups
        workspace, _ = self.device.empty((plan.workspace_bytes,), np.uint8)
        results = self.step.results(site)
        if units_capacity is not None:
            results.units_capacity = units_capacity
        self.device.call(
            "kernels_measure", shape, *room, batch, ctypes.c_void_p(workspace), results
        )
        expected = torch.where(feature <= 0, torch.zeros_like(grad), grad)
        np.testing.assert_array_equal(grad_in, bits_of(expected))


def pair(rng: np.random.Generator, n: int, width: int) -> tuple[Tensor, Tensor]:
    feature, grad = (torch.from_numpy(rng.standard_normal((n, width))).float() for _ in range(2))
    return feature.relu(), grad


@pytest.mark.parametrize("seed", [1, 2])
def test_units_are_placed_one_site_behind_another(
    library: Library, rng: np.random.Generator, seed: int
) -> None:
    recording = Recording(library, 5, 33, 70, seed=seed)
    begins = {}
    used = 0
    for site in (1, 2, 0):
        width = (5, 33, 70)[site]
        before = recording.units.copy()
        recording.backward(site, *pair(rng, 9, width))
        begins[site] = used
        changed = np.flatnonzero((recording.units != before).any(0))
        assert set(changed) == set(range(used, used + width))
        used += width
        assert recording.sites[0, UNITS_USED] == used
    for _ in range(2):  # and stay where they are
        for site, begin in begins.items():
            recording.backward(site, *pair(rng, 4, (5, 33, 70)[site]))
            assert recording.sites[1 + site, UNITS_BEGIN] == begin
    assert recording.sites[0, UNITS_USED] == used
    assert (recording.sites[0, FAULT] == 0).all()


def test_a_site_that_finds_no_room_is_recorded_without_its_units(
    library: Library, rng: np.random.Generator
) -> None:
    recording = Recording(library, 30, 7)
    before = recording.units.copy()
    recording.backward(0, *pair(rng, 6, 30), units_capacity=20)
    np.testing.assert_array_equal(recording.units, before)
    recording.backward(1, *pair(rng, 6, 7), units_capacity=20)
    assert recording.sites[1:, UNITS_BEGIN].tolist() == [-1, 0]
    recording.step.end()
    first, second = (recording.step.record(0, site) for site in (0, 1))
    assert (first["n_rows"], second["n_rows"]) == (6, 6)
    assert math.isnan(first["dead_frac"])
    assert not math.isnan(second["dead_frac"])


@pytest.mark.parametrize("labelled", [False, True])
def test_a_step_that_is_not_recorded_leaves_everything_as_it_is(
    library: Library, rng: np.random.Generator, labelled: bool
) -> None:
    recording = Recording(library, 12)
    recording.sites[0, ENABLED] = 0
    if labelled:
        recording.announce(np.array([0, 7, 1]), 2)
    sites, units = recording.sites.copy(), recording.units.copy()
    recording.backward(0, *pair(rng, 3, 12))
    recording.backward(0, *pair(rng, 5, 11))
    np.testing.assert_array_equal(recording.sites, sites)
    np.testing.assert_array_equal(recording.units, units)
    assert (recording.sites[0, FAULT] == 0).all()


Fit = Callable[[Recording, np.random.Generator], tuple[int, list[float]]]


def no_labels(recording: Recording, rng: np.random.Generator) -> tuple[int, list[float]]:
    recording.sites[0, BATCH_ROWS] = NO_LABELS
    return 12, [MISSING, 4, 0, 9, 0]


def labels_used_twice(recording: Recording, rng: np.random.Generator) -> tuple[int, list[float]]:
    recording.backward(0, *pair(rng, 9, 12))
    return 12, [MISSING, 4, 0, 9, 0]


def fewer_labels(recording: Recording, rng: np.random.Generator) -> tuple[int, list[float]]:
    recording.announce(rng.integers(0, 3, 4), 3)
    return 12, [COUNT, 4, 0, 4, 9]


def more_labels(recording: Recording, rng: np.random.Generator) -> tuple[int, list[float]]:
    recording.announce(rng.integers(0, 3, 40), 3)
    return 12, [COUNT, 4, 0, 40, 9]


def another_class_ptr(recording: Recording, rng: np.random.Generator) -> tuple[int, list[float]]:
    assert recording.groups is not None
    order, class_ptr, num_classes, entries = recording.groups
    recording.groups = (order, class_ptr, num_classes - 1, entries)
    return 12, [COUNT, 4, 0, 9, 9]  # the labels of two classes only, of as many as there are


def label_too_large(recording: Recording, rng: np.random.Generator) -> tuple[int, list[float]]:
    recording.announce(np.array([0, 1, 2, 0, 3, -8, 1, 1, 0]), 3)
    return 12, [WRONG_LABEL, 4, 0, 4, 3]


def label_too_small(recording: Recording, rng: np.random.Generator) -> tuple[int, list[float]]:
    recording.announce(np.array([0, 1, 2, 0, 1, 1, 0, 5, -(2**40)])[::-1], 3)
    return 12, [WRONG_LABEL, 4, 0, 0, -(2**40)]


def another_width(recording: Recording, rng: np.random.Generator) -> tuple[int, list[float]]:
    recording.backward(0, *pair(rng, 9, 12))
    recording.announce(rng.integers(0, 3, 9), 3)
    return 13, [WIDTH_CHANGED, 4, 0, 12, 13]


def units_beyond(recording: Recording, rng: np.random.Generator) -> tuple[int, list[float]]:
    recording.sites[1, [WIDTH, UNITS_BEGIN]] = [12, 1000]
    return 12, [UNITS_BEYOND, 4, 0, 1012, 12]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    "fit",
    [
        *(no_labels, labels_used_twice, fewer_labels, more_labels, another_class_ptr),
        *(label_too_large, label_too_small, another_width, units_beyond),
    ],
)
def test_a_batch_that_does_not_fit_is_noted_and_left_out(
    library: Library, rng: np.random.Generator, fit: Fit, seed: int
) -> None:
    recording = Recording(library, 12, seed=seed)
    recording.sites[0, STEP] = 4
    recording.announce(rng.permutation(np.arange(9) % 3), 3)
    width, fault = fit(recording, rng)
    sites, units = recording.sites[1:].copy(), recording.units.copy()
    recording.backward(0, *pair(rng, 9, width))
    np.testing.assert_array_equal(recording.sites[1:], sites)
    np.testing.assert_array_equal(recording.units, units)
    assert recording.sites[0, FAULT].tolist() == fault
    # The first stays until the host has read it, and the next batch that fits is recorded.
    recording.sites[0, BATCH_ROWS] = NO_LABELS
    recording.backward(0, *pair(rng, 2, width))
    assert recording.sites[0, FAULT].tolist() == fault
    if fit is units_beyond:
        return
    recording.announce(rng.integers(0, 3, 7), 3)
    recording.backward(0, *pair(rng, 7, 12))
    assert recording.sites[1, ROWS] == sites[0, ROWS] + 7
    assert recording.sites[1, LAST_BATCH] == recording.sites[0, BATCH]
    assert recording.sites[0, FAULT].tolist() == fault
