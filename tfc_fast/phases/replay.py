"""A finished run, step by step, as a `PhaseMonitor` would have seen it go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc_fast.phases.monitor import PhaseMonitor
from tfc_fast.phases.sites import FloatArray, IntArray, record_steps


def replayed(
    monitor: PhaseMonitor,
    steps: IntArray,
    loss: FloatArray,
    records: Mapping[str, npt.NDArray[Any]] | None,
) -> PhaseMonitor:
    """The monitor, after it was given a whole run.

    Args:
        monitor: a new one.
        steps: step of each loss, strictly increasing, `[n]`, n > 0.
        loss: losses, `[n]`.
        records: of the same run; those after the last of `steps` are left out.

    Returns:
        `monitor` itself.

    Example:
        >>> steps = np.arange(301)
        >>> replayed(PhaseMonitor(), steps, np.full(301, 2.3), None).state
        'stuck'
    """
    loss_of = dict(zip(steps.tolist(), loss.tolist(), strict=True))
    between = {} if not records else _between_by_step(records)
    for step in sorted(loss_of.keys() | between.keys()):
        if step > steps[-1]:
            break
        monitor.update(step, loss_of.get(step, np.nan), between.get(step))
    return monitor


def _between_by_step(records: Mapping[str, npt.NDArray[Any]]) -> dict[int, dict[str, float]]:
    names = ("site", "feature_cos_between")
    columns = (record_steps(records), *(np.asarray(records[name]) for name in names))
    found: dict[int, dict[str, float]] = {}
    for step, site, value in zip(*(column.tolist() for column in columns), strict=True):
        found.setdefault(step, {})[site] = value
    return found
