"""Runs that are long, short, hostile, several, or going on: their page in a real Chromium."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from page_driver import (
    FEATURES,
    GRADIENTS,
    LOSS,
    box,
    chart,
    color_of,
    columns,
    drag,
    inked,
    label,
    seen_steps,
    until,
)

from tfc_fast.analyzed_run import read_run
from tfc_fast.records import select
from tfc_fast.report import PageServer, write_comparison
from tfc_fast.report.page import render
from tfc_fast.run_directory import RunDirectory
from tfc_fast.sinks import ParquetSink

Open = Callable[..., Any]
MakeRun = Callable[..., RunDirectory]
Serve = Callable[[RunDirectory], PageServer]

STEPS = 400
SITES = ("hidden.0.relu", "hidden.1.relu", "hidden.2.relu")


def test_spikes_of_one_step_are_drawn(
    open_page: Open, make_run: MakeRun, make_records: Any, tmp_path: Path
) -> None:
    records = make_records(6000)
    loss = records["loss"][::3].copy()
    loss[4321] = 50.0
    path = tmp_path / "page.html"
    path.write_text(render([read_run(make_run(records, loss).path)]))
    page = open_page(path)
    assert len(page.evaluate("app.data.runs[0].log.steps")) <= 1500
    top = "app.charts[0].plot.scales.y.max"
    assert page.evaluate(top) > 50
    box(page, "range").uncheck()
    assert page.evaluate(top) < 20
    page.evaluate("app.setZoom([4302, 4342])")
    chart(page, LOSS).locator(".u-over").hover()
    assert re.search(r"steps [\d,]+ to [\d,]+", chart(page, LOSS).inner_text())
    assert "to 50)" in chart(page, LOSS).inner_text()


def test_names_are_only_ever_text(
    open_page: Open, make_run: MakeRun, make_records: Any, tmp_path: Path
) -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    records = make_records(60, sites=(evil, "b"))
    path = tmp_path / "page.html"
    path.write_text(render([read_run(make_run(records, records["loss"][::2]).path, evil)]))
    page = open_page(path)
    assert page.locator("#choices").get_by_text(evil).is_visible()
    chart(page, FEATURES).focus()
    page.keyboard.press("ArrowRight")
    assert evil in page.locator("#spoken").inner_text()
    assert evil in chart(page, FEATURES).locator(".readout").inner_text()
    assert page.locator("img").count() == 0


def test_several_runs(
    open_page: Open, make_run: MakeRun, make_records: Any, tmp_path: Path
) -> None:
    # Shorter, and recorded at every other step only.
    records = make_records(120, SITES[:2], every=2)
    other = make_run(records, records["loss"][::2], name="second")
    records = make_records(STEPS)
    first = make_run(records, records["loss"][::3], name="first")
    page = open_page(write_comparison([first.path, other.path], tmp_path / "both.html"))
    assert "2 runs compared" in page.locator("h1").inner_text()
    assert columns(page) == [LOSS, FEATURES, GRADIENTS]
    assert "4 lines" in label(page, LOSS)  # losses and their averages
    page.get_by_role("button", name="All sites").click()
    assert "5 lines" in label(page, FEATURES)
    assert "second: hidden.1.relu" in page.locator("#legend").inner_text()
    # Steps that a run has not recorded are no gaps in its lines.
    joined = page.evaluate("app.charts[1].plot.data.slice(4)")
    assert all(None not in [line[0], line[2], line[4]] for line in joined)
    kinds = page.evaluate("app.charts[1].plot.data[4].slice(0, 6).map((value) => typeof value)")
    assert kinds == ["number", "undefined"] * 3
    page.locator("#choices").get_by_label("first", exact=True).uncheck()
    assert "2 lines" in label(page, FEATURES)
    page.set_viewport_size({"width": 360, "height": 740})
    until(page, "app.charts[0].plot.width === app.host.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.parametrize("steps", [0, 1])
def test_very_short_runs(
    open_page: Open, make_run: MakeRun, make_records: Any, tmp_path: Path, steps: int
) -> None:
    records = make_records(steps)
    records[FEATURES] += np.tile([0.0, 0.1, 0.2], steps)
    run = make_run(records, np.full(steps, 2.3)) if steps else make_run()
    path = tmp_path / "page.html"
    path.write_text(render([read_run(run.path)]))
    page = open_page(path)
    if steps:
        assert columns(page) == [LOSS, FEATURES, GRADIENTS]
        assert inked(page, FEATURES, color_of(page, 0)) > 5
        box(page, "log scale").check()
        box(page, "heat map").check()
    else:
        assert page.locator("#explore").is_hidden()


def test_a_run_that_goes_on(
    open_page: Open, make_run: MakeRun, make_records: Any, serve: Serve
) -> None:
    records = make_records(STEPS)
    early = select(records, records["step"] <= 150)
    run = make_run(early, early["loss"][::3])
    page = open_page(serve(run).url)
    assert "Temporary feature collapse" not in page.locator("h1").inner_text()
    assert seen_steps(page) == (1, 150)
    box(page, "hidden.1.relu").uncheck()
    box(page, "log scale").check()
    drag(page, LOSS, 0.2, 0.6)
    zoom = seen_steps(page)
    chart(page, FEATURES).focus()
    sink = ParquetSink(run.metrics_folder, append=True)
    sink.write(select(records, records["step"] > 150))
    sink.close()
    rest = {name: np.ones(STEPS) for name in ("accuracy", "lr", "step_seconds")}
    loss = records["loss"][::3]
    run.write_train({"step": np.arange(1, STEPS + 1), "loss": loss, **rest})
    until(page, f"app.full()[1] === {STEPS}")
    assert seen_steps(page) == zoom
    assert page.evaluate("document.activeElement.dataset.column") == FEATURES
    assert page.evaluate("app.charts[0].plot.data[0].at(-1)") == STEPS
    assert "2 lines, steps" in label(page, FEATURES)
    assert box(page, "log scale").is_checked()
    assert "Temporary feature collapse" in page.locator("h1").inner_text()
    page.get_by_role("button", name="All steps").click()
    assert seen_steps(page) == (1, STEPS)
    assert "Live: " in page.locator("#status").inner_text()


def test_a_run_that_has_just_begun(
    open_page: Open, make_run: MakeRun, make_records: Any, serve: Serve
) -> None:
    run = make_run()
    page = open_page(serve(run).url)
    assert page.locator("#explore").is_hidden()
    records = make_records(50)
    sink = ParquetSink(run.metrics_folder)
    sink.write(records)
    sink.close()
    assert page.evaluate("new Refresh(app).once()").startswith("updated at ")
    assert columns(page) == [LOSS, FEATURES, GRADIENTS]
    assert "3 lines, steps 1 to 50" in label(page, FEATURES)
    box(page, "Training loss").uncheck()
    page.evaluate("new Refresh(app).once()")
    assert columns(page) == [FEATURES, GRADIENTS]
