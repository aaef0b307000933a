"""What the probe costs: the same network trained plain, probed, and with naive hooks.

All train interleaved, step by step, in one process, in an order that rotates; each is compared with
the plain step of the same round. So the machine's moods, which last longer than a round, hit both
sides of every ratio.
"""

from __future__ import annotations

import copy
import gc
import itertools
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from tfc_fast.bench.contenders import CONTENDERS, Contender
from tfc_fast.bench.heap import keep_memory, malloc_settings
from tfc_fast.bench.networks import NETWORKS
from tfc_fast.environment import environment, thread_count
from tfc_fast.models import MLP
from tfc_fast.probe import Sites
from tfc_fast.probe.reductions import Reduction

__all__ = [
    "DEFAULT_SECONDS",
    "DEFAULT_SHAPES",
    "MIN_STEPS",
    "Shape",
    "measure_network",
    "measure_overhead",
    "measure_shape",
]

NUM_CLASSES = 10
MIN_STEPS = 16
"""Steps of a shape that are measured however long they take: fewer have no quartiles."""

DEFAULT_SECONDS = 30.0
"""Time per shape, in seconds: with the default shapes less than four minutes on two cores."""

_BATCHES = 4
_WARM_UP_ROUNDS = 2
_WARM_UP_SECONDS = 1.0
_MAX_ROUNDS = 2000


class Shape(NamedTuple):
    """Size of a measurement: samples per step and units per layer."""

    batch: int
    width: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read a shape.

        Args:
            text: As "256x512".

        Raises:
            ValueError: It is not of that form, or a number is 0.

        Example:
            >>> Shape.parse("256x512")
            Shape(batch=256, width=512)
        """
        batch, _, width = text.strip().partition("x")
        if not (batch.isdecimal() and width.isdecimal() and int(batch) and int(width)):
            raise ValueError(f"shapes: {text!r} given, BATCHxWIDTH is wanted, as 256x512")
        return cls(int(batch), int(width))


DEFAULT_SHAPES = tuple(
    map(Shape.parse, ("64x128", "128x256", "256x512", "1024x512", "1024x1024", "4096x1024"))
)
"""From a batch that is over in less than a millisecond to one far larger than the cache."""


def measure_overhead(
    shapes: Sequence[Shape] = DEFAULT_SHAPES,
    *,
    providers: Sequence[str] = ("plain", "probed", "naive"),
    networks: Sequence[str] = (),
    batch: int = 64,
    reduction: Reduction | None = None,
    depth: int = 9,
    steps: int | None = None,
    seconds: float = DEFAULT_SECONDS,
    threads: int | None = None,
    keep_freed_memory: bool = True,
    on_begin: Callable[[], None] | None = None,
    on_shape: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Measure every shape of an MLP, or every network.

    Args:
        shapes: Batch and width of each MLP.
        providers: Names of `CONTENDERS`; "plain" is among them.
        networks: Names of `NETWORKS`, which are measured instead of MLPs.
        batch: Samples per step of a network.
        reduction: What the rows are in a network; None: what suits it.
        depth: Number of linear layers.
        steps: Steps per shape; None: as many as fit into `seconds`, at least `MIN_STEPS`.
        seconds: Time per shape, in seconds.
        threads: CPU threads; None: as torch is set up.
        keep_freed_memory: Let the process keep the memory it frees, for all providers alike and for
            good. glibc's malloc otherwise gives it back to the system at some steps and not at
            others, and the page faults that follow hit one provider or another by the luck of the
            heap's layout: up to a tenth of a step.
        on_begin: Called when all arguments have been found good, before anything is measured.
        on_shape: Called with the result of each shape as soon as it is there.

    Returns:
        Settings, machine, versions, and `shapes`: the results of `measure_shape` or
        `measure_network`.

    Raises:
        ValueError: A provider or network is unknown, "plain" is missing, a number is out of range,
            or a reduction is given for MLPs.
        OSError: The C library cannot keep freed memory.
    """
    unknown = [name for name in providers if name not in CONTENDERS]
    if unknown:
        raise ValueError(f"providers: {unknown[0]!r} given, known are {', '.join(CONTENDERS)}")
    unknown = [name for name in networks if name not in NETWORKS]
    if unknown:
        raise ValueError(f"model: {unknown[0]!r} given, known are {', '.join(NETWORKS)}")
    if reduction is not None and not networks:
        raise ValueError(
            f"reduction: {reduction!r} given, but the rows of an MLP are its samples; name a model "
            "to measure instead of MLPs, or leave it out"
        )
    if networks and "naive" in providers:
        raise ValueError("providers: naive hooks are for MLPs; leave them out")
    if "plain" not in providers:
        raise ValueError("providers: plain is missing, with which the others are compared; add it")
    for name, value in (("steps", steps), ("depth", depth), ("threads", threads), ("batch", batch)):
        if value is not None and value < 1:
            raise ValueError(f"{name}: {value} given, at least 1 is wanted")
    if not seconds > 0:
        raise ValueError(f"seconds: {seconds} given, more than 0 is wanted")
    if on_begin is not None:
        on_begin()
    if keep_freed_memory:
        keep_memory()
    results = []
    with thread_count(threads):
        machine = environment(torch.device("cpu"))
        limits: dict[str, Any] = {"providers": providers, "steps": steps, "seconds": seconds}
        measurements: list[Callable[[], dict[str, Any]]] = [
            partial(measure_network, name, batch, reduction, **limits) for name in networks
        ] or [partial(measure_shape, shape, depth=depth, **limits) for shape in shapes]
        for measure in measurements:
            results.append(measure())
            if on_shape is not None:
                on_shape(results[-1])
    return {
        "benchmark": "overhead",
        "settings": {
            "depth": None if networks else depth,
            "num_classes": NUM_CLASSES,
            "dtype": "float32",
            "optimizer": "sgd",
            "steps": steps,
            "seconds": None if steps else seconds,
            "providers": list(providers),
            "keep_freed_memory": keep_freed_memory,
            "malloc": malloc_settings(),
        },
        "device": "cpu",
        **machine,
        "shapes": results,
    }


