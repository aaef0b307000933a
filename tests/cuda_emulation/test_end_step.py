"""The end of a step on the device: ring, window, step counter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cuda_emulation.emulation import Device, Library
from cuda_emulation.kernels import Step

# Positions in the site's row: see BatchSums in csrc/kernels/statistics.h.
BATCHES, ROWS, WIDTH = 0, 1, 2


def see(step: Step, site: int, width: int, rows: int) -> None:
    step.sites[1 + site, [BATCHES, ROWS, WIDTH]] = [1, rows, width]


def test_steps_follow_each_other(library: Library) -> None:
    step = Step(library, Device(library, 5), 3, 4, capacity=3)
    for number in range(1, 6):
        see(step, number % 2, 3 + number % 2, rows=10 * number)
        step.end(loss=0.5 * number)
        place = (number - 1) % 3
        assert (step.steps[place], step.losses[place]) == (number, 0.5 * number)
        assert step.record(place, number % 2)["n_rows"] == 10 * number
        assert math.isnan(step.record(place, 1 - number % 2)["n_rows"])
        assert step.recorded[0] == number
        assert step.sites[0, 1] == number + 1
        assert (step.sites[1:, ROWS] == 0).all()
    step.end()
    assert math.isnan(step.losses[2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_loss_may_lie_on_the_device(library: Library, dtype: type) -> None:
    step = Step(library, Device(library), 3)
    step.end(np.array([1 / 3], dtype))
    assert step.losses[0] == float(dtype(1 / 3))


@pytest.mark.parametrize("num_sites", [0, 1, 2, 5])
def test_sites_that_are_not_in_use_are_not_seen(library: Library, num_sites: int) -> None:
    step = Step(library, Device(library), *(5 * [4]), capacity=2)
    for number in range(1, 4):  # on the second lap the ring holds records of the first
        for site in range(5):
            see(step, site, 4, rows=10)
        step.end(num_sites=5 if number < 3 else num_sites)
    rows = [step.record(0, site)["n_rows"] for site in range(5)]
    assert rows[:num_sites] == num_sites * [10]
    assert all(math.isnan(value) for value in rows[max(1, num_sites) :])


def test_a_window_buffer_that_was_outgrown_is_not_read_past_its_end(library: Library) -> None:
    step = Step(library, Device(library), 5)
    step.sites[1, 6] = 3
    see(step, 0, 5, rows=2)
    step.end()
    assert math.isnan(step.record(0, 0)["dead_window_frac"])


def test_every_barrier_is_needed(library: Library, rng: np.random.Generator) -> None:
    units = rng.integers(0, 2, (2, 700))

    def run(seed: int, skip: int) -> bytes:
        step = Step(library, Device(library, seed, skip), 300, 300, *(100 * [1]), every=2)
        step.units[:] = units
        for number in range(1, 4):  # the second is not recorded, the third has one site only
            for site in {1: (0, 1), 2: (), 3: (1,)}[number]:
                see(step, site, 300, rows=site + 1)
            step.end(num_sites=2)
        return b"".join(x.tobytes() for x in (step.values[:2], step.sites, step.recorded))

    assert library.needed_barriers(run, ("end_step",), orders=8)


def test_every_nth_step_is_recorded(library: Library) -> None:
    step = Step(library, Device(library), 3, every=3, capacity=9)
    for _ in range(8):
        see(step, 0, 3, rows=7)
        step.end()
        step.sites[1, ROWS] = 0
    assert step.recorded[0] == 3
    assert step.steps[:3].tolist() == [1, 4, 7]


@pytest.mark.parametrize("width", [1, 33, 700])
def test_units_of_the_window(library: Library, rng: np.random.Generator, width: int) -> None:
    step = Step(library, Device(library, 2), 5, width, window=4)
    step.sites[0, 1] = 20
    step.units[:, 5:] = rng.integers(10, 21, (2, width))
    see(step, 1, width, rows=3)
    last_open, last_shut = step.units[:, 5:]
    step.end()
    record = step.record(0, 1)
    assert record["dead_frac"] == np.mean(last_open != 20)
    assert record["always_on_frac"] == np.mean(last_shut != 20)
    assert record["dead_window_frac"] == np.mean(last_open <= 16)


def test_a_site_without_a_place_for_its_units(library: Library) -> None:
    step = Step(library, Device(library), 5)
    step.sites[1, 6] = -1
    see(step, 0, 5, rows=3)
    step.end()
    assert math.isnan(step.record(0, 0)["dead_frac"])
    assert step.record(0, 0)["n_rows"] == 3
