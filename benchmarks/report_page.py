"""How large the report page of a long run is, and how soon a browser has drawn it.

    python benchmarks/report_page.py [--steps 100000] [--sites 20] [--json FILE]

Makes the files of a run with made-up numbers, among them spikes of one step, writes its page and
opens that in a headless Chromium (found on PATH, or named by TFC_FAST_CHROMIUM). "Ready" means that
all charts of the first view are drawn, counted from the start of the navigation. That the spikes
can be seen in what is drawn is checked, too.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import chromium_path

from tfc_fast.environment import checked_device, environment
from tfc_fast.records import COLUMNS, COUNT_COLUMNS, Records
from tfc_fast.report import write_report
from tfc_fast.run_directory import RunDirectory
from tfc_fast.sinks import ParquetSink

MOST_MEGABYTES = 15.0
MOST_SECONDS = 3.0

_SPIKE = 1234.5
# A tab that is drawn on, not hidden ones: two frames after the page says that it is ready.
_READY = """() => new Promise((done) => {
  const look = () => "ready" in document.documentElement.dataset
    ? requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())))
    : setTimeout(look, 5);
  look();
})"""
_HIGHEST = """() => Math.max(...app.data.runs[0].log.band("loss", 0).high)"""


def made_up_run(folder: Path, steps: int, sites: int, rng: np.random.Generator) -> RunDirectory:
    """A run on disk: a first phase of half its steps, noise everywhere, and one spike of the loss.

    Args:
        folder: Where to write.
        steps: Number of steps.
        sites: Number of sites, all recorded at every step.
        rng: Of the noise.
    """
    run = RunDirectory(folder).create()
    run.write_json(run.config_path, {"settings": {"depth": sites + 1}, "chance_loss": math.log(10)})
    step = np.arange(1, steps + 1)
    loss = 2.3 * np.exp(-np.maximum(step - steps // 2, 0) / (steps / 20))
    loss = loss * rng.uniform(0.98, 1.02, steps)
    loss[3 * steps // 4] = _SPIKE
    hill = np.interp(step, [0, steps / 2, steps], [0.0, 0.3, 0.0])
    names = np.array([f"hidden.{site}.relu" for site in range(sites)], dtype=object)
    sink = ParquetSink(run.metrics_folder)
    for part in np.array_split(np.arange(steps), max(steps // 10_000, 1)):
        count = part.size * sites
        records: Records = {
            name: np.full(count, 100 if name == "n_rows" else 0)
            if name in COUNT_COLUMNS
            else 0.5 + np.repeat(hill[part], sites) + rng.normal(0.0, 0.02, count)
            for name in COLUMNS
        }
        records["step"] = np.repeat(step[part], sites)
        records["site"] = np.tile(names, part.size)
        records["loss"] = np.repeat(loss[part], sites)
        sink.write(records)
    sink.close()
    rest = {name: np.ones(steps) for name in ("accuracy", "lr", "step_seconds")}
    run.write_train({"step": step, "loss": loss, **rest})
    return run


def seconds_to_ready(page: Path, executable: str, rounds: int) -> list[float]:
    """From the start of the navigation until all is drawn, in fresh tabs of one browser."""
    from playwright.sync_api import sync_playwright

    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        for _ in range(rounds):
            tab = browser.new_page(viewport={"width": 1280, "height": 900})
            tab.goto(page.as_uri(), wait_until="commit")
            found.append(tab.evaluate(_READY) / 1000)
            highest = tab.evaluate(_HIGHEST)
            if not math.isclose(highest, _SPIKE, rel_tol=1e-6):
                raise SystemExit(f"the spike of {_SPIKE} is lost: the highest loss is {highest}")
            tab.close()
        browser.close()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=100_000, help="steps of the run")
    parser.add_argument("--sites", type=int, default=20, help="layers that were watched")
    parser.add_argument("--rounds", type=int, default=5, help="how often the page is opened")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    arguments = parser.parse_args()
    executable = chromium_path()
    if executable is None:
        parser.error("no Chromium on PATH; install one, or name it with TFC_FAST_CHROMIUM")
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        run = made_up_run(Path(folder) / "run", arguments.steps, arguments.sites, rng)
        began = time.perf_counter()
        page = write_report(run.path)
        result: dict[str, Any] = {
            "steps": arguments.steps,
            "sites": arguments.sites,
            "page_megabytes": page.stat().st_size / 1e6,
            "seconds_to_write": time.perf_counter() - began,
            "seconds_to_ready": seconds_to_ready(page, executable, arguments.rounds),
            "environment": environment(checked_device("cpu")),
        }
    ready = statistics.median(result["seconds_to_ready"])
    slowest = max(result["seconds_to_ready"])
    print(f"{arguments.steps:,} steps x {arguments.sites} sites")
    print(f"page    {result['page_megabytes']:.1f} MB (at most {MOST_MEGABYTES:g} wanted)")
    print(f"ready   {ready:.2f} s, slowest {slowest:.2f} s (at most {MOST_SECONDS:g} wanted)")
    print(f"written in {result['seconds_to_write']:.1f} s")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(result["page_megabytes"] > MOST_MEGABYTES or slowest > MOST_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