def measure_shape(
    shape: Shape, *, providers: Sequence[str], depth: int, steps: int | None, seconds: float
) -> dict[str, Any]:
    """Measure one shape.

    Args:
        shape: Batch and width; samples have as many features as layers have units.
        providers: Names of `CONTENDERS`.
        depth: Number of linear layers.
        steps: Steps of plain and probed; None: as many as fit into `seconds`, within limits.
        seconds: Time in seconds.

    Returns:
        `batch`, `width`, and for each provider its number of steps, median time in milliseconds
        and, but for plain, median and quartiles of the ratios to the plain step of the same round;
        `weights_equal`: whether probed and plain weights agree bitwise at the end, None if one was
        not measured; `probe`: what the probe says of itself.
    """
    generator = torch.Generator().manual_seed(0)
    model = MLP(shape.width, NUM_CLASSES, depth, shape.width, generator=generator)
    batches = _batches(
        lambda: torch.randn(shape.batch, shape.width, generator=generator), generator
    )
    found = _measure(model, batches, "relu", "flatten", providers, steps, seconds)
    return {**shape._asdict(), **found}


def measure_network(
    name: str,
    batch: int,
    reduction: Reduction | None,
    *,
    providers: Sequence[str],
    steps: int | None,
    seconds: float,
) -> dict[str, Any]:
    """Measure a network.

    Args:
        name: One of `NETWORKS`.
        batch: Samples per step.
        reduction: What the rows are; None: what suits the network.
        providers: Names of `CONTENDERS`.
        steps: Steps of plain and probed; None: as many as fit into `seconds`, within limits.
        seconds: Time in seconds.

    Returns:
        `batch`, `model`, `reduction`, and the rest as `measure_shape`.
    """
    network = NETWORKS[name]
    rows = reduction or network.reduction
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = network.make()
    batches = _batches(lambda: network.inputs(generator, batch), generator)
    found = _measure(model, batches, network.sites, rows, providers, steps, seconds)
    return {"batch": batch, "model": name, "reduction": rows, **found}


