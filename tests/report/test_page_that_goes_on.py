"""The page of runs that go on, in a real Chromium: what is new comes, what is chosen stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from page_driver import (
    FEATURES,
    GRADIENTS,
    LOSS,
    box,
    chart,
    columns,
    drag,
    label,
    seen_steps,
    until,
)

from tfc_fast.records import Records, select
from tfc_fast.report import PageServer
from tfc_fast.run_directory import RunDirectory
from tfc_fast.sinks import ParquetSink

Open = Callable[..., Any]
MakeRun = Callable[..., RunDirectory]
Serve = Callable[..., PageServer]

STEPS = 400


def go_on(run: RunDirectory, records: Records, after: int) -> None:
    """The run gets the records of later steps."""
    sink = ParquetSink(run.metrics_folder, append=True)
    sink.write(select(records, records["step"] > after))
    sink.close()


def refresh(page: Any) -> None:
    assert page.evaluate("new Refresh(app).once()").startswith("updated at ")


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
    sink = ParquetSink(run.metrics_folder, append=True)
    sink.write(records)
    sink.close()
    assert page.evaluate("new Refresh(app).once()").startswith("updated at ")
    assert columns(page) == [LOSS, FEATURES, GRADIENTS]
    assert "3 lines, steps 1 to 50" in label(page, FEATURES)
    box(page, "Training loss").uncheck()
    page.evaluate("new Refresh(app).once()")
    assert columns(page) == [FEATURES, GRADIENTS]


def test_what_was_opened_stays_open(
    open_page: Open, make_run: MakeRun, make_records: Any, serve: Serve
) -> None:
    records = make_records(STEPS)
    early = select(records, records["step"] <= 150)
    one, two = make_run(early, name="one"), make_run(early, name="two")
    page = open_page(serve(one, two).url)
    details = page.locator("#verdicts details")
    details.nth(1).locator("summary").click()
    assert page.evaluate("document.activeElement.tagName") == "SUMMARY"
    go_on(two, records, 150)
    refresh(page)
    assert "Temporary feature collapse" in page.locator("#verdicts").inner_text()
    assert details.evaluate_all("all => all.map((one) => one.open)") == [False, True]
    assert page.evaluate("document.activeElement.parentElement.open")
    # Nothing is new of the other run: its section is the one that was there.
    page.evaluate("window.before = document.querySelector('#verdicts section')")
    details.nth(0).locator("summary").click()
    refresh(page)
    assert page.evaluate("window.before.isConnected")
    assert details.evaluate_all("all => all.map((one) => one.open)") == [True, True]


def test_settings_of_a_run_that_is_resumed(
    open_page: Open, make_run: MakeRun, make_records: Any, serve: Serve
) -> None:
    run = make_run(make_records(50), config={"settings": {"steps": 150}})
    page = open_page(serve(run).url)
    assert "Resumed" not in page.locator("body").inner_text()
    config = run.read_json(run.config_path)
    config["settings"]["steps"] = 987
    config["versions"]["torch"] = "9.8.7"
    run.write_json(run.config_path, {**config, "resumed": [{"at_step": 150}]})
    refresh(page)
    text = page.locator("body").inner_text()
    for new in ("Resumed", "at_step", "987", "9.8.7"):
        assert new in text


def test_the_read_out_of_the_keys_stays_at_its_step(
    open_page: Open, make_run: MakeRun, make_records: Any, serve: Serve
) -> None:
    records = make_records(STEPS)
    run = make_run(select(records, records["step"] <= 150))
    page = open_page(serve(run).url)
    chart(page, FEATURES).focus()
    page.keyboard.press("Home")
    for _ in range(5):
        page.keyboard.press("Shift+ArrowRight")
    read_out = chart(page, FEATURES).locator(".readout")
    cursor = "app.active.plot.posToVal(app.active.plot.cursor.left, 'x')"
    assert read_out.inner_text().startswith("step 51\n")
    go_on(run, records, 150)
    refresh(page)
    until(page, f"Math.abs({cursor} - 51) < 1")
    assert seen_steps(page) == (1, STEPS)
    assert read_out.inner_text().startswith("step 51\n")
    page.keyboard.press("ArrowRight")
    assert page.locator("#spoken").inner_text().startswith("step 52:")
    # Nor does a zoom carry it off.
    page.evaluate("app.setZoom([40, 80])")
    until(page, f"Math.abs({cursor} - 52) < 0.1")
    page.keyboard.press("ArrowRight")
    assert page.locator("#spoken").inner_text().startswith("step 53:")
    # Without the focus it is gone, and no new data bring it back.
    page.locator("#reset").focus()
    refresh(page)
    assert read_out.is_hidden()
    chart(page, FEATURES).focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#spoken").inner_text().startswith("step 54:")
    # The mouse takes it over, and there it stays below the mouse.
    chart(page, FEATURES).locator(".u-over").hover()
    until(page, f"Math.abs({cursor} - 60) < 1")
    page.evaluate("app.setZoom(null)")
    until(page, f"Math.abs({cursor} - {STEPS / 2}) < 2")
    assert chart(page, FEATURES).locator(".readout").inner_text().startswith("step 2")


def test_zoom_of_a_run_that_is_rewound(
    open_page: Open, make_run: MakeRun, make_records: Any, serve: Serve
) -> None:
    records = make_records(STEPS)
    run = make_run(records)
    page = open_page(serve(run).url)
    page.evaluate("app.setZoom([300, 350])")
    for part in run.metrics_folder.iterdir():
        part.unlink()
    sink = ParquetSink(run.metrics_folder, append=True)
    sink.write(select(records, records["step"] <= 200))
    sink.close()
    refresh(page)
    assert seen_steps(page) == (150, 200)
    until(page, "app.charts[0].plot.scales.x.max === 200")
