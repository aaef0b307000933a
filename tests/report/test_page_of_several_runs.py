"""Several runs on one page in a real Chromium: what is shown first, and what tells them apart."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_driver import (
    FEATURES,
    GRADIENTS,
    LOSS,
    chart,
    columns,
    hover,
    label,
    until,
)

from tfc_fast.report import write_comparison
from tfc_fast.run_directory import RunDirectory

Open = Callable[..., Any]
MakeRun = Callable[..., RunDirectory]
Compare = Callable[..., Any]

STEPS = 400
SITES = ("hidden.0.relu", "hidden.1.relu", "hidden.2.relu")


@pytest.fixture
def compare(open_page: Open, make_run: MakeRun, tmp_path: Path) -> Compare:
    """Opens the page of runs that have these records, by their names."""

    def opened(**records: Any) -> Any:
        runs = [make_run(one, None, name=name).path for name, one in records.items()]
        return open_page(write_comparison(runs, tmp_path / "page.html"))

    return opened


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
    page.locator("#choices").get_by_label("second", exact=True).uncheck()
    assert label(page, LOSS).endswith(": 0 lines")
    assert "Nothing to show" in chart(page, LOSS).inner_text()
    page.set_viewport_size({"width": 360, "height": 740})
    until(page, "app.charts[0].plot.width === app.host.clientWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_at_first_a_site_that_all_runs_have(compare: Compare, make_records: Any) -> None:
    deep = make_records(60, SITES)
    # Its peak is where the other run has no site.
    shallow = make_records(60, SITES[:2])
    page = compare(deep=deep, shallow=shallow)
    assert page.locator("#legend").inner_text().split("\n") == [
        "deep: hidden.1.relu",
        "shallow: hidden.1.relu",
    ]
    colors = page.evaluate("app.charts.at(-1).lines.map((line) => line.color)")
    assert len(set(colors)) == 2


def test_at_first_a_site_of_each_run_where_none_is_common(
    compare: Compare, make_records: Any
) -> None:
    unlabelled = make_records(60, ("u", "v"), labels=False)
    page = compare(
        one=make_records(60, ("x", "y")), other=make_records(60, ("z",)), third=unlabelled
    )
    assert page.evaluate("[...app.state.sites]") == ["y", "z", "v"]
    assert page.locator("#legend").inner_text().split("\n") == ["one: y", "other: z"]
    # Each run has one line, so colours tell the runs apart.
    colors = page.evaluate("app.charts.at(-1).lines.map((line) => line.color)")
    assert colors == page.evaluate(
        "app.data.runs.slice(0, 2).map((run) => runColor(app.state, run))"
    )


def test_read_out_of_lines_in_other_bins(compare: Compare, make_records: Any) -> None:
    # Of one every point stands for several steps, of the other for one in a hundred.
    page = compare(long=make_records(6000), thin=make_records(60, every=100))
    text = hover(page, FEATURES, 3040)
    assert text.startswith("around step 3,0")
    assert re.search(r"long: hidden.2.relu\s+steps 3,0\d\d to 3,0\d\d\s+0\.79", text)
    assert re.search(r"thin: hidden.2.relu\s+step 3,001\s+0\.8", text)
    chart(page, FEATURES).focus()
    page.keyboard.press("Home")
    spoken = page.locator("#spoken").inner_text()
    assert re.match(r"around step \d: ", spoken)
    assert re.search(r"long: hidden.2.relu, steps 1 to 4, 0\.5", spoken)
    assert "thin: hidden.2.relu, step 1, 0.5" in spoken


def test_read_out_counts_only_lines_that_have_a_value(compare: Compare, make_records: Any) -> None:
    sites = tuple(f"hidden.{index}.relu" for index in range(10))
    page = compare(long=make_records(200, sites), short=make_records(100, sites))
    page.get_by_role("button", name="All sites").click()
    assert "and 8 more" in hover(page, FEATURES, 50)
    assert "more" not in hover(page, FEATURES, 160)


def test_runs_have_dashes_of_their_own(compare: Compare, make_records: Any) -> None:
    page = compare(**{f"run{index}": make_records(20, SITES[:2]) for index in range(12)})
    page.get_by_role("button", name="All sites").click()
    dashes = page.evaluate("app.charts.at(-1).lines.map((line) => line.dash.join(' '))")
    assert len(set(dashes)) == 12
    # They are as long in the read-out, which says whose they are.
    hover(page, FEATURES, 10)
    dash = ".readout line"
    seen = page.locator(dash).evaluate_all(
        "all => all.map((line) => line.getAttribute('stroke-dasharray') ?? '')"
    )
    assert len(set(seen)) > 5
    assert set(seen) <= set(dashes)


def test_colours_that_come_again_are_dashed(compare: Compare, make_records: Any) -> None:
    page = compare(**{f"run{index}": make_records(20, SITES[:1]) for index in range(10)})
    looks = page.evaluate("app.charts.at(-1).lines.map((line) => line.color + line.dash)")
    assert len(set(looks)) == 10


@pytest.mark.parametrize("other", [2.3, 4.6])
def test_level_of_chance_only_if_it_is_that_of_all_runs(
    open_page: Open, make_run: MakeRun, make_records: Any, tmp_path: Path, other: float
) -> None:
    records = make_records(60)
    loss = records["loss"][::3]
    one = make_run(records, loss, name="one", config={"chance_loss": 2.3})
    two = make_run(records, loss, name="two", config={"chance_loss": other})
    page = open_page(write_comparison([one.path, two.path], tmp_path / "both.html"))
    marks = str(chart(page, LOSS).get_attribute("data-marks"))
    assert ("chance 2.3" in marks) == (other == 2.3)
    page.locator("#choices").get_by_label("one", exact=True).uncheck()
    assert f"chance {other}" in str(chart(page, LOSS).get_attribute("data-marks"))
