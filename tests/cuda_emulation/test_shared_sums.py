"""Steps of several processes on the device: sums of classes put aside, and what is made of all."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
import reference
import torch
from cuda_emulation.emulation import Array, Device, Library
from cuda_emulation.kernels import SCALARS, Step, place_rows
from cuda_emulation.test_class_sums import Groups

Call = ctypes.c_void_p
# Positions in the site's row: see BatchSums in csrc/kernels/statistics.h.
BATCHES, WIDTH, LAST_BATCH, UNITS_BEGIN = 0, 2, 5, 6
FEATURE, GRADIENT, GATES = 8, 15, 22
ALL, ALL_PAIRS, WITHIN, WITHIN_PAIRS, NORM, VALID, ZERO = range(7)
CLASSES, SITES, SITE = 3, 2, 1


def numbers(*values: int) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


def seen(library: Library, device: Device, width: int, batch: int = 4) -> Step:
    """The sites after a batch of site 1."""
    step = Step(library, device, 5, width)
    step.sites[0, 2] = batch
    step.sites[1 + SITE, [BATCHES, LAST_BATCH]] = [1, batch]
    return step


def put(
    device: Device,
    step: Step,
    x: torch.Tensor,
    labels: Array | None,
    sums: list[Array],
    counts: list[Array],
    gap: int = 0,
) -> Array:
    """The planes, in which everything was 1 before."""
    n, width = x.shape
    classes = 1 if labels is None else CLASSES
    pitch = SITES + 5 + width
    groups: Any = Groups()
    if labels is not None:
        order, class_ptr = reference.group_labels(labels, CLASSES)
        groups.order, groups.class_ptr = device.place(order), device.place(class_ptr)
    rows, stride = place_rows(device, x, gap, 0)
    planes_at, planes = device.state(np.ones((3, classes, pitch)))
    scalar = SCALARS.index(x.dtype)
    shape = numbers(scalar, stride, n, width, SITE, SITES, step.units.shape[1], classes, pitch)
    given = [Call(device.place(values)) for values in (*sums, *counts)]
    device.call(
        "kernels_add_to_planes",
        *(shape, Call(rows), groups, *given, Call(step.sites_at), Call(planes_at)),
    )
    return planes


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("gap", [0, 3])
@pytest.mark.parametrize("dtype", SCALARS, ids=str)
def test_a_batch_is_added_to_the_planes(
    library: Library, rng: np.random.Generator, dtype: torch.dtype, gap: int, labelled: bool
) -> None:
    n, width = 37, 131
    x = torch.from_numpy(rng.standard_normal((n, width))).to(dtype)
    x[3, 5], x[4, 6], x[5] = torch.nan, torch.inf, 0
    labels = rng.integers(0, CLASSES, n) if labelled else None
    classes = CLASSES if labelled else 1
    sums = [rng.standard_normal((classes, width)) for _ in range(2)]
    counts = [rng.integers(0, 9, (classes, 3)) for _ in range(2)]
    device = Device(library, 3)
    planes = put(device, seen(library, device, width), x, labels, sums, counts, gap)
    expected = np.ones_like(planes)
    units = expected[:, :, SITES + 5 :]
    units[:2] += np.array(sums)
    of_class = np.zeros(n, int) if labels is None else labels
    for c in range(classes):
        units[2, c] += (x[of_class == c] > 0).numpy().sum(0)
        expected[:, c, SITE] += [counts[0][c, 0], counts[1][c, 0], (of_class == c).sum()]
    np.testing.assert_array_equal(planes, expected)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((0, 0), 0.0),  # the step is not recorded
        ((1 + SITE, BATCHES), 0.0),
        ((1 + SITE, LAST_BATCH), 3.0),  # this batch was left out
        ((1 + SITE, WIDTH), 8.0),
        ((1 + SITE, UNITS_BEGIN), -1.0),
        ((1 + SITE, UNITS_BEGIN), 6.0),  # beyond the window buffer
    ],
)
def test_what_the_site_has_not_is_not_added(
    library: Library, place: tuple[int, int], value: float
) -> None:
    device = Device(library)
    step = seen(library, device, 9)
    step.sites[place] = value
    sums, counts = [np.ones((1, 9))] * 2, [np.ones((1, 3), np.int64)] * 2
    assert (put(device, step, torch.ones(4, 9), None, sums, counts) == 1).all()


def combine(
    library: Library, sums: Array, summed: Array, processes: int, seed: int = 0, skip: int = -1
) -> Step:
    """The sites of this process after those of all; sums: [batches, 3, classes, pitch]."""
    batches, _, classes, pitch = sums.shape
    width = pitch - SITES - 5
    device = Device(library, seed, skip)
    step = seen(library, device, width)
    step.sites[0, 1] = 17
    step.sites[1, UNITS_BEGIN] = -1  # site 0 has no place for its units
    shape = numbers(SITES, batches, classes, pitch, SITES, processes, step.units.shape[1])
    device.call(
        "kernels_combine_processes",
        *(shape, Call(step.sites_at), Call(device.place(sums)), Call(device.place(summed))),
        Call(step.units_at),
    )
    return step


def planes_of(rng: np.random.Generator, width: int, batches: int) -> tuple[Array, list[Any]]:
    """Sums as rows would leave them, and those rows: unit vectors, gates, labels."""
    sums = np.full((batches, 3, CLASSES, SITES + 5 + width), np.nan)  # of site 0: not looked at
    rows = []
    for planes in sums:
        n = int(rng.integers(8, 20))
        labels = rng.integers(0, CLASSES, n)
        units = rng.standard_normal((2, n, width))
        units /= np.linalg.norm(units, axis=2, keepdims=True)
        gates = rng.random((n, width)) < rng.choice([0.0, 0.5, 1.0], width)
        for plane, values in zip(planes, (*units, gates), strict=True):
            for c in range(CLASSES):
                plane[c, SITE] = (labels == c).sum()
                plane[c, SITES + 5 :] = values[labels == c].sum(0)
        rows.append((*units, gates, labels))
    return sums, rows


@pytest.mark.parametrize(("width", "batches"), [(1, 1), (70, 3), (300, 2)])
def test_what_is_made_of_the_sums_of_all(
    library: Library, rng: np.random.Generator, width: int, batches: int
) -> None:
    sums, rows = planes_of(rng, width, batches)
    summed = rng.random((SITES, 28))
    step = combine(library, sums, summed, processes=4)
    site = step.sites[1 + SITE]
    assert site[BATCHES] == summed[SITE, BATCHES]
    assert site[GRADIENT + NORM] == summed[SITE, GRADIENT + NORM] / 4
    assert site[FEATURE + ZERO] == summed[SITE, FEATURE + ZERO]
    for begin, which in ((FEATURE, 0), (GRADIENT, 1)):
        pairs = np.zeros(4)
        for batch in rows:
            u, labels = batch[which], batch[3]
            others = ~np.eye(len(u), dtype=bool)
            alike = others & (labels[:, None] == labels)
            cosines = u @ u.T
            pairs += [cosines[others].sum(), others.sum(), cosines[alike].sum(), alike.sum()]
        np.testing.assert_allclose(site[begin : begin + 4], pairs, rtol=1e-12, atol=1e-12)
        assert site[begin + VALID] == sum(len(batch[3]) for batch in rows)
    agree = np.zeros(6)
    for _, _, gates, labels in rows:
        pair = np.triu(np.ones((len(labels), len(labels)), bool), 1)
        alike = pair & (labels[:, None] == labels)
        same = (gates[:, None] == gates[None]).sum(2)
        agree += [gates.sum(), gates.size, same[pair].sum(), pair.sum() * width, 0, 0]
        agree[4:] += [same[alike].sum(), alike.sum() * width]
    np.testing.assert_array_equal(site[GATES : GATES + 6], agree)
    never = np.iinfo(np.int32).min
    was_open = np.any([batch[2].any(0) for batch in rows], 0)
    was_shut = np.any([~batch[2].all(0) for batch in rows], 0)
    np.testing.assert_array_equal(step.units[0, 5:], np.where(was_open, 17, never))
    np.testing.assert_array_equal(step.units[1, 5:], np.where(was_shut, 17, never))
    # A site without a place for its units has nothing.
    assert step.sites[1, BATCHES] == 0
    assert (step.units[:, :5] == never).all()


def test_every_barrier_is_needed(library: Library, rng: np.random.Generator) -> None:
    sums, _ = planes_of(rng, 300, 2)
    summed = rng.random((SITES, 28))

    def run(seed: int, skip: int) -> bytes:
        step = combine(library, sums, summed, 2, seed, skip)
        return step.sites.tobytes() + step.units.tobytes()

    assert len({run(seed, -1) for seed in range(6)}) == 1
    assert library.needed_barriers(run, ("shared_sums",), orders=8)
