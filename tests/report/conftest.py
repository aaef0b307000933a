from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium_path

from tfc_fast.phases import analyze
from tfc_fast.records import COLUMNS, COUNT_COLUMNS, Records
from tfc_fast.report import PageServer
from tfc_fast.run_directory import RunDirectory
from tfc_fast.sinks import ParquetSink

SITES = ("hidden.0.relu", "hidden.1.relu", "hidden.2.relu")


def collapse_loss(steps: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """2.3 for the first half of the steps, then an exponential fall."""
    step = np.arange(steps)
    return 2.3 * np.exp(-np.maximum(step - steps // 2, 0) / (steps / 20))


def collapse_records(
    steps: int = 400, sites: tuple[str, ...] = SITES, *, labels: bool = True, every: int = 1
) -> Records:
    """Similarities that rise from 0.5 until the middle of the run and fall after it."""
    count = steps * len(sites)
    records: Records = {
        name: np.zeros(count, np.int64) if name in COUNT_COLUMNS else np.full(count, np.nan)
        for name in COLUMNS
    }
    records["step"] = np.repeat(1 + every * np.arange(steps), len(sites))
    records["site"] = np.array(sites * steps, dtype=object)
    records["loss"] = np.repeat(collapse_loss(steps), len(sites))
    records["n_rows"] = np.full(count, 100)
    hill = np.repeat(
        np.interp(np.arange(steps), [0, steps / 2, steps], [0.0, 0.3, 0.0]), len(sites)
    )
    depth = np.tile(np.linspace(0.5, 1.0, len(sites)), steps)
    for name in COLUMNS[3:18]:
        if labels or not name.endswith(("within", "between")):
            records[name] = 0.5 + depth * hill
    return records


@pytest.fixture
def records() -> Records:
    return collapse_records()


@pytest.fixture
def make_records() -> Callable[..., Records]:
    return collapse_records


def write_run(
    path: Path,
    records: Records | None = None,
    loss: Any = None,
    *,
    config: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
) -> RunDirectory:
    """A run on disk; each part can be left out, as a killed run leaves it."""
    run = RunDirectory(path).create()
    config = {
        "settings": {"depth": 4, "lr": 0.05, "batch_norm": False},
        "versions": {"tfc_fast": "0.1.0", "torch": "2.13.0"},
        "chance_loss": math.log(10),
        **(config or {}),
    }
    run.write_json(run.config_path, config)
    if records is not None:
        with_metrics = ParquetSink(run.metrics_folder)
        with_metrics.write(records)
        with_metrics.close()
    if loss is not None:
        steps = np.arange(1, len(loss) + 1)
        rest = {name: np.ones(len(loss)) for name in ("accuracy", "lr", "step_seconds")}
        run.write_train({"step": steps, "loss": loss, **rest})
    if summary is not None:
        analysis = analyze(loss, records, steps=steps, chance_loss=config["chance_loss"])
        run.write_json(run.summary_path, {**analysis.to_dict(), **summary})
    return run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunDirectory]:
    """`write_run` into a folder of the test, called `run` unless `name` says otherwise."""

    def make(*arguments: Any, name: str = "run", **options: Any) -> RunDirectory:
        return write_run(tmp_path / name, *arguments, **options)

    return make


@pytest.fixture(scope="module")
def module_runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunDirectory]:
    """The same, for runs that several tests look at."""
    folder = tmp_path_factory.mktemp("runs")

    def make(*arguments: Any, name: str, **options: Any) -> RunDirectory:
        return write_run(folder / name, *arguments, **options)

    return make


@pytest.fixture(scope="module")
def made_up_records() -> Callable[..., Records]:
    return collapse_records


@pytest.fixture
def serve() -> Iterator[Callable[..., PageServer]]:
    """Serves the page of runs while the test goes on."""
    running: list[tuple[PageServer, threading.Thread]] = []

    def start(*runs: RunDirectory) -> PageServer:
        server = PageServer([run.path for run in runs])
        running.append((server, threading.Thread(target=server.serve)))
        running[-1][1].start()
        return server

    yield start
    for server, thread in running:
        server.close()
        thread.join()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    executable = chromium_path()
    if executable is None:
        reason = "no Chromium: `make browser`, or name one with TFC_FAST_CHROMIUM"
        if os.environ.get("TFC_FAST_REQUIRE_BROWSER", "0") not in ("", "0"):
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium: Any) -> Iterator[Callable[..., Any]]:
    """Opens a file or an address; in the end, nothing was complained of and nothing loaded."""
    complaints: list[str] = []
    requests: list[str] = []
    own: set[str] = set()
    contexts: list[Any] = []

    def opened(address: Path | str, *, ready: bool = True, **options: Any) -> Any:
        size = {"width": 1000, "height": 800}
        context = chromium.new_context(**{"viewport": size, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address.as_uri() if isinstance(address, Path) else address)
        own.add(page.url)
        if ready:
            page.wait_for_selector("html[data-ready]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    # A page that is served asks for itself again.
    assert [url for url in requests if url not in own and not url.startswith("data:")] == []
