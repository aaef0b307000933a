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
