"""Times, errors and memory of the providers on one task and one input.

All providers of a case are timed in turns of a few calls each, in an order that rotates. Before
that each has been called once and its result compared with the truth: one that computes something
else is an error of this benchmark and ends it.

A turn begins with a pause. The libraries bring thread pools of their own, whose idle threads go on
spinning for some milliseconds and would take the cores from whoever is called next.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from peer_base import BINS, TASKS, Provider
from peer_providers import PROVIDERS, Ours
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import reference

from tfc_fast import similarity

__all__ = ["Case", "Settings", "cases", "cost_curve", "input_of", "measure_case", "peak_memory"]

Floats = npt.NDArray[np.float64]

_MOST_ROWS_OF_TRUTH = 2048
"""With more rows there is no truth for numbers and counts; of matrices a part is compared."""
_ROWS_COMPARED = 256
_TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}
_SLOW = 1.0
_PAUSE_SECONDS = 0.03
_TURN_SECONDS = 0.03
_CURVE_WIDTH = 64


class Case(NamedTuple):
    """One task on one input."""

    task: str
    input: str
    """"features": the ReLU of standard normal numbers; "collapsed": one such row in all rows, and
    a thousandth of standard normal noise."""
    dtype: str
    rows: int
    width: int

    def __str__(self) -> str:
        kind = " nearly parallel" if self.input == "collapsed" else ""
        return f"{self.task} {self.rows}x{self.width} {self.dtype}{kind}"


class Settings(NamedTuple):
    """What a run is limited to."""

    quick: bool
    threads: int
    seconds: float
    """For each provider and case, after the first call."""
    limit_seconds: float
    """A provider that would take longer for a call is left out; ours is called once."""
    limit_gib: float
    """A provider whose call would need more memory is left out."""


def cases(quick: bool) -> list[Case]:
    """All cases, smaller inputs of a kind before larger ones."""
    if quick:
        features = [("float32", 128, 64), ("float32", 512, 64), ("bfloat16", 512, 64)]
        collapsed = (128, 64)
    else:
        features = [("float32", n, 512) for n in (128, 512, 2048, 8192, 32768, 65536)]
        features += [("float32", 2048, d) for d in (64, 4096)]
        features += [("bfloat16", n, 512) for n in (2048, 8192)]
        collapsed = (512, 512)
    inputs = [("features", *each) for each in features]
    inputs.append(("collapsed", "float32", *collapsed))
    return [
        Case(task, *each)
        for each in inputs
        for task in TASKS
        if each[0] == "features" or task in ("mean", "matrix", "spread")
    ]


def measure_case(
    case: Case, settings: Settings, missing: Mapping[str, str], earlier: Iterable[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Measure one case.

    Args:
        case: Task and input.
        settings: Limits.
        missing: Packages that are not there.
        earlier: Results of the cases measured before, from which times are foretold.

    Returns:
        One result per provider that was measured, and for each of the others its name and why it
        was left out.
    """
    left_out: list[dict[str, str]] = []
    jobs: dict[str, Provider] = {}
    x = input_of(case[1:])
    earlier = list(earlier)
    for provider in PROVIDERS:
        reason = _reason_to_leave_out(provider, case, settings, missing, earlier)
        if reason:
            left_out.append({"provider": provider.name, "reason": reason})
        else:
            jobs[provider.name] = provider(x, settings.threads)
    calls = {name: job.call(case.task) for name, job in jobs.items()}
    first_seconds, errors = {}, {}
    truth = _truth(case, x)
    for name, job in jobs.items():
        if job.compiles:
            calls[name]()
        began = time.perf_counter()
        result = calls[name]()
        first_seconds[name] = time.perf_counter() - began
        errors[name] = _error(case, job, result, truth, ours=name == Ours.name)
        del result
    # A call beyond the limit is not made again: next to it, what a first call adds is nothing.
    once = [name for name in calls if first_seconds[name] > settings.limit_seconds]
    repeated = {name: call for name, call in calls.items() if name not in once}
    times = {name: [[first_seconds[name]]] for name in once}
    times |= _times(repeated, first_seconds, settings.seconds)
    results = []
    for name, turns in times.items():
        seconds = np.concatenate(turns)
        low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75]).tolist()
        results.append(
            {
                **case._asdict(),
                "provider": name,
                "calls": len(seconds),
                "median_ms": 1e3 * middle,
                "q1_ms": 1e3 * low,
                "q3_ms": 1e3 * high,
                "error": errors[name],
                "truth": float(truth[0]) if truth is not None and truth.size == 1 else None,
                "note": jobs[name].notes.get(case.task),
            }
        )
    return results, left_out


def cost_curve(settings: Settings) -> dict[str, Any]:
    """Time of our mean of all pairs as the rows become more, and the exponent of its growth."""
    rows = [2**k for k in range(10, 17 if settings.quick else 21)]
    x = torch.randn(rows[-1], _CURVE_WIDTH, generator=torch.Generator().manual_seed(0))
    medians = []
    for n in rows:
        part = x[:n]

        def call(part: Tensor = part) -> object:
            return similarity.mean_cosine(part)

        call()
        turns = _times({"": call}, {"": 0.0}, settings.seconds)[""]
        medians.append(float(np.median(np.concatenate(turns))))
    exponent = float(np.polyfit(np.log(rows), np.log(medians), 1)[0])
    return {
        "width": _CURVE_WIDTH,
        "rows": rows,
        "median_ms": [1e3 * seconds for seconds in medians],
        "exponent": exponent,
    }


