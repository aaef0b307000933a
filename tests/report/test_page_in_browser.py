"""The page in a real Chromium: what it shows, and what a user does with it."""

from __future__ import annotations

import base64
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
from tfc_fast.records import Records
from tfc_fast.report.page import render
from tfc_fast.report.pictures import Picture
from tfc_fast.run_directory import RunDirectory

Open = Callable[..., Any]
MakeRun = Callable[..., RunDirectory]

STEPS = 400
SITES = ("hidden.0.relu", "hidden.1.relu", "hidden.2.relu")
# One grey pixel as PNG.
_DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def shown(module_runs: MakeRun, made_up_records: Callable[..., Records]) -> Records:
    records = made_up_records(STEPS)
    # Not measured for a while, and a similarity below zero: no place on a log scale.
    records["active_rate"][3 * 100 : 3 * 120] = np.nan
    records["grad_cos_within"][3 * 50] = -0.25
    return records


@pytest.fixture(scope="module")
def page_path(module_runs: MakeRun, shown: Records) -> Path:
    run = module_runs(shown, shown["loss"][::3], name="first", summary={})
    picture = Picture("loss", "Loss", "A caption.", "A dot.", base64.b64decode(_DOT))
    run.report_path.write_text(render([read_run(run.path)], [picture]))
    return run.report_path


@pytest.fixture
def page(open_page: Open, page_path: Path) -> Any:
    return open_page(page_path)


def test_what_the_page_shows_at_first(page: Any) -> None:
    assert columns(page) == [LOSS, FEATURES, GRADIENTS]
    assert "3 lines" in label(page, FEATURES)
    assert seen_steps(page) == (1, STEPS)
    assert "Temporary feature collapse" in page.locator("h1").inner_text()
    assert "What to try" in page.locator("body").inner_text()
    assert "depth" in page.locator("body").inner_text()
    for site in range(len(SITES)):
        assert inked(page, FEATURES, color_of(page, site)) > 100


def test_end_of_the_first_phase_and_peak_are_marked(page: Any, shown: Records) -> None:
    summary = read_run(Path(page.url.removeprefix("file://")).parent).summary
    end, peak = summary.first_phase_end, summary.peak_step
    assert chart(page, FEATURES).get_attribute("data-marks") == f"end {end}, peak {peak}"
    assert chart(page, LOSS).get_attribute("data-marks") == f"end {end}, chance 2.303"
    assert f"dashed line at step {end}" in page.locator("#marks").inner_text()
    assert f"at hidden.2.relu, step {peak}" in page.locator("#marks").inner_text()
    assert inked(page, FEATURES, "#b3261e") > 60


def test_choose_sites(page: Any) -> None:
    gone = color_of(page, 1)
    box(page, "hidden.1.relu").uncheck()
    assert "2 lines" in label(page, FEATURES)
    assert "Sites: 2 of 3" in page.locator("#choices").inner_text()
    assert inked(page, FEATURES, gone) < 20
    page.get_by_role("button", name="No site").click()
    assert "Nothing to show" in chart(page, FEATURES).inner_text()
    page.get_by_role("button", name="All sites").click()
    assert "3 lines" in label(page, FEATURES)


def test_choose_statistics(page: Any) -> None:
    box(page, "Open gates").check()
    box(page, "Training loss").uncheck()
    assert columns(page) == [FEATURES, GRADIENTS, "active_rate"]
    assert "Units open for no sample of the step" in page.locator("#choices").inner_text()


def test_log_scale(page: Any) -> None:
    before = page.evaluate("app.charts[0].plot.valToPos(1.15, 'y')")
    box(page, "log scale").check()
    assert "log scale" in label(page, LOSS)
    assert page.evaluate("app.charts[0].plot.scales.y.distr") == 3
    # Half of 2.3 is no longer half way down.
    assert page.evaluate("app.charts[0].plot.valToPos(1.15, 'y')") < before - 20
    assert "are left out" in chart(page, GRADIENTS).inner_text()
    assert page.evaluate("app.charts[2].plot.data[1].filter((value) => value === null).length") == 1
    box(page, "log scale").uncheck()
    assert "left out" not in chart(page, GRADIENTS).inner_text()


