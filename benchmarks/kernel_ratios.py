"""Our kernels against their peers, interleaved call by call in one process.

Each pair is ours and a peer, called one right after the other on the same inputs, in an order that
alternates; the result is the median of the ratios of the pairs, with quartiles. So the moods of the
machine, which last longer than a pair, hit both sides of every ratio. What each side does and what
is left out of the time is told in `workloads.py`.

    python benchmarks/kernel_ratios.py --threads 2 --json kernel_ratios.json

The result of a call is allocated within its time, on both sides, and freed outside of it. The
backward kernels are measured twice where their results are large: with memory that comes fresh from
the system at each call, as in a training script that leaves malloc alone, where page faults take
much of the time on both sides; and with memory that the process keeps (`heap.py`), where the
kernels alone are compared. The counts of page faults per call are part of the tables.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import workloads
from comparisons import FRESH_MEMORY, KEPT_MEMORY, Comparison
from workloads import Workload

from tfc_fast import _C
from tfc_fast.bench import heap
from tfc_fast.environment import environment, thread_count
from tfc_fast.files import atomic_write, make_writable_folder

__all__ = ["main", "measure", "positive_float", "positive_int"]

Floats: TypeAlias = "npt.NDArray[np.float64]"

_DEFAULT_SECONDS = 5.0
_WARM_UP_PAIRS = 3
_WARM_UP_SECONDS = 0.3
_MIN_PAIRS = 10
_MAX_PAIRS = 20_000

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def measure(
    seconds: float = _DEFAULT_SECONDS, *, threads: int | None = None, only: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure everything and print each result as soon as it is there.

    Afterwards the process keeps its memory, see `heap.keep_memory`.

    Args:
        seconds: Time per row of the tables, in seconds; at least 10 pairs are measured anyway.
        threads: CPU threads; None: as torch is set up.
        only: Kernels to measure; default: all.

    Returns:
        Settings, machine, versions, `malloc` (environment variables that change it), `pairs`: one
        entry per row of the tables, with medians in milliseconds, GB/s over what has to be read
        and written, page faults per call, and for each of `ours_by_peer` and `peer_by_ours` the
        `median`, `q1` and `q3` of the ratios; and `left_out`: `kernel`, `peer` and `reason` of each
        table whose peer is not there.
    """
    left_out: list[dict[str, str]] = []

    def wanted(comparison: Comparison) -> bool:
        return not only or comparison.kernel in only

    with thread_count(threads):
        machine = environment(torch.device("cpu"))
        # In this order: there is no way back from kept memory.
        fresh = [
            row
            for each in FRESH_MEMORY
            if wanted(each)
            for row in _compare(each, "fresh", seconds, left_out)
        ]
        heap.keep_memory()
        kept = [
            row
            for each in KEPT_MEMORY
            if wanted(each)
            for row in _compare(each, "kept", seconds, left_out)
        ]
    return {
        "benchmark": "kernel_ratios",
        "settings": {"seconds": seconds, "num_classes": workloads.NUM_CLASSES},
        "device": "cpu",
        **machine,
        "instruction_set": _C.build_info()["instruction_set"],
        "caches": _cache_sizes(),
        "malloc": heap.malloc_settings(),
        "pairs": kept + fresh,
        "left_out": left_out,
    }


def _compare(
    comparison: Comparison, memory: str, seconds: float, left_out: list[dict[str, str]]
) -> list[dict[str, Any]]:
    peer, tensors = comparison.peer, comparison.tensors
    print(f"\n{comparison.title}")
    print(
        f"{'size':>20} {'MiB/tensor':>11} {'pairs':>6} {'ours ms':>9} {peer + ' ms':>15}"
        f" {'page faults':>13}  ratio (quartiles)",
        flush=True,
    )
    rows = []
    for case in comparison.cases:
        try:
            workload = comparison.build(case)
        except ImportError as error:
            print(f"left out: {error}; `make peers` installs what is compared with", flush=True)
            left_out.append({"kernel": comparison.kernel, "peer": peer, "reason": str(error)})
            break
        times, faults = _measure_pairs(workload, peer, seconds)
        ours, theirs = float(np.median(times["ours"])), float(np.median(times[peer]))
        gigabytes = 1e-9 * tensors * case.bytes_per_tensor
        row: dict[str, Any] = {
            "kernel": comparison.kernel,
            "peer": peer,
            "memory": memory,
            "rows": case.shape.batch,
            "width": case.shape.width,
            "dtype": str(case.dtype).removeprefix("torch."),
            "bytes_per_tensor": case.bytes_per_tensor,
            "tensors": tensors,
            "pairs": len(times["ours"]),
            "ours_ms": 1e3 * ours,
            "peer_ms": 1e3 * theirs,
            "ours_gb_per_s": gigabytes / ours,
            "peer_gb_per_s": gigabytes / theirs,
            "ours_page_faults": faults["ours"],
            "peer_page_faults": faults[peer],
            "ours_by_peer": _quartiles(times["ours"] / times[peer]),
            "peer_by_ours": _quartiles(times[peer] / times["ours"]),
        }
        rows.append(row)
        ratio = row[comparison.shown]
        print(
            f"{case!s:>20} {case.bytes_per_tensor / 2**20:>11.2f} {row['pairs']:>6}"
            f" {row['ours_ms']:>9.4f} {row['peer_ms']:>15.4f}"
            f" {faults['ours']:>6.0f}/{faults[peer]:<6.0f}"
            f"  {ratio['median']:.3f} ({ratio['q1']:.3f} to {ratio['q3']:.3f})",
            flush=True,
        )
    return rows


