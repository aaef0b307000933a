"""Rows sorted by class on the device."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
import reference
from cuda_emulation.emulation import Device, Library
from cuda_emulation.kernels import Step, group_labels


@pytest.mark.parametrize(
    ("n", "num_classes"),
    [
        (0, 1),
        (1, 1),
        (31, 2),
        (32, 7),
        (33, 40),
        (257, 5),
        (100, 300),
        (1500, 3),
        (700, 11_000),
        (90, 13_000),
    ],
)
def test_group_labels(library: Library, rng: np.random.Generator, n: int, num_classes: int) -> None:
    labels = rng.integers(0, num_classes, n)
    grouped = group_labels(Device(library, int(rng.integers(100))), labels, num_classes)
    order, class_ptr = reference.group_labels(labels, num_classes)
    np.testing.assert_array_equal(grouped.order, order)
    np.testing.assert_array_equal(grouped.class_ptr, class_ptr)
    np.testing.assert_array_equal(grouped.label_at, labels[order])
    assert not grouped.wrong


@pytest.mark.parametrize("wrong", [-1, 5, -(2**40), 2**40])
def test_wrong_labels_are_told_and_harmless(
    library: Library, rng: np.random.Generator, wrong: int
) -> None:
    labels = rng.integers(0, 5, 70)
    labels[rng.integers(70)] = wrong
    grouped = group_labels(Device(library), labels, 5)
    assert grouped.wrong
    assert sorted(grouped.order) == list(range(70))
    assert (grouped.class_ptr[0], grouped.class_ptr[-1]) == (0, 70)


@pytest.mark.parametrize(("n", "num_classes"), [(0, 3), (50, 1), (130, 9), (20, 100)])
def test_expand_classes(
    library: Library, rng: np.random.Generator, n: int, num_classes: int
) -> None:
    labels = rng.integers(0, num_classes, n)
    order, class_ptr = reference.group_labels(labels, num_classes)
    device = Device(library)
    address, label_at = device.empty((n,), np.int32)
    device.call(
        "kernels_expand_classes",
        *(ctypes.c_void_p(device.place(class_ptr)), n, num_classes, ctypes.c_void_p(address)),
    )
    np.testing.assert_array_equal(label_at, labels[order])


def test_a_new_micro_batch_begins(library: Library, rng: np.random.Generator) -> None:
    device = Device(library)
    step = Step(library, device, 4)
    labels = rng.integers(0, 3, 20)
    out = [device.empty((20,), np.int64)[0], device.empty((4,), np.int64)[0]]
    out += [device.empty((20,), np.int32)[0], device.state(np.zeros(1, np.int32))[0]]
    for batch in (1, 2):
        device.call(
            "kernels_group_labels",
            *(ctypes.c_void_p(device.place(labels)), 20, 3),
            *map(ctypes.c_void_p, out),
            ctypes.c_void_p(step.sites_at),
        )
        assert step.sites[0, 2:4].tolist() == [batch, 20]
