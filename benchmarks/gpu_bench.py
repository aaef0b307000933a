"""Kernels and training steps on a GPU against torch's and against the speed of memory.

    python benchmarks/gpu_bench.py --json FILE [--seconds 1] [--only PART]

Part by part: relu_backward, means, matrix, steps, waits. Calls are interleaved, and ratios are
medians over rounds. The file is written after each part; a part that fails leaves the others.
"""

from __future__ import annotations

import argparse
import functools
import json
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gpu_steps
import torch
from gpu_timing import device_times, summary
from torch import Tensor
from torch.nn import functional as F

from tfc_fast import _C

NUM_CLASSES = 10
SHAPES = ((4096, 4096), (65536, 1024))  # at least 32 MB per tensor
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

Rows = Iterator[dict[str, Any]]


def relu_backward(seconds: float) -> Rows:
    """The fused kernel, ReLU's own, and a copy of a tensor (two thirds of the same bytes).

    `ours` is the backward; what it leaves for the end of the step, which is done for all sites at
    once, is in `ours and end of step`.
    """
    for shape, dtype, x in _tensors():
        feature, grad = x.relu(), torch.randn_like(x)
        place = torch.empty_like(x)
        settings: dict[str, Any] = {"num_sites": 1, "num_classes": NUM_CLASSES, "capacity": 256}
        settings |= {"window": 100, "every": 1, "units": shape[1], "device": x.device}
        recorder = _C.Recorder(**settings)
        recorder.use_sites(1)
        next_batch = functools.partial(_next_batch, recorder, _labels(shape[0]))
        next_batch()
        ours = functools.partial(_fused, recorder, grad, feature)

        def ours_to_the_end(recorder: _C.Recorder = recorder, ours: Any = ours) -> None:
            ours()
            if recorder.end_step(None):
                recorder.drain()

        def torchs(grad: Tensor = grad, feature: Tensor = feature) -> Tensor:
            made: Tensor = torch.ops.aten.threshold_backward.default(grad, feature, 0)
            return made

        if not torch.equal(ours(), torchs()):
            raise AssertionError(f"grad_in differs from ReLU's own, {shape}, {dtype}")
        calls: dict[str, Callable[[], object]] = {
            "ours": ours,
            "threshold_backward": torchs,
            "copy": functools.partial(place.copy_, grad),
        }
        times = device_times(calls, seconds, next_batch)
        alone: dict[str, Callable[[], object]] = {
            "ours and end of step": ours_to_the_end,
            "threshold_backward": torchs,
        }
        of_all = summary(device_times(alone, seconds, next_batch), "threshold_backward")
        found = summary(times, "threshold_backward")
        found["ours and end of step"] = of_all["ours and end of step"]
        yield _row(shape, x, found, {"ours": 3, "threshold_backward": 3})


def _fused(recorder: _C.Recorder, grad: Tensor, feature: Tensor) -> Tensor:
    r = recorder
    made: Tensor = torch.ops.tfc_fast.relu_probe_backward.default(
        grad, feature, r.order, r.class_ptr, r.sites, r.units, 0
    )
    return made


def _next_batch(recorder: _C.Recorder, labels: Tensor) -> None:
    """Closes a step and announces a batch, without which nothing would be measured."""
    if recorder.end_step(None):
        recorder.drain()
    recorder.begin_batch(labels)


def means(seconds: float) -> Rows:
    """Statistics of one tensor, which reads it once, against a copy (which reads and writes)."""
    for shape, _, x in _tensors():
        calls = _means_of(x, x.relu(), torch.empty_like(x), _labels(shape[0]))
        times = device_times(calls, seconds)
        yield _row(shape, x, summary(times, "copy"), dict.fromkeys(set(calls) - {"copy"}, 1))


def _means_of(
    x: Tensor, feature: Tensor, place: Tensor, labels: Tensor
) -> dict[str, Callable[[], object]]:
    ops = torch.ops.tfc_fast
    groups = ops.group_labels.default(labels, NUM_CLASSES, "labels")
    return {
        "copy": lambda: place.copy_(x),
        "sum": lambda: x.sum(),
        "mean_cosine": lambda: ops.mean_cosine.default(x, None, None),
        "mean_cosine, labels": lambda: ops.mean_cosine.default(x, *groups),
        "gate_stats, labels": lambda: ops.gate_stats.default(feature, *groups),
    }