def _measure_pairs(
    workload: Workload, peer: str, seconds: float
) -> tuple[dict[str, Floats], dict[str, float]]:
    """For ours and the peer: seconds, one number per pair, and page faults per call."""
    order = ["ours", peer]
    times: dict[str, list[float]] = {name: [] for name in order}
    faults = dict.fromkeys(order, 0)

    def run_pair() -> None:
        for name in order:
            took, faulted = _cost(workload, name)
            times[name].append(took)
            faults[name] += faulted
        order.reverse()

    gc.collect()
    gc.disable()
    try:
        _repeat(run_pair, _WARM_UP_PAIRS, min(_WARM_UP_SECONDS, seconds))
        for name in order:
            times[name].clear()
            faults[name] = 0
        _repeat(run_pair, _MIN_PAIRS, seconds)
    finally:
        gc.enable()
    return (
        {name: np.array(times[name]) for name in order},
        {name: faults[name] / len(times[name]) for name in order},
    )


def _cost(workload: Workload, provider: str) -> tuple[float, int]:
    """Seconds and page faults of one call."""
    call = workload.calls[provider]
    workload.prepare()
    faults = heap.page_faults()
    began = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - began
    faults = heap.page_faults() - faults
    del result  # kept until here, so that giving memory back is not timed
    return seconds, faults


def _repeat(run: Callable[[], None], at_least: int, seconds: float) -> None:
    until = time.perf_counter() + seconds
    for done in range(_MAX_PAIRS):
        if done >= at_least and time.perf_counter() >= until:
            return
        run()


def _quartiles(ratios: Floats) -> dict[str, float]:
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    return {"median": middle, "q1": low, "q3": high}


def _cache_sizes() -> dict[str, str]:
    """Sizes of the caches by level, as Linux tells them; in a virtual machine those of the host."""
    sizes = {}
    for index in sorted(_CACHES.glob("index*")):
        kind, level, size = (
            (index / name).read_text().strip() for name in ("type", "level", "size")
        )
        if kind != "Instruction":
            sizes[f"L{level}"] = size
    return sizes


def positive_int(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} given, a whole number above 0 is wanted")
    return int(text)


def positive_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} given, a number above 0 is wanted")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(
        description="Measure our kernels against their peers, interleaved call by call."
    )
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="CPU threads (default: as torch is set)"
    )
    parser.add_argument(
        "--seconds",
        type=positive_float,
        default=_DEFAULT_SECONDS,
        metavar="S",
        help="time per row of the tables, in seconds (default: %(default)s)",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        choices=sorted({each.kernel for each in KEPT_MEMORY}),
        help="measure this kernel only; may be given several times",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there, too")
    parsed = parser.parse_args(arguments)
    file: Path | None = parsed.json
    try:
        if file is not None:
            # Before the minutes of measuring, not after.
            make_writable_folder(file.absolute().parent)
        results = measure(parsed.seconds, threads=parsed.threads, only=parsed.only)
        if file is not None:
            text = json.dumps(results, indent=2) + "\n"
            atomic_write(file, lambda out: out.write(text.encode()))
    except OSError as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    caches = ", ".join(f"{level} {size}" for level, size in results["caches"].items())
    print(
        f"\n{results['device_name']} (caches: {caches or 'unknown'}), {results['threads']} threads,"
        f" {results['instruction_set']}, torch {results['versions']['torch']}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
