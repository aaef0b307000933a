"""Runs that are long, short, hostile, or hard to judge: their page in a real Chromium."""

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
    hover,
    inked,
    label,
    seen_steps,
    shaded,
)

from tfc_fast.analyzed_run import read_run
from tfc_fast.report.page import render
from tfc_fast.run_directory import RunDirectory

Open = Callable[..., Any]
MakeRun = Callable[..., RunDirectory]

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
        assert inked(page, FEATURES, color_of(page, 0)) > 5
        lines = f"app.charts.find((one) => one.column === '{FEATURES}').plot"
        assert page.evaluate(f"{lines}.scales.y.distr") == 3
        box(page, "heat map").check()
        assert label(page, FEATURES).endswith("heat map of 3 sites, steps 1 to 1, log scale")
        # One cell for each site, as wide as the chart and of the same height.
        for color in ("0", "-1"):
            cell = inked(page, FEATURES, page.evaluate(f"app.data.heat.at({color})"))
            assert cell > 0.3 * page.evaluate(f"{lines}.bbox.width * {lines}.bbox.height")
    else:
        assert page.locator("#explore").is_hidden()


@pytest.mark.parametrize("every", [1, 100])
def test_the_last_step_is_seen_in_the_heat_map(
    open_page: Open, make_run: MakeRun, make_records: Any, tmp_path: Path, every: int
) -> None:
    records = make_records(5, every=every)
    records[FEATURES] = np.repeat(np.linspace(0.0, 1.0, 5), 3)
    path = tmp_path / "page.html"
    path.write_text(render([read_run(make_run(records).path)]))
    page = open_page(path)
    box(page, "heat map").check()
    heat = page.evaluate("app.data.heat")
    cells = [inked(page, FEATURES, heat[round(share * 63)]) for share in np.linspace(0, 1, 5)]
    assert min(cells) > 0.9 * max(cells) > 1000
    last = 1 + 4 * every
    assert seen_steps(page, FEATURES) == (1, last)
    chart(page, FEATURES).focus()
    page.keyboard.press("End")
    assert page.locator("#spoken").inner_text().startswith(f"step {last}: ")
    assert f"step {last}" in hover(page, FEATURES, last + 0.9 * every)
    assert f"step {last - every}" in hover(page, FEATURES, last - 0.1 * every)
    page.evaluate(f"app.setZoom([{last - every}, {last + every}])")
    assert page.evaluate("app.visible()[1]") == last + every
    # Lines end at their last point.
    box(page, "heat map").uncheck()
    assert page.evaluate("app.visible()[1]") == last
    page.get_by_role("button", name="All steps").click()
    assert page.evaluate("app.visible()") == [1, last]


def test_read_out_of_the_nearest_point(
    open_page: Open, make_run: MakeRun, make_records: Any, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(render([read_run(make_run(make_records(5, every=100)).path)]))
    page = open_page(path)
    assert hover(page, FEATURES, 190).startswith("step 201")
    assert hover(page, FEATURES, 210).startswith("step 201")


@pytest.mark.parametrize(
    ("first", "loss", "chance", "words", "number"),
    [
        (1, np.nan, None, "when the first phase ended is not known", "not known"),
        (5001, 2.3, None, "when the first phase ended is not known", "not known"),
        (1, 0.5, 2.3, "there was no first phase", "no first phase"),
        (1, 2.3, 2.3, "the first phase has not ended", "not ended"),
    ],
)
def test_only_a_first_phase_is_shaded(
    open_page: Open,
    make_run: MakeRun,
    make_records: Any,
    tmp_path: Path,
    first: int,
    loss: float,
    chance: float | None,
    words: str,
    number: str,
) -> None:
    records = make_records(100)
    records["step"] += first - 1
    records["loss"][:] = loss
    path = tmp_path / "page.html"
    run = make_run(records, config={"chance_loss": chance})
    path.write_text(render([read_run(run.path)]))
    page = open_page(path)
    assert page.locator("#marks").inner_text().startswith(words)
    row = page.get_by_role("row", name="First phase ends at step")
    assert row.get_by_role("cell").inner_text() == number
    assert (shaded(page, FEATURES) > 0.3) == (words == "the first phase has not ended")
