"""What a probe has cost."""

from __future__ import annotations

import math
from typing import NamedTuple

from tfc_fast import _extension
from tfc_fast.probe.budget import Budget

_C = _extension._C


class Overhead(NamedTuple):
    """What the probe cost, from its own clock; see `Probe.overhead`."""

    microseconds_per_step: float
    percent_of_step: float
    steps: int


def measured_overhead(
    recorder: _C.Recorder, drain_seconds: float, budget: Budget | None
) -> Overhead:
    """By the recorder's clock; on a GPU with a budget, by the budget's events.

    Args:
        recorder: The recorder.
        drain_seconds: What it took to pass records on.
        budget: The budget, if there is one.
    """
    recorded, skipped, plain, total, num_recorded, num_skipped = recorder.costs()
    steps = num_recorded + num_skipped
    if steps == 0:
        return Overhead(math.nan, math.nan, 0)
    if budget is not None and recorder.sites.is_cuda:
        return Overhead(1e6 * budget.seconds_per_step(), 100 * budget.share_of_step(), steps)
    of_relu = plain / num_skipped * num_recorded if num_skipped > 0 else 0.0
    probe = max(0.0, recorded + skipped + drain_seconds - of_relu)
    return Overhead(1e6 * probe / steps, 100 * probe / total, steps)
