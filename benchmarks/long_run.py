"""Whether a long training with the probe keeps its memory: the slope of resident memory.

    python benchmarks/long_run.py [--steps 100000] [--out FILE]

Trains a small MLP with everything attached that keeps or passes on records: a bounded history, a
Parquet sink, a TensorBoard sink, a listener of events, and an evaluation now and then. Resident
memory is read every 1000 steps, after allocators have given back what is free. The first fifth of
the run fills caches and is left out; a line is fitted to the rest. Prints one JSON object:
`bytes_per_1000_steps` is its slope, `standard_error` how far noise may have moved it.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow
import torch
from torch import nn

from tfc_fast import Probe
from tfc_fast.models import MLP
from tfc_fast.sinks import ParquetSink, TensorBoardSink

FEATURES, WIDTH, CLASSES, ROWS = 16, 24, 4, 32
SAMPLE_EVERY = 1000
EVALUATE_EVERY = 1000
# That of the evaluations, too, is full within the part that is left out.
HISTORY_RECORDS = 50


def resident_bytes() -> int:
    """Of this process, less what allocators keep for later; needs Linux and glibc."""
    gc.collect()
    pyarrow.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def resident_memory(steps: int, folder: Path) -> npt.NDArray[np.float64]:
    """Train so many steps; [samples, 2]: step, bytes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = MLP(FEATURES, CLASSES, 4, WIDTH)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    x, y = torch.randn(ROWS, FEATURES), torch.arange(ROWS) % CLASSES
    samples = []
    probe = Probe(
        model,
        num_classes=CLASSES,
        history_records=HISTORY_RECORDS,
        sinks=[ParquetSink(folder / "metrics"), TensorBoardSink(folder / "curves")],
    )
    probe.on("nonfinite", print)
    with probe:
        for step in range(1, steps + 1):
            probe.batch(labels=y)
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            probe.step(loss=loss)
            optimizer.step()
            optimizer.zero_grad()
            if step % EVALUATE_EVERY == 0:
                with torch.no_grad():
                    probe.batch(labels=y)
                    model(x)
                probe.step(split="eval")
            if step % SAMPLE_EVERY == 0:
                samples.append((step, resident_bytes()))
    probe.close()
    return np.array(samples, dtype=np.float64)


def slope(samples: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Of a line through the points, least squares, and its standard error."""
    x, y = samples.T
    centred = x - x.mean()
    gradient = float(centred @ y / (centred @ centred))
    residual = y - y.mean() - gradient * centred
    variance = float(residual @ residual) / (len(x) - 2)
    return gradient, float(np.sqrt(variance / (centred @ centred)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--out", type=Path, help="write the JSON there, too, with each sample")
    arguments = parser.parse_args()
    if arguments.steps < 10 * SAMPLE_EVERY:
        parser.error(f"--steps: at least {10 * SAMPLE_EVERY}, for a line")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        samples = resident_memory(arguments.steps, Path(folder))
    kept = samples[samples[:, 0] > arguments.steps / 5]
    gradient, error = slope(kept)
    result: dict[str, Any] = {
        "steps": arguments.steps,
        "bytes_per_1000_steps": round(1000 * gradient, 1),
        "standard_error": round(1000 * error, 1),
        "first_mib": round(kept[0, 1] / 2**20, 3),
        "last_mib": round(kept[-1, 1] / 2**20, 3),
        "seconds": round(time.perf_counter() - start, 1),
        "torch": torch.__version__,
    }
    print(json.dumps(result, indent=2))
    if arguments.out is not None:
        result["samples"] = samples.astype(int).tolist()
        arguments.out.write_text(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
