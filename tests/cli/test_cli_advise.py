from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tfc_fast.run_directory import RunDirectory

Tfc = Callable[..., tuple[int, str, str]]


@pytest.fixture
def stuck(train: Tfc) -> str:
    """A run of seven layers with small weights that has not moved."""
    train("--steps=60", "--depth=7", "--gain=0.3", "--out=run")
    return "run"


def test_tells_diagnosis_and_backed_advice(stuck: str, tfc: Tfc) -> None:
    status, output, errors = tfc("advise", stuck)
    text = " ".join(output.split())
    assert (status, errors) == (0, "")
    assert "Too short to tell" in text
    assert "Diagnosis: - " in text
    assert "- Gradients vanish on their way back: at hidden.0.relu" in text
    assert "1. Add batch normalisation before each ReLU. Measured: batch norm" in text
    assert "with: tfc-fast advise run --try" in text
    assert not Path("run/advice").exists()


@pytest.mark.parametrize("columns", range(40, 70, 5))
def test_commands_can_be_copied(
    train: Tfc, tfc: Tfc, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    if not Path("a run").exists():
        train("--steps=60", "--depth=7", "--gain=0.3", "--out=a run")
    monkeypatch.setenv("COLUMNS", str(columns))
    output = tfc("advise", "a run")[1]
    assert "with: tfc-fast advise 'a run' --try\n" in output
    assert not any(line.endswith("-") for line in output.splitlines())


def test_stored_diagnosis_is_the_one_that_is_told(stuck: str, tfc: Tfc) -> None:
    run = RunDirectory(stuck)
    stored = run.read_json(run.summary_path)["diagnosis"]
    text = " ".join(tfc("advise", stuck)[1].split())
    assert "vanishing gradients" in [finding["kind"] for finding in stored["findings"]]
    for finding in (*stored["findings"], *stored["open"]):
        assert finding["sentence"] in text


def test_report_shows_the_diagnosis(stuck: str, tfc: Tfc) -> None:
    assert tfc("report", stuck)[0] == 0
    page = " ".join(Path("run/report.html").read_text().split())
    assert "Gradients vanish on their way back: at hidden.0.relu" in page


def test_run_that_has_a_remedy_is_not_advised_it(train: Tfc, tfc: Tfc) -> None:
    train("--steps=60", "--depth=7", "--gain=0.3", "--momentum=0.9", "--lr=1e-6", "--out=run")
    output = tfc("advise", "run")[1]
    assert "batch normalisation" in output
    assert "with momentum" not in output


def test_try_ranks_the_remedies(stuck: str, tfc: Tfc) -> None:
    flags = ("--try", "--steps=40", "--seeds=1", "--threads=1", "--no-progress")
    status, output, errors = tfc("advise", stuck, *flags)
    assert (status, errors) == (0, "")
    assert "Tried on this run:" in output
    stored = json.loads(Path("run/advice/trials.json").read_text())["trials"]
    lines = [line for line in output.splitlines() if line[:1].isdigit() and line[1:3] == "  "]
    assert [each["remedy"] in line for each, line in zip(stored, lines, strict=True)] == [True] * 6


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("nowhere",), "nowhere is not a run directory"),
        (("nowhere", "--steps=5"), "--steps: has no meaning without --try"),
        (("run", "--try", "--steps=0"), "--steps: 0 given, at least 1 is wanted"),
        (("run", "--try", "--threads=0"), "--threads: 0 given, at least 1 is wanted"),
    ],
)
def test_errors_are_one_line(flags: tuple[str, ...], told: str, tfc: Tfc) -> None:
    run = RunDirectory("run").create()
    run.write_json(run.config_path, {"settings": {}})
    status, _, errors = tfc("advise", *flags)
    assert status == 2
    assert told in errors
    assert errors.count("\n") == 1


def test_run_without_a_step_is_told_so(tfc: Tfc) -> None:
    run = RunDirectory("run").create()
    run.write_json(run.config_path, {"settings": {}})
    status, output, _ = tfc("advise", "run")
    assert status == 0
    assert "Nothing to judge" in output
    assert "no finite loss was recorded" in output
