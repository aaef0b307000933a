"""The results of gpu_check.py as tables for the docs.

python benchmarks/gpu_table.py benchmarks/results/gpu-h200.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def lines(results: Row) -> Iterator[str]:
    """Markdown, part by part."""
    parts = results["bench"]["parts"]
    yield f"{results['machine']['device']}, torch {results['machine']['torch']}"
    yield from _backward(parts["relu_backward"]["rows"])
    yield from _means(parts["means"]["rows"])
    yield from _matrix(parts["matrix"]["rows"])
    yield from _steps(parts["steps"]["rows"])


def _shape(row: Row) -> str:
    dtype = f", {row['dtype']}" if "dtype" in row else ""
    return f"{row.get('rows', row.get('batch'))} x {row['width']}{dtype}"


def _time(call: Row) -> str:
    return f"{1e3 * call['ms']:.1f} µs"


def _backward(rows: Sequence[Row]) -> Iterator[str]:
    yield ""
    yield "| | ReLU's backward | fused | ratio | of copy bandwidth | with the end of the step |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        calls = row["calls"]
        ours, to_the_end = calls["ours"], calls["ours and end of step"]
        cells = (
            _shape(row),
            _time(calls["threshold_backward"]),
            _time(ours),
            f"{ours['ratio']:.2f}",
            f"{ours['of_copy_bandwidth']:.0%}",
            f"{to_the_end['ratio']:.2f}",
        )
        yield f"| {' | '.join(cells)} |"


def _means(rows: Sequence[Row]) -> Iterator[str]:
    names = ("mean_cosine", "mean_cosine, labels", "gate_stats, labels", "sum")
    yield ""
    yield f"| of copy bandwidth | {' | '.join(names)} |"
    yield "|---|" + "---|" * len(names)
    for row in rows:
        shares = [f"{row['calls'][name]['of_copy_bandwidth']:.0%}" for name in names]
        yield f"| {_shape(row)} | {' | '.join(shares)} |"


def _matrix(rows: Sequence[Row]) -> Iterator[str]:
    yield ""
    yield "| all cosines | torch | cosine_matrix | ratio |"
    yield "|---|---|---|---|"
    for row in rows:
        ours = row["calls"]["cosine_matrix"]
        times = f"{_time(row['calls']['torch'])} | {_time(ours)}"
        yield f"| {_shape(row)}, float32 | {times} | {ours['ratio']:.2f} |"


def _steps(rows: Sequence[Row]) -> Iterator[str]:
    names = ("probed", "composed", "naive")
    yield ""
    yield f"| step | plain | {' | '.join(names)} |"
    yield "|---|---|" + "---|" * len(names)
    for row in rows:
        how = "in a CUDA graph" if row["graphs"] else "eager"
        ratios = [f"{row['steps'][name]['ratio']:.3f}" for name in names]
        name = f"{row['depth']} layers, {_shape(row)}, {how}"
        yield f"| {name} | {_time(row['steps']['plain'])} | {' | '.join(ratios)} |"


def main() -> None:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="results of gpu_check.py")
    print("\n".join(lines(json.loads(parser.parse_args().file.read_text()))))


if __name__ == "__main__":
    main()