def test_drag_zooms_all_charts_and_they_can_be_reset(page: Any) -> None:
    drag(page, FEATURES, 0.25, 0.5)
    first, last = seen_steps(page, FEATURES)
    assert (first, last) == pytest.approx((100, 200), abs=4)
    assert seen_steps(page, LOSS) == seen_steps(page, GRADIENTS) == (first, last)
    chart(page, LOSS).locator(".u-over").dblclick()
    assert seen_steps(page) == (1, STEPS)
    page.get_by_role("button", name="zoom in").click()
    first, last = seen_steps(page)
    assert last - first == pytest.approx(STEPS / 2, abs=2)
    page.get_by_role("button", name="later steps").click()
    assert seen_steps(page)[1] > last
    page.get_by_role("button", name="All steps").click()
    assert seen_steps(page) == (1, STEPS)


def test_the_wheel_scrolls_and_zooms_with_ctrl(page: Any) -> None:
    area = chart(page, LOSS).locator(".u-over")
    area.scroll_into_view_if_needed()
    area.hover()
    before = page.evaluate("scrollY")
    page.mouse.wheel(0, -100)
    until(page, f"scrollY < {before}")
    assert seen_steps(page) == (1, STEPS)
    area.hover()
    page.evaluate("addEventListener('wheel', (event) => (window.stopped = event.defaultPrevented))")
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    until(page, "app.state.zoom !== null")
    first, last = seen_steps(page)
    assert last - first < STEPS - 50
    assert page.evaluate("stopped")  # else the browser would enlarge the whole page


def test_zoom_stays_within_the_run_and_wide_enough(page: Any) -> None:
    page.evaluate("app.setZoom([200, 208])")
    for _ in range(4):
        page.get_by_role("button", name="zoom in").click()
    first, last = seen_steps(page)
    assert last - first == 2
    page.evaluate("app.setZoom([-1000, 20])")
    assert seen_steps(page)[0] == 1
    page.get_by_role("button", name="earlier steps").click()
    assert seen_steps(page)[0] == 1
    page.evaluate("app.setZoom([-1000, 20000])")
    assert page.evaluate("app.state.zoom") is None


def test_read_out_under_the_mouse(page: Any, shown: Records) -> None:
    area = chart(page, FEATURES).locator(".u-over")
    area.scroll_into_view_if_needed()
    place = area.bounding_box()
    page.mouse.move(place["x"] + 0.3 * place["width"], place["y"] + 30)
    text = chart(page, FEATURES).locator(".readout").inner_text()
    found = re.match(r"step (\d+)", text)
    assert found is not None
    values = shown[FEATURES][shown["step"] == int(found[1])]
    for site, value in zip(SITES, values, strict=True):
        assert re.search(rf"{re.escape(site)}\s+{value:.4g}", text), (site, value, text)
    page.mouse.move(5, 5)
    assert chart(page, FEATURES).locator(".readout").is_hidden()


def test_everything_by_keyboard(page: Any, shown: Records) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.column") == FEATURES:
            break
    focused = chart(page, FEATURES)
    assert focused.evaluate("chart => chart === document.activeElement")
    assert focused.evaluate("chart => getComputedStyle(chart).outlineStyle") == "solid"
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    spoken = page.locator("#spoken").inner_text()
    assert spoken.startswith("step 2: ")
    value = shown[FEATURES][shown["step"] == 2][1]
    assert f"hidden.1.relu {value:.4g}" in spoken
    page.keyboard.press("+")
    assert seen_steps(page)[1] < STEPS
    page.keyboard.press("PageDown")
    assert seen_steps(page)[0] > 50
    page.keyboard.press("End")
    assert page.locator("#spoken").inner_text().startswith(f"step {STEPS}: ")
    page.keyboard.press("Escape")
    assert seen_steps(page) == (1, STEPS)
    box(page, "hidden.0.relu").focus()
    page.keyboard.press("Space")
    assert "2 lines" in label(page, FEATURES)
    # The list was made anew; who goes on with Tab goes on from there.
    assert page.evaluate("document.activeElement.closest('label').textContent") == "hidden.0.relu"


