"""`tfc-fast bench`: measure on this machine what the documentation claims."""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from tfc_fast.bench.contenders import CONTENDERS
from tfc_fast.bench.networks import NETWORKS
from tfc_fast.bench.overhead import (
    DEFAULT_SECONDS,
    DEFAULT_SHAPES,
    MIN_STEPS,
    Shape,
    measure_overhead,
)
from tfc_fast.cli.command import Command, add_command
from tfc_fast.cli.options import errors_in_options, flag
from tfc_fast.files import atomic_write, make_writable_folder
from tfc_fast.probe.reductions import REDUCTIONS

__all__ = ["COMMAND"]

EXIT_CHECK_FAILED = 1
_NAME_WIDTH = 26
_NOISY = 0.1
"""Quartiles that are further apart, as a part of the ratio, tell more of the machine."""


def _default_reductions() -> str:
    """The reduction of most networks, and after it the networks that have another one."""
    common = statistics.mode(network.reduction for network in NETWORKS.values())
    others = [
        f"{network.reduction} for {name}"
        for name, network in NETWORKS.items()
        if network.reduction != common
    ]
    return ", ".join([common, *others])


def _configure_overhead(parser: argparse.ArgumentParser) -> None:
    shapes = ",".join(f"{shape.batch}x{shape.width}" for shape in DEFAULT_SHAPES)
    parser.add_argument(
        "--shapes",
        default=shapes,
        metavar="LIST",
        help="batch x width, with commas between (default: %(default)s)",
    )
    parser.add_argument(
        "--model",
        metavar="LIST",
        help=f"instead of MLPs: {', '.join(NETWORKS)}, with commas between",
    )
    parser.add_argument(
        "--batch",
        type=int,
        default=64,
        metavar="N",
        help="samples per step of --model (default: %(default)s)",
    )
    parser.add_argument(
        "--reduction",
        choices=REDUCTIONS,
        help=f"what the rows of --model are (default: {_default_reductions()})",
    )
    parser.add_argument(
        "--depth", type=int, default=9, metavar="N", help="linear layers (default: %(default)s)"
    )
    parser.add_argument(
        "--steps", type=int, metavar="N", help="steps per shape (default: what fits in --seconds)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=DEFAULT_SECONDS,
        metavar="S",
        help=f"time per shape, in seconds; {MIN_STEPS} steps are measured at least, however long "
        "they take (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads (default: as torch is set up)"
    )
    parser.add_argument(
        "--providers",
        metavar="LIST",
        help=f"which to measure; plain is always needed (default: {','.join(CONTENDERS)}; with "
        "--model plain,probed)",
    )
    parser.add_argument(
        "--malloc",
        choices=("keep", "default"),
        default="keep",
        help="keep: the process keeps the memory it frees, for all providers alike, so that page "
        "faults, which glibc spreads by luck, stay out of the ratios (default: %(default)s)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the results to a file, too")


def _run_overhead(arguments: argparse.Namespace) -> int:
    with errors_in_options({name: flag(name) for name in vars(arguments).keys() - {"run"}}):
        return _measure_overhead(arguments)


def _measure_overhead(arguments: argparse.Namespace) -> int:
    shapes = [Shape.parse(text) for text in arguments.shapes.split(",")]
    networks = arguments.model.split(",") if arguments.model else []
    default = "plain,probed" if networks else ",".join(CONTENDERS)
    providers = [name.strip() for name in (arguments.providers or default).split(",")]
    if arguments.json is not None:
        # Before the minutes of measuring, not after.
        make_writable_folder(Path(arguments.json).absolute().parent)
    columns = [name for name in CONTENDERS if name in providers and name != "plain"]
    what = "batch x model" if networks else "batch x width"
    header = f"{what:>{_NAME_WIDTH}} {'steps':>6} {'plain ms':>9}"
    header += "".join(f"  {name + '/plain (quartiles)':>28}" for name in columns)
    results = measure_overhead(
        shapes,
        providers=providers,
        networks=networks,
        batch=arguments.batch,
        reduction=arguments.reduction,
        depth=arguments.depth,
        steps=arguments.steps,
        seconds=arguments.seconds,
        threads=arguments.threads,
        keep_freed_memory=arguments.malloc == "keep",
        on_begin=lambda: print(header, flush=True),
        on_shape=lambda result: print(_row(result, columns), flush=True),
    )
    noisy = [_name(result, "x") for result in results["shapes"] if _is_noisy(result, columns)]
    if noisy:
        print(
            f"noisy: {', '.join(noisy)} (quartiles of a ratio more than {_NOISY} of it apart); run "
            "it on a machine that does nothing else"
        )
    layers = "" if networks else f"{arguments.depth} linear layers, "
    print(
        f"{results['device_name']}, {results['threads']} threads, torch "
        f"{results['versions']['torch']}, float32, {layers}malloc: {arguments.malloc}"
    )
    if arguments.json is not None:
        text = json.dumps(results, indent=2) + "\n"
        atomic_write(Path(arguments.json), lambda file: file.write(text.encode()))
    differing = [result for result in results["shapes"] if result["weights_equal"] is False]
    for result in differing:
        print(f"FAILED: at {_name(result, 'x')} the weights with and without the probe differ")
    if not differing and "probed" in columns:
        print("weights with and without the probe are bitwise equal")
    return EXIT_CHECK_FAILED if differing else 0


def _is_noisy(result: dict[str, Any], columns: list[str]) -> bool:
    entries = [result[name] for name in columns]
    return any(entry["ratio_q3"] - entry["ratio_q1"] > _NOISY * entry["ratio"] for entry in entries)


def _name(result: dict[str, Any], times: str) -> str:
    if "width" in result:
        return f"{result['batch']}{times}{result['width']}"
    return f"{result['batch']}{times}{result['model']} ({result['reduction']})"


def _row(result: dict[str, Any], columns: list[str]) -> str:
    plain = result["plain"]
    row = f"{_name(result, ' x '):>{_NAME_WIDTH}} {plain['steps']:>6}"
    row += f" {plain['median_ms']:>9.3f}"
    for name in columns:
        entry = result[name]
        quartiles = f"({entry['ratio_q1']:.3f} to {entry['ratio_q3']:.3f})"
        row += f"  {entry['ratio']:>9.3f} {quartiles:>18}"
    return row


_OVERHEAD = Command(
    name="overhead",
    help="what the probe costs per training step",
    description=(
        "Trains the same network plain, with the probe, and with naive hooks, interleaved step by\n"
        "step, and reports the median of the ratios to the plain step of the same round. Checks,\n"
        "too, that the weights with and without the probe are bitwise equal."
    ),
    examples=(
        "tfc-fast bench overhead --threads 2 --json overhead.json",
        "tfc-fast bench overhead --shapes 256x512,1024x512 --providers plain,probed",
        "tfc-fast bench overhead --model vgg11,resnet18 --reduction pool",
    ),
    configure=_configure_overhead,
    run=_run_overhead,
)


def _configure(parser: argparse.ArgumentParser) -> None:
    add_command(parser.add_subparsers(metavar="BENCHMARK", required=True), _OVERHEAD)


COMMAND = Command(
    name="bench",
    help="measure what the probe costs on this machine",
    description="Benchmarks; each prints a table and can write JSON.",
    examples=("tfc-fast bench overhead --threads 2",),
    configure=_configure,
)
