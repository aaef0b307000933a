from __future__ import annotations

import base64
import re
import subprocess
import sys
import webbrowser
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfc_fast.files import DamagedFileError, StorageError
from tfc_fast.records import Records, select
from tfc_fast.report import write_report
from tfc_fast.report.scripts import scripts as page_scripts
from tfc_fast.run_directory import RunDirectory

MakeRun = Callable[..., RunDirectory]
FIGURES = ("loss", "feature_similarity", "gradient_similarity", "gates", "heatmap")
VOID = {"meta", "img", "br", "link", "input"}


class Page(HTMLParser):
    """The page as a browser would take it: tags, attributes and visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", self.text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag in ("th", "td"):
            self.text += " "

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture
def loss(records: Records) -> Any:
    return records["loss"][::3]


class TestFinishedRun:
    @pytest.fixture
    def run(self, make_run: MakeRun, records: Records, loss: Any) -> RunDirectory:
        extra = {
            "planned_steps": 400,
            "accuracy": 0.987,
            "seconds": 1.25,
            "stopped_by": None,
            "overhead": {"microseconds_per_step": 61.25, "percent": 2.5, "steps": 399},
        }
        return make_run(records, loss, summary=extra)

    def test_files(self, run: RunDirectory) -> None:
        assert write_report(run.path) == run.report_path
        found = {path.name for path in run.figures_folder.iterdir()}
        assert found == {f"{name}.png" for name in FIGURES}
        for path in run.figures_folder.iterdir():
            assert path.read_bytes().startswith(b"\x89PNG")

    def test_needs_nothing_from_elsewhere(self, run: RunDirectory) -> None:
        page = Page(write_report(run.path))
        names = {name for name, _ in page.tags}
        assert not names & {"link", "iframe", "object", "a", "base"}
        for _, attributes in page.tags:
            for name in ("src", "href", "srcset", "style"):
                assert attributes.get(name, "data:").startswith("data:")
        html = run.report_path.read_text()
        assert "url(" not in html
        assert "@import" not in html
        policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
        assert policy.startswith("default-src 'none'; img-src data:; ")
        assert "connect-src" not in policy

    def test_embedded_images_are_the_files_and_described(self, run: RunDirectory) -> None:
        images = Page(write_report(run.path)).all("img")
        assert len(images) == len(FIGURES)
        for image, name in zip(images, FIGURES, strict=True):
            head, _, data = image["src"].partition(",")
            assert head == "data:image/png;base64"
            png = (run.figures_folder / f"{name}.png").read_bytes()
            assert base64.b64decode(data, validate=True) == png
            assert len(image["alt"]) > 40
        assert "hidden.2.relu: 0.5" in images[1]["alt"]

    def test_says_what_happened_first(self, run: RunDirectory) -> None:
        text = Page(write_report(run.path)).text
        verdict = text.index("Temporary feature collapse")
        found = text.index("What was found")
        assert verdict < text.index("What it means") < found < text.index("What to try")
        assert "the mean cosine between classes rose from 0.5" in text
        assert "Add batch normalisation" in text
        assert "measured, because" not in text
        assert "Nothing was measured" not in text
        assert "Collapse during training. Features of different classes grew alike" in text[found:]

    def test_shows_numbers_settings_and_versions(self, run: RunDirectory) -> None:
        text = Page(write_report(run.path)).text
        for part in ("98.7 %", "1.2 s", "61.2", "depth 4", "lr 0.05", "batch_norm no"):
            assert part in text, part
        assert "torch 2.13.0" in text
        assert "matplotlib " in text

    def test_table_of_sites(self, run: RunDirectory) -> None:
        page = Page(write_report(run.path))
        assert {"class": "peak"} in page.all("tr")
        headers = page.all("th")
        assert sum(header.get("scope") == "row" for header in headers) > 3
        table = page.text[page.text.index("Sites Running means over 21 records") :]
        for site in ("hidden.0.relu", "hidden.1.relu", "hidden.2.relu"):
            assert site in table

    def test_is_replaced_by_a_second_report(self, run: RunDirectory) -> None:
        first = write_report(run.path).read_text()
        assert write_report(run.path).read_text() == first

    def test_takes_a_string(self, run: RunDirectory) -> None:
        assert write_report(str(run.path)) == run.report_path

    def test_opens_the_browser_only_if_asked(
        self, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened: list[str] = []
        monkeypatch.setattr(webbrowser, "open", opened.append)
        write_report(run.path)
        assert opened == []
        write_report(run.path, open_browser=True)
        assert opened == [run.report_path.as_uri()]

    def test_uses_the_thresholds_of_the_summary(self, run: RunDirectory) -> None:
        summary = run.read_json(run.summary_path)
        summary["thresholds"]["min_rise"] = 0.9
        del summary["thresholds"]["patience"]  # as of a run of before there was one
        run.write_json(run.summary_path, summary)
        assert "No temporary feature collapse" in Page(write_report(run.path)).text


class TestIncompleteRun:
    def test_killed_run(self, make_run: MakeRun, records: Records, loss: Any) -> None:
        run = make_run(select(records, records["step"] <= 300), loss[:310])
        text = Page(write_report(run.path)).text
        assert "Temporary feature collapse" in text
        assert "no summary.json" in text
        assert "310 steps" in text

    def test_killed_before_the_first_train_log(self, make_run: MakeRun, records: Records) -> None:
        page = Page(write_report(make_run(records).path))
        assert "Temporary feature collapse" in page.text
        assert len(page.all("img")) == len(FIGURES)

    def test_killed_before_the_train_log_had_all(
        self, make_run: MakeRun, records: Records, loss: Any
    ) -> None:
        text = Page(write_report(make_run(records, loss[:150]).path)).text
        assert "Temporary feature collapse" in text
        assert f"{len(loss)} steps" in text

    def test_dead_units_are_those_of_the_window_of_the_run(
        self, make_run: MakeRun, records: Records, loss: Any
    ) -> None:
        records["dead_window_frac"][:] = 0.9
        run = make_run(records, loss, config={"settings": {"window": 20}})
        assert (
            "for no sample of 20 steps (known since step 20)" in Page(write_report(run.path)).text
        )

    def test_killed_before_anything(self, make_run: MakeRun) -> None:
        page = Page(write_report(make_run().path))
        assert "Nothing to judge" in page.text
        assert "told from its loss, and there is no finite one" in page.text
        assert page.all("img") == []

    def test_without_metrics(self, make_run: MakeRun, loss: Any) -> None:
        page = Page(write_report(make_run(None, loss, summary={}).path))
        assert len(page.all("img")) == 1
        assert "has no records of features" in page.text
        assert "Not known whether features collapsed" in page.text
        assert "give it the class labels" in page.text

    def test_without_labels(self, make_run: MakeRun, loss: Any, make_records: Any) -> None:
        page = Page(write_report(make_run(make_records(labels=False), loss).path))
        assert len(page.all("img")) == len(FIGURES)
        assert "no class labels" in page.text
        assert "Sites Running means" not in page.text

    def test_quantity_that_was_not_measured(
        self, make_run: MakeRun, records: Records, loss: Any
    ) -> None:
        for name in ("all", "within", "between"):
            records[f"grad_cos_{name}"][:] = np.nan
        run = make_run(records, loss)
        page = Page(write_report(run.path))
        assert "Nothing was measured of the gradients" in page.text
        assert not (run.figures_folder / "gradient_similarity.png").exists()

    def test_figure_of_an_earlier_report_goes(self, make_run: MakeRun, loss: Any) -> None:
        run = make_run(None, loss)
        run.figures_folder.mkdir()
        (run.figures_folder / "gates.png").write_bytes(b"old")
        (run.figures_folder / "mine.png").write_bytes(b"of the user")
        write_report(run.path)
        assert {path.name for path in run.figures_folder.iterdir()} == {"loss.png", "mine.png"}

    @pytest.mark.parametrize("steps", [1, 2, 50])
    def test_very_short_run(self, make_run: MakeRun, make_records: Any, steps: int) -> None:
        records = make_records(steps)
        run = make_run(records, np.full(steps, 2.3), summary={})
        page = Page(write_report(run.path))
        assert "Too short to tell" in page.text
        assert f"after {steps} step" in page.text
        assert "Train for longer" in page.text
        assert "What to try" not in page.text
        assert {"class": "card verdict undecided"} in page.all("section")
        assert len(page.all("img")) == len(FIGURES)

    def test_long_run_that_still_changes(self, make_run: MakeRun, make_records: Any) -> None:
        records = make_records(1000)
        run = make_run(select(records, records["step"] <= 450), records["loss"][: 3 * 450 : 3])
        text = Page(write_report(run.path)).text
        assert "Still in the first phase" in text
        assert "after 450 steps the loss is not 10 % below" in text
        assert "the last 300 steps brought progress" in text

    def test_run_that_is_stuck(self, make_run: MakeRun) -> None:
        page = Page(write_report(make_run(None, np.full(400, 2.3), summary={}).path))
        assert "Stuck in the first phase" in page.text
        assert "What to try" in page.text
        assert {"class": "card verdict stuck"} in page.all("section")

    def test_run_that_diverged_early(self, make_run: MakeRun) -> None:
        loss = np.full(400, np.nan)
        loss[:10] = 2.3
        text = Page(write_report(make_run(None, loss).path)).text
        assert "Too short to tell" in text
        assert "after 10 steps" in text
        assert "the losses were no longer finite" in text
        assert "Train for longer" not in text

    def test_losses_that_are_not_finite(
        self, make_run: MakeRun, records: Records, loss: Any
    ) -> None:
        loss = loss.copy()
        loss[-5:] = np.nan
        records["n_nonfinite"][-6:] = 2
        text = Page(write_report(make_run(records, loss).path)).text
        assert "5 of 400 losses were not finite, the last one among them" in text
        assert "12 rows of features or gradients were not finite" in text

    def test_config_of_a_user_without_chance_loss(
        self, make_run: MakeRun, records: Records, loss: Any
    ) -> None:
        run = make_run(records, loss)
        run.write_json(run.config_path, {"note": "my own loop"})
        text = Page(write_report(run.path)).text
        assert "Temporary feature collapse" in text
        assert "my own loop" in text

    def test_resumed_run(self, make_run: MakeRun, records: Records, loss: Any) -> None:
        past = [{"step": 120, "versions": {"torch": "2.12.0"}}]
        run = make_run(records, loss, config={"resumed": past})
        assert "Resumed step 120 versions.torch 2.12.0" in Page(write_report(run.path)).text


def test_every_string_is_escaped(make_run: MakeRun, make_records: Any) -> None:
    evil = "<script>alert('x')</script>\"&"
    records = make_records(sites=(evil, "b"))
    run = make_run(records, records["loss"][::2], config={"settings": {evil: evil}, evil: [evil]})
    page = Page(write_report(run.path))
    (data, *scripts) = page.all("script")
    assert data == {"type": "application/json", "id": "data"}
    assert len(scripts) == len(page_scripts())
    assert page.text.count(evil) >= 4


def test_works_with_dark_and_light_and_small_screens(make_run: MakeRun) -> None:
    page = Page(write_report(make_run().path))
    metas = {meta.get("name"): meta.get("content") for meta in page.all("meta")}
    assert metas["color-scheme"] == "light dark"
    assert "width=device-width" in str(metas["viewport"])
    assert page.all("html") == [{"lang": "en"}]


class TestErrors:
    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="is not a run directory"):
            write_report(tmp_path)

    def test_damaged_metrics(self, make_run: MakeRun, records: Records, loss: Any) -> None:
        run = make_run(records, loss)
        (part,) = run.metrics_folder.iterdir()
        part.write_bytes(part.read_bytes()[:100])
        with pytest.raises(DamagedFileError, match=re.escape(part.name)):
            write_report(run.path)

    def test_damaged_summary(self, make_run: MakeRun, loss: Any) -> None:
        run = make_run(None, loss, summary={})
        run.summary_path.write_text('{"verdict": ')
        with pytest.raises(DamagedFileError, match=r"summary\.json is damaged"):
            write_report(run.path)

    def test_figures_cannot_be_written(self, make_run: MakeRun, loss: Any) -> None:
        run = make_run(None, loss)
        run.figures_folder.write_text("a file in the way")
        with pytest.raises(StorageError, match="figures"):
            write_report(run.path)
        assert not run.report_path.exists()

    @pytest.mark.parametrize("missing", ["matplotlib", "jinja2"])
    def test_missing_package_names_the_extra(self, missing: str) -> None:
        code = f"""
import sys
sys.modules[{missing!r}] = None
try:
    import tfc_fast.report
except ImportError as error:
    assert "pip install 'tfc_fast[report]'" in str(error), error
    assert {missing!r} in str(error), error
else:
    raise SystemExit("no error")
"""
        subprocess.run([sys.executable, "-c", code], check=True)


def test_pictures_of_a_run_without_its_beginning(make_run: MakeRun, records: Records) -> None:
    records["step"] += 5000
    images = Page(write_report(make_run(records, config={"chance_loss": None}).path)).all("img")
    assert "When the first phase ended is not known." in images[0]["alt"]
