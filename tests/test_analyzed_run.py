"""Runs on disk with their analysis."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tfc_fast.analyzed_run import read_run
from tfc_fast.files import DamagedFileError
from tfc_fast.run_directory import RunDirectory


def written(path: Path, config: dict[str, Any]) -> Path:
    run = RunDirectory(path).create()
    run.config_path.write_text(json.dumps(config))
    return run.path


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"settings": None}, "settings is None"),
        ({"settings": [1]}, r"settings is \[1\]"),
        ({"versions": 3}, "versions is 3"),
        ({"resumed": {}}, "resumed is {}"),
        ({"chance_loss": float("nan")}, "chance_loss is nan"),
        ({"chance_loss": "a"}, "chance_loss is 'a'"),
    ],
)
def test_config_that_is_damaged_is_named(tmp_path: Path, config: dict[str, Any], told: str) -> None:
    with pytest.raises(DamagedFileError, match=rf"config\.json is damaged: {told}"):
        read_run(written(tmp_path, config))


def test_thresholds_that_are_damaged_are_named(tmp_path: Path) -> None:
    run = RunDirectory(written(tmp_path, {}))
    run.write_json(run.summary_path, {"thresholds": {"decay": "x"}})
    with pytest.raises(DamagedFileError, match=r"summary\.json is damaged: decay is 'x'"):
        read_run(run.path)


def test_what_is_not_there_is_not_known(tmp_path: Path) -> None:
    for config in ({}, {"chance_loss": None}):
        run = read_run(written(tmp_path / str(len(config)), config))
        assert (run.steps.size, run.summary.verdict, run.stored) == (0, "undecided", None)


def test_is_named_by_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "run", {})
    (tmp_path / "run" / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "run" / "inside")
    assert read_run("..").name == "run"
