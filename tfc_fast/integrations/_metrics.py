"""Records as the flat dictionaries that frameworks log: `tfc/<column>/<site>`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from tfc_fast.records import VALUE_COLUMNS, Records

Metrics: TypeAlias = dict[str, float]

DEFAULT_COLUMNS = (
    "feature_cos_within",
    "feature_cos_between",
    "grad_cos_within",
    "grad_cos_between",
    "active_rate",
    "dead_window_frac",
)
"""What is logged unless the user says otherwise; the history and the sinks get all columns."""


def check_columns(columns: Sequence[str]) -> tuple[str, ...]:
    """The columns, if they are all columns of numbers.

    Raises:
        ValueError: One of them is none.
    """
    unknown = [name for name in columns if name not in VALUE_COLUMNS or name == "loss"]
    if isinstance(columns, str) or unknown:
        raise ValueError(
            f"columns: {columns if isinstance(columns, str) else unknown} given, wanted a list of "
            f"some of {', '.join(name for name in VALUE_COLUMNS if name != 'loss')}"
        )
    return tuple(columns)


def metrics_of(records: Records, rows: slice, columns: Sequence[str]) -> Metrics:
    """The measured numbers of some records: of one step."""
    return {
        f"tfc/{column}/{site}": float(value)
        for column in columns
        for site, value in zip(records["site"][rows], records[column][rows], strict=True)
        if not np.isnan(value)
    }


def steps_of(records: Records) -> list[tuple[int, slice]]:
    """Each step in the records and where it lies."""
    steps = records["step"]
    if len(steps) == 0:
        return []
    starts = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)]
    return [(int(steps[begin]), slice(begin, end)) for begin, end in itertools.pairwise(starts)]


class LogSink:
    """A sink that hands one step in `every` steps to a function `log(metrics, step)`.

    It is the first recorded one at or after each multiple of `every`: where not every step is
    recorded the multiples themselves may all be left out.
    """

    def __init__(
        self, log: Callable[[Metrics, int], None], columns: Sequence[str], every: int
    ) -> None:
        self._log = log
        self._columns = columns
        self._every = every
        self._turn = 0

    def write(self, records: Records) -> None:
        """Log the steps that are due."""
        for step, rows in steps_of(records):
            turn = step // self._every
            if turn > self._turn:
                self._turn = turn
                self._log(metrics_of(records, rows, self._columns), step)

    def flush(self) -> None:
        """The framework's logger flushes itself."""

    def close(self) -> None:
        """The framework's logger is not ours to close."""
