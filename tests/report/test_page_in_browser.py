"""The page in a real Chromium: what it shows, and what a user does with it."""

from __future__ import annotations

import base64
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium_path

from tfc_fast.records import Records, concatenate, select
from tfc_fast.report import PageServer, write_comparison
from tfc_fast.report.page import render
from tfc_fast.report.pictures import Picture
from tfc_fast.report.run import read_run
from tfc_fast.run_directory import RunDirectory
from tfc_fast.sinks import ParquetSink

Open = Callable[..., Any]
MakeRun = Callable[..., RunDirectory]

STEPS = 400
SITES = ("hidden.0.relu", "hidden.1.relu", "hidden.2.relu")
# One grey pixel as PNG.
_DOT = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)
LOSS, FEATURES, GRADIENTS = "loss", "feature_cos_between", "grad_cos_within"


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
def open_page(chromium: Any) -> Iterator[Open]:
    """Opens a file or an address; in the end, nothing was complained of and nothing loaded."""
    complaints: list[str] = []
    requests: list[str] = []
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
        own = page.url
        if ready:
            page.wait_for_selector("html[data-ready]")
        requests[:] = [url for url in requests if url != own and not url.startswith("data:")]
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
    assert [url for url in requests if not url.startswith(("data:", "http://127.0.0.1:"))] == []


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


def until(page: Any, condition: str) -> None:
    """Wait for it; wait_for_function would need an eval, which the page forbids."""
    deadline = time.monotonic() + 20
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(20)


def box(page: Any, name: str) -> Any:
    return page.get_by_role("checkbox", name=name, exact=True)


def chart(page: Any, column: str) -> Any:
    return page.locator(f'.chart[data-column="{column}"]')


def columns(page: Any) -> list[str]:
    found: list[str] = page.locator(".chart").evaluate_all("all => all.map(c => c.dataset.column)")
    return found


def label(page: Any, column: str) -> str:
    return str(chart(page, column).get_attribute("aria-label"))


def seen_steps(page: Any, column: str = LOSS) -> tuple[int, int]:
    found = re.search(r"steps ([\d,]+) to ([\d,]+)", label(page, column))
    assert found is not None
    first, last = (int(text.replace(",", "")) for text in found.groups())
    return first, last


def drag(page: Any, column: str, start: float, end: float) -> None:
    """Over a chart with the mouse, from one share of its width to another."""
    area = chart(page, column).locator(".u-over")
    area.scroll_into_view_if_needed()
    place = area.bounding_box()
    page.mouse.move(place["x"] + start * place["width"], place["y"] + 60)
    page.mouse.down()
    page.mouse.move(place["x"] + end * place["width"], place["y"] + 70, steps=3)
    page.mouse.up()


# Of a copy, since Chromium advises against reading back a canvas that is drawn on.
_INKED = """(canvas, color) => {
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const context = copy.getContext("2d", { willReadFrequently: true });
  context.drawImage(canvas, 0, 0);
  const wanted = [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
  const { data } = context.getImageData(0, 0, copy.width, copy.height);
  const near = (at) => wanted.every((part, of) => Math.abs(part - data[at + of]) < 12);
  let count = 0;
  for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 200 && near(at)) count++;
  return count;
}"""


def inked(page: Any, column: str, color: str) -> int:
    """Pixels of a colour, about, in the drawing of a chart."""
    return int(chart(page, column).locator("canvas").evaluate(_INKED, color))


def color_of(page: Any, site: int, theme: str = "light") -> str:
    return str(page.evaluate(f"app.data.runs[0].colors.{theme}[{site}]"))


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
    assert chart(page, LOSS).get_attribute("data-marks") == f"end {end}"
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
    open_page: Open, module_runs: MakeRun, page_path: Path, made_up_records: Any, tmp_path: Path
) -> None:
    # Shorter, and recorded at every other step only.
    records = made_up_records(120, SITES[:2], every=2)
    other = module_runs(records, records["loss"][::2], name="second")
    page = open_page(write_comparison([page_path.parent, other.path], tmp_path / "both.html"))
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


def test_without_scripts(open_page: Open, page_path: Path) -> None:
    page = open_page(page_path, ready=False, java_script_enabled=False)
    assert page.get_by_text("need JavaScript").is_visible()
    assert page.locator("#explore").is_hidden()
    page.get_by_role("heading", name="Pictures").click()
    assert page.get_by_role("img").first.is_visible()


def test_a_run_that_goes_on(open_page: Open, make_run: MakeRun, make_records: Any) -> None:
    records = make_records(STEPS)
    early = select(records, records["step"] <= 150)
    run = make_run(early, early["loss"][::3])
    server = PageServer([run.path])
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        page = open_page(server.url)
        assert "Temporary feature collapse" not in page.locator("h1").inner_text()
        assert seen_steps(page) == (1, 150)
        box(page, "hidden.1.relu").uncheck()
        box(page, "log scale").check()
        drag(page, LOSS, 0.2, 0.6)
        zoom = seen_steps(page)
        chart(page, FEATURES).focus()
        sink = ParquetSink(run.metrics_folder)
        sink.write(select(records, records["step"] > 150))
        sink.close()
        rest = {name: np.ones(STEPS) for name in ("accuracy", "lr", "step_seconds")}
        loss = concatenate([records])["loss"][::3]
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
    finally:
        server.stop()
        thread.join()


def test_a_run_that_has_just_begun(open_page: Open, make_run: MakeRun, make_records: Any) -> None:
    run = make_run()
    server = PageServer([run.path])
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        page = open_page(server.url)
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
    finally:
        server.stop()
        thread.join()