def _batches(
    inputs: Callable[[], torch.Tensor], generator: torch.Generator
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [
        (x := inputs(), torch.randint(NUM_CLASSES, (len(x),), generator=generator))
        for _ in range(_BATCHES)
    ]


def _measure(
    model: nn.Module,
    batches: list[tuple[torch.Tensor, torch.Tensor]],
    sites: Sites,
    reduction: Reduction,
    providers: Sequence[str],
    steps: int | None,
    seconds: float,
) -> dict[str, Any]:
    contenders = {
        name: CONTENDERS[name](copy.deepcopy(model), NUM_CLASSES, sites, reduction)
        for name in CONTENDERS
        if name in providers
    }
    gc.collect()
    gc.disable()
    try:
        times = _times(contenders, batches, steps, seconds)
    finally:
        gc.enable()
        for contender in contenders.values():
            contender.close()
    return {**_statistics(times), **_checks(contenders)}


def _times(
    contenders: dict[str, Contender],
    batches: list[tuple[torch.Tensor, torch.Tensor]],
    steps: int | None,
    seconds: float,
) -> dict[str, list[float]]:
    """Seconds of every step, one list per contender; NaN where a contender sat a round out."""
    turns = list(itertools.permutations(contenders))
    orders = itertools.cycle(turns)
    feed = itertools.cycle(batches)

    def run_round(leave_out: str | None = None) -> dict[str, float]:
        inputs, labels = next(feed)
        times = dict.fromkeys(contenders, math.nan)
        for name in next(orders):
            if name != leave_out:
                step = contenders[name].step
                began = time.perf_counter()
                step(inputs, labels)
                times[name] = time.perf_counter() - began
        return times

    warm_until = time.perf_counter() + _WARM_UP_SECONDS
    rounds = 0
    while rounds < _WARM_UP_ROUNDS or time.perf_counter() < warm_until:
        last = run_round()
        rounds += 1
    # Naive hooks can take many times as long as all else, and nobody needs their third digit:
    # they sit out so many rounds that they get about a third of the time.
    naive = last.get("naive", 0.0)
    others = sum(last.values()) - naive
    pause = max(1, math.ceil(2 * naive / others))
    while math.gcd(pause, len(turns)) > 1:
        pause += 1  # else they would always meet the same order
    rows: list[dict[str, float]] = []
    until = time.perf_counter() + seconds
    while (
        len(rows) < steps
        if steps is not None
        else len(rows) < MIN_STEPS or (len(rows) < _MAX_ROUNDS and time.perf_counter() < until)
    ):
        rows.append(run_round("naive" if len(rows) % pause else None))
    return {name: [row[name] for row in rows] for name in contenders}


def _statistics(times: dict[str, list[float]]) -> dict[str, Any]:
    plain = np.array(times["plain"])
    result: dict[str, Any] = {}
    for name, values in times.items():
        seconds = np.array(values)
        measured = np.isfinite(seconds)
        entry: dict[str, Any] = {
            "steps": int(measured.sum()),
            "median_ms": 1e3 * float(np.median(seconds[measured])),
        }
        if name != "plain":
            ratios = seconds[measured] / plain[measured]
            low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
            entry |= {"ratio": middle, "ratio_q1": low, "ratio_q3": high}
        result[name] = entry
    return result


def _checks(contenders: dict[str, Contender]) -> dict[str, Any]:
    probed = contenders.get("probed")
    if probed is None or probed.probe is None:
        return {"weights_equal": None, "probe": None}
    return {
        "weights_equal": _same_weights(contenders["plain"].model, probed.model),
        "probe": dict(probed.probe.overhead()._asdict()),
    }


def _same_weights(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    # As bits: equal weights that went NaN together are equal, too.
    return all(
        torch.equal(*(tensor.flatten().view(torch.uint8) for tensor in pair)) for pair in pairs
    )
