"""Times on a GPU, interleaved call by call, and the ratios of calls that were measured in turn."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["device_times", "host_times", "summary"]

_MIN_ROUNDS = 12
_MAX_ROUNDS = 2000
_WARM_UP_ROUNDS = 3
# Keeps the device busy while the host queues the calls of a round, so that these run back to back.
_HEAD_START_CYCLES = 2_000_000

Times = dict[str, list[float]]


def device_times(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    prepare: Callable[[], None] = lambda: None,
) -> Times:
    """Seconds of each call on the device, by events; in a round, `prepare` and one of each."""

    def run_round(names: tuple[str, ...]) -> dict[str, float]:
        events = {name: (_event(), _event()) for name in names}
        prepare()
        torch.cuda._sleep(_HEAD_START_CYCLES)  # type: ignore[no-untyped-call]
        for name in names:
            events[name][0].record()
            calls[name]()
            events[name][1].record()
        torch.cuda.synchronize()
        return {name: 1e-3 * begin.elapsed_time(end) for name, (begin, end) in events.items()}

    return _rounds(run_round, tuple(calls), seconds)


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]


def host_times(calls: Mapping[str, Callable[[], object]], seconds: float, repeat: int) -> Times:
    """Seconds per call as the host sees it, `repeat` calls and a wait; one turn each per round."""

    def run_round(names: tuple[str, ...]) -> dict[str, float]:
        took = {}
        for name in names:
            began = time.perf_counter()
            for _ in range(repeat):
                calls[name]()
            torch.cuda.synchronize()
            took[name] = (time.perf_counter() - began) / repeat
        return took

    return _rounds(run_round, tuple(calls), seconds)


def summary(times: Times, base: str) -> dict[str, Any]:
    """Medians in milliseconds, and medians and quartiles of the ratios to `base` round by round."""
    found: dict[str, Any] = {}
    for name, values in times.items():
        entry: dict[str, Any] = {"ms": 1e3 * float(np.median(values)), "rounds": len(values)}
        if name != base:
            ratios = np.array(values) / np.array(times[base])
            low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
            entry |= {"ratio": middle, "ratio_q1": low, "ratio_q3": high}
        found[name] = entry
    return found


def _rounds(
    run: Callable[[tuple[str, ...]], dict[str, float]], names: tuple[str, ...], seconds: float
) -> Times:
    """Rounds in all orders in turn, until the time is up."""
    orders = itertools.cycle(itertools.permutations(names))
    for _ in range(_WARM_UP_ROUNDS):
        run(next(orders))
    rows: list[dict[str, float]] = []
    until = time.perf_counter() + seconds
    while len(rows) < _MIN_ROUNDS or (len(rows) < _MAX_ROUNDS and time.perf_counter() < until):
        rows.append(run(next(orders)))
    return {name: [row[name] for row in rows] for name in names}