def peak_memory(provider: str, wanted: list[Case], threads: int) -> list[float | str]:
    """Peak of the memory that a call takes besides its input, its result included, in MiB.

    Measured in a process of its own, whose malloc gives memory back at once.

    Args:
        provider: Its name.
        wanted: Cases that it can do.
        threads: CPU threads.

    Returns:
        One number per case, or what went wrong.
    """
    request = {"provider": provider, "threads": threads, "cases": [list(case) for case in wanted]}
    run = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("peer_memory.py"))],
        input=json.dumps(request),
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    values: list[float | str] = [json.loads(line) for line in run.stdout.splitlines()]
    failure = f"process ended with {run.returncode}: {run.stderr.strip().splitlines()[-1:]}"
    return values + [failure] * (len(wanted) - len(values))


def _reason_to_leave_out(
    provider: type[Provider],
    case: Case,
    settings: Settings,
    missing: Mapping[str, str],
    earlier: list[dict[str, Any]],
) -> str:
    if provider.package in missing:
        return f"{provider.package} cannot be imported: {missing[provider.package]}"
    if not provider.can(case.task):
        return "does not offer it"
    if getattr(torch, case.dtype) not in provider.dtypes:
        return f"does not take {case.dtype}"
    gib = provider.bytes_per_pair.get(case.task, 0) * case.rows**2 / 2**30
    if gib > settings.limit_gib:
        return f"needs about {gib:.3g} GiB, more than {settings.limit_gib:g}"
    cost = provider.cost(case.task, case.rows, case.width)
    foretold = [
        1e-3 * one["median_ms"] * cost / provider.cost(case.task, one["rows"], one["width"])
        for one in earlier
        if (one["provider"], one["task"], one["dtype"]) == (provider.name, case.task, case.dtype)
    ]
    # The least of them: small inputs take longer than their size tells. Ours is what the others are
    # compared with, and measured however long it takes.
    if provider is not Ours and foretold and min(foretold) > settings.limit_seconds:
        return f"would take about {min(foretold):.3g} s, more than {settings.limit_seconds:g}"
    return ""


def _times(
    calls: Mapping[str, Callable[[], object]], first: Mapping[str, float], seconds: float
) -> dict[str, list[list[float]]]:
    """Seconds of every call, by turn; the first of `calls` takes part in every round of turns."""
    turns: dict[str, list[list[float]]] = {name: [] for name in calls}
    order = list(calls)

    def unfinished(name: str) -> bool:
        at_least = 1 if first[name] > _SLOW else 3
        return len(turns[name]) < at_least or sum(map(sum, turns[name])) < seconds

    gc.collect()
    gc.disable()
    try:
        while any(map(unfinished, order)):
            for name in order:
                if unfinished(name) or name == next(iter(calls)):
                    turns[name].append(_turn(calls[name], first[name]))
            order.append(order.pop(0))
    finally:
        gc.enable()
    return turns


def _turn(call: Callable[[], object], first: float) -> list[float]:
    time.sleep(_PAUSE_SECONDS)
    if first < _TURN_SECONDS:
        call()  # wakes the threads
    times: list[float] = []
    while sum(times) < _TURN_SECONDS:
        began = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - began)
        del result  # kept until here, so that giving memory back is not timed
    return times


@functools.lru_cache(maxsize=1)
def input_of(kind: tuple[str, str, int, int]) -> Tensor:
    """The rows of a case, from all of its fields but the task."""
    name, dtype, rows, width = kind
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, width, generator=generator).relu_()
    if name == "collapsed":
        x = x[:1] + 1e-3 * torch.randn(rows, width, generator=generator)
    converted: Tensor = x.to(getattr(torch, dtype))
    return converted


@functools.lru_cache(maxsize=1)
def _true_cosines(kind: tuple[str, str, int, int]) -> Floats:
    return reference.cosine_matrix(input_of(kind))


def _rows_compared(case: Case) -> npt.NDArray[np.int64]:
    return np.unique(np.linspace(0, case.rows - 1, _ROWS_COMPARED).astype(np.int64))


def _truth(case: Case, x: Tensor) -> Floats | None:
    """In float64 from all pairs; of matrices the pairs of some rows."""
    rows = _rows_compared(case)
    if case.task == "matrix":
        return reference.cosine_matrix(x[rows])
    if case.task == "agreement":
        opened = (x[rows] > 0).double().numpy()
        closed = 1 - opened
        return np.asarray((opened @ opened.T + closed @ closed.T) / case.width)
    if case.rows > _MOST_ROWS_OF_TRUTH:
        return None
    if case.task == "mean":
        return np.array([reference.mean_cosine(x).all])
    if case.task == "spread" and case.input == "collapsed":
        return np.array([reference.cosine_spread(x).all])
    pairs = _true_cosines(case[1:])[np.triu(np.ones((case.rows, case.rows), bool), 1)]
    if case.task == "spread":
        return np.array([pairs.std()])
    return np.histogram(pairs, BINS, (-1, 1))[0].astype(np.float64)


def _error(
    case: Case, job: Provider, result: object, truth: Floats | None, *, ours: bool
) -> float | None:
    """Largest absolute error; of a histogram, the largest of its cumulated shares of the pairs."""
    values = job.read(case.task, result, _rows_compared(case))
    if truth is None:
        return None
    if values.shape != truth.shape:
        raise RuntimeError(f"{case}: {job.name} gives {values.shape}, wanted {truth.shape}")
    difference = values - truth
    if case.task == "histogram":
        difference = np.cumsum(difference) / truth.sum()
    error = float(np.abs(difference).max())
    # Nearly parallel rows are there to tell who is wrong; all else everybody has to get right.
    if not error <= _TOLERANCE[case.dtype] and (ours or case.input == "features"):
        raise RuntimeError(f"{case}: {job.name} is off by {error:.3g}; they should agree")
    return error
