"""tfc_fast beside the libraries that people use for pairs of rows: time, memory and error.

    python benchmarks/peers.py --threads 2 --json peers.json --picture peers.png

Providers take turns on each case (`peer_measure.py`); what each is asked to do stands in
`peer_providers.py` and `peer_arrays.py`. Memory that the process frees stays with it, for all
libraries alike, so that page faults stay out of the times (`heap.py`). Memory is measured
afterwards, in processes of their own (`peer_memory.py`).

Results are written after each case, so Ctrl-C loses one case; the same command goes on with what is
missing. `--markdown FILE` puts the tables into a page, between two marks, and measures only what
the JSON lacks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import peer_tables
import torch
from kernel_ratios import positive_float, positive_int
from peer_base import BINS
from peer_measure import Case, Settings, cases, cost_curve, measure_case, peak_memory
from peer_providers import PROVIDERS, versions
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from tfc_fast import _C
from tfc_fast.bench import heap
from tfc_fast.environment import environment, thread_count
from tfc_fast.files import atomic_write, make_writable_folder

__all__ = ["main", "measure"]

_INTERRUPTED = 130


def measure(settings: Settings, file: Path | None = None) -> dict[str, Any]:
    """Measure everything that `file` does not hold yet.

    Afterwards the process keeps its memory, see `heap.keep_memory`.

    Args:
        settings: What to measure, and limits.
        file: JSON that is read first, and written after each case.

    Returns:
        Settings, machine, versions, `missing` (packages that cannot be imported, and why), `cells`
        (one per case and provider), `left_out` (likewise, with the reason), `curve`.

    Raises:
        ValueError: `file` comes from another machine, other versions or other settings.
    """
    heap.keep_memory()
    with thread_count(settings.threads), threadpool_limits(settings.threads):
        results = _begin(settings, file)
        done = {Case(*each) for each in results["done"]}
        todo = [case for case in cases(settings.quick) if case not in done]
        steps = len(todo) + len(PROVIDERS) + 1
        with tqdm(total=steps, unit="case", disable=None, dynamic_ncols=True) as bar:
            for case in todo:
                bar.set_description(str(case))
                cells, left_out = measure_case(case, settings, results["missing"], results["cells"])
                results["cells"] += cells
                results["left_out"] += [{**case._asdict(), **each} for each in left_out]
                results["done"].append(list(case))
                _write(results, file)
                bar.update()
            bar.set_description("cost of the mean")
            if results["curve"] is None:
                results["curve"] = cost_curve(settings)
                _write(results, file)
            bar.update()
            for provider in PROVIDERS:
                bar.set_description(f"memory of {provider.name}")
                _add_memory(results["cells"], provider.name, settings.threads)
                _write(results, file)
                bar.update()
    return results


def _begin(settings: Settings, file: Path | None) -> dict[str, Any]:
    packages, missing = versions()
    head = {
        "benchmark": "peers",
        "settings": {**settings._asdict(), "bins": BINS},
        "device": "cpu",
        **environment(torch.device("cpu")),
        "instruction_set": _C.build_info()["instruction_set"],
        "malloc": heap.malloc_settings(),
        "packages": packages,
        "missing": missing,
    }
    if file is None or not file.exists():
        return {**head, "done": [], "cells": [], "left_out": [], "curve": None}
    results: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for name, value in head.items():
        if results.get(name) != value:
            raise ValueError(
                f"{file}: has {name} {results.get(name)!r}, now it is {value!r}; results of both "
                "cannot be compared: give another file, or remove it to measure anew"
            )
    return results


def _add_memory(cells: list[dict[str, Any]], provider: str, threads: int) -> None:
    mine = [one for one in cells if one["provider"] == provider and "peak_extra_mib" not in one]
    wanted = [Case(*(one[field] for field in Case._fields)) for one in mine]
    if not wanted:
        return
    for one, value in zip(mine, peak_memory(provider, wanted, threads), strict=True):
        one["peak_extra_mib"] = None if isinstance(value, str) else value
        if isinstance(value, str):
            one["no_memory_because"] = value


def _write(results: dict[str, Any], file: Path | None) -> None:
    if file is not None:
        text = json.dumps(results, indent=1) + "\n"
        atomic_write(file, lambda out: out.write(text.encode()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(
        description="Measure tfc_fast and other libraries on all pairs of rows, side by side."
    )
    parser.add_argument(
        "--threads",
        type=positive_int,
        default=torch.get_num_threads(),
        metavar="N",
        help="CPU threads (default: as torch is set)",
    )
    parser.add_argument("--quick", action="store_true", help="small inputs only, in a minute")
    parser.add_argument(
        "--seconds",
        type=positive_float,
        metavar="S",
        help="time per provider and case, in seconds (default: 0.15, quick 0.05)",
    )
    parser.add_argument(
        "--limit-seconds",
        type=positive_float,
        default=6.0,
        metavar="S",
        help="leave out who else would take longer for a call (default: %(default)s)",
    )
    parser.add_argument(
        "--limit-gib",
        type=positive_float,
        default=3.0,
        metavar="G",
        help="leave out whose call would need more memory (default: %(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the results there")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw them there, as PNG")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="put the tables into this page"
    )
    parsed = parser.parse_args(arguments)
    settings = Settings(
        quick=parsed.quick,
        threads=parsed.threads,
        seconds=parsed.seconds or (0.05 if parsed.quick else 0.15),
        limit_seconds=parsed.limit_seconds,
        limit_gib=parsed.limit_gib,
    )
    try:
        # Before the minutes of measuring, not after.
        for file in (parsed.json, parsed.picture):
            if file is not None:
                make_writable_folder(file.absolute().parent)
        if parsed.markdown is not None:
            peer_tables.around_tables(parsed.markdown)
        results = measure(settings, parsed.json)
        print(peer_tables.as_text(results))
        if parsed.markdown is not None:
            peer_tables.put_into_page(results, parsed.markdown)
        if parsed.picture is not None:
            import peer_picture

            peer_picture.draw(results, parsed.picture)
    except KeyboardInterrupt:
        kept = f"{parsed.json} has what was measured" if parsed.json else "nothing was kept"
        print(f"\nstopped; {kept}; the same command goes on", file=sys.stderr)
        return _INTERRUPTED
    except (OSError, ValueError) as error:
        parser.exit(1, f"{parser.prog}: error: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