def matrix(seconds: float) -> Rows:
    """All cosines of n rows against torch's normalised product, both in full float32."""
    for n, d in ((4096, 512), (8192, 1024)):
        x = torch.randn(n, d, device="cuda")

        def ours(x: Tensor = x) -> Tensor:
            made: Tensor = torch.ops.tfc_fast.cosine_matrix.default(x, None)
            return made

        def torchs(x: Tensor = x) -> Tensor:
            units = F.normalize(x)
            return units @ units.T

        calls = {"torch": torchs, "cosine_matrix": ours}
        difference = float((ours() - torchs()).abs().max())
        times = device_times(calls, seconds)
        yield {"rows": n, "width": d, "difference": difference, "calls": summary(times, "torch")}


def steps(seconds: float) -> Rows:
    """Training steps, eager and in graphs."""
    for shape, dtype in gpu_steps.CASES:
        for graphs in (False, True):
            yield gpu_steps.measure_steps(shape, dtype, graphs=graphs, seconds=4 * seconds)


def waits(seconds: float) -> Rows:
    """How often a step waits for the device."""
    yield gpu_steps.waits()


PARTS: dict[str, Callable[[float], Rows]] = {
    "relu_backward": relu_backward,
    "means": means,
    "matrix": matrix,
    "steps": steps,
    "waits": waits,
}


def _tensors() -> Iterator[tuple[tuple[int, int], torch.dtype, Tensor]]:
    for shape in SHAPES:
        for dtype in DTYPES:
            yield shape, dtype, torch.randn(shape, device="cuda").to(dtype)


def _labels(n: int) -> Tensor:
    return torch.randint(NUM_CLASSES, (n,), device="cuda")


def _row(
    shape: tuple[int, int], x: Tensor, calls: dict[str, Any], streams: dict[str, int]
) -> dict[str, Any]:
    """A result with bandwidths: `streams` tells how often a call reads or writes such a tensor."""
    size = x.numel() * x.element_size()
    for name, number in {"copy": 2, **streams}.items():
        calls[name]["gb_per_s"] = 1e-6 * number * size / calls[name]["ms"]
    for name in streams:
        calls[name]["of_copy_bandwidth"] = calls[name]["gb_per_s"] / calls["copy"]["gb_per_s"]
    dtype = str(x.dtype).removeprefix("torch.")
    return {"rows": shape[0], "width": shape[1], "dtype": dtype, "bytes": size, "calls": calls}


def run_part(name: str, seconds: float) -> dict[str, Any]:
    """Run a part; its rows so far and, if it failed, why."""
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    found: dict[str, Any] = {"outcome": "passed", "rows": rows}
    try:
        for row in PARTS[name](seconds):
            rows.append(row)
            print(f"{name}: {json.dumps(row)}", flush=True)
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        reason = f"{type(error).__name__}: {error}"[:4000]
        found |= {"outcome": "failed", "reason": reason}
    found["seconds"] = round(time.monotonic() - began, 1)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="for the results")
    parser.add_argument("--seconds", type=float, default=1.0, help="per row (default: %(default)s)")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part only")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("gpu_bench: torch finds no GPU; there is nothing to measure")
        return 1
    torch.set_float32_matmul_precision("highest")
    results: dict[str, Any] = {
        "benchmark": "gpu_bench",
        "device": torch.cuda.get_device_name(),
        "multiprocessors": torch.cuda.get_device_properties(0).multi_processor_count,
        "versions": {
            "torch": str(torch.__version__),
            "cuda": torch.version.cuda,
            "python": platform.python_version(),
        },
        "build": _C.build_info(),
        "seconds": options.seconds,
        "parts": {},
    }
    for name in options.only or PARTS:
        results["parts"][name] = run_part(name, options.seconds)
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    failed = [name for name, part in results["parts"].items() if part["outcome"] == "failed"]
    print(f"gpu_bench: {len(results['parts'])} parts, failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