def test_names_and_roles_for_who_cannot_see(page: Any) -> None:
    assert page.locator("html").get_attribute("lang") == "en"
    unnamed = page.evaluate("""[...document.querySelectorAll("button, select, input, .chart")]
      .filter((one) => !(one.labels?.[0]?.textContent || one.textContent || one.ariaLabel).trim())
      .map((one) => one.outerHTML)""")
    assert unnamed == []
    described = chart(page, LOSS).get_attribute("aria-describedby")
    assert "Escape shows all" in page.locator(f"#{described}").inner_text()
    assert page.locator("#spoken").get_attribute("aria-live") == "polite"


def test_dark_as_the_system_or_as_chosen(open_page: Open, page_path: Path) -> None:
    def background() -> Any:
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    page = open_page(page_path, color_scheme="dark")
    dark = background()
    assert inked(page, FEATURES, color_of(page, 0, "dark")) > 100
    page.get_by_label("Colours").select_option("light")
    light = background()
    assert (
        sum(map(int, re.findall(r"\d+", light)))
        > 600
        > 150
        > sum(map(int, re.findall(r"\d+", dark)))
    )
    assert inked(page, FEATURES, color_of(page, 0, "light")) > 100
    page.get_by_label("Colours").select_option("as the system")
    assert background() == dark
    page.emulate_media(color_scheme="light")
    until(page, "app.state.theme === 'light'")
    assert background() == light


def test_phone(open_page: Open, page_path: Path) -> None:
    page = open_page(page_path, viewport={"width": 360, "height": 740}, has_touch=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.get_by_text("Statistics: 3 of").click()
    box(page, "Open gates").check()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    widths = page.locator(".chart canvas").evaluate_all("all => all.map((c) => c.clientWidth)")
    assert len(widths) == 4
    assert max(widths) <= 340
    area = chart(page, FEATURES).locator(".u-over")
    area.tap()
    assert "hidden.2.relu" in chart(page, FEATURES).locator(".readout").inner_text()


def test_window_that_changes_its_width(page: Any) -> None:
    page.set_viewport_size({"width": 700, "height": 800})
    until(page, "app.charts[0].plot.width === app.host.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= 700


def test_gaps_are_gaps(page: Any) -> None:
    box(page, "Open gates").check()
    values = page.evaluate("app.charts[3].plot.data[1]")
    assert values[99] is not None
    assert values[100:120] == [None] * 20
    assert values[120] is not None
    # None of them is drawn as a zero: the scale keeps to what was measured.
    assert page.evaluate("app.charts[3].plot.scales.y.min") > 0.3
    chart(page, "active_rate").focus()
    page.evaluate("app.charts[3].step = 110")
    page.keyboard.press("ArrowRight")
    assert page.locator("#spoken").inner_text() == "nothing measured here"


def test_heat_map(page: Any) -> None:
    box(page, "heat map").check()
    assert "heat map of 3 sites" in label(page, FEATURES)
    assert "lines" in label(page, LOSS)
    lowest, highest = page.evaluate("app.data.heat.at(0)"), page.evaluate("app.data.heat.at(-1)")
    assert inked(page, FEATURES, lowest) > 100
    assert inked(page, FEATURES, highest) > 100
    area = chart(page, FEATURES).locator(".u-over")
    area.scroll_into_view_if_needed()
    place = area.bounding_box()
    page.mouse.move(place["x"] + 100, place["y"] + 0.9 * place["height"])
    text = chart(page, FEATURES).locator(".readout").inner_text()
    assert "hidden.2.relu" in text  # the output is at the bottom
    assert "hidden.0.relu" not in text


def test_without_scripts(open_page: Open, page_path: Path) -> None:
    page = open_page(page_path, ready=False, java_script_enabled=False)
    assert page.get_by_text("need JavaScript").is_visible()
    assert page.locator("#explore").is_hidden()
    page.get_by_role("heading", name="Pictures").click()
    assert page.get_by_role("img").first.is_visible()
