from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
import torch

from tfc_fast import __version__
from tfc_fast.cli import info
from tfc_fast.run_directory import RunDirectory

Tfc = Callable[..., tuple[int, str, str]]


def test_report_writes_figures_and_a_page(train: Tfc, tfc: Tfc) -> None:
    train("--steps=30", "--out=run")
    status, output, errors = tfc("report", "run")
    assert (status, errors) == (0, "")
    assert str(Path("run/report.html").resolve()) in output
    assert Path("run/report.html").read_text().lstrip().lower().startswith("<!doctype html")
    assert list(Path("run/figures").glob("*.png"))


def test_report_works_on_what_a_kill_left(train: Tfc, tfc: Tfc) -> None:
    train("--steps=30", "--out=run")
    run = RunDirectory("run")
    run.summary_path.unlink()
    run.checkpoint_path.unlink()
    run.train_path.unlink()
    (run.metrics_folder / "part-00007.parquet.01234567.tmp").write_bytes(b"half")
    assert tfc("report", "run")[0] == 0


def test_report_of_no_run_is_one_line(tfc: Tfc) -> None:
    status, _, errors = tfc("report", "nowhere")
    assert status == 2
    assert errors.count("\n") == 1
    assert "nowhere is not a run directory" in errors


def test_report_of_several_runs_is_one_page(train: Tfc, tfc: Tfc) -> None:
    train("--steps=30", "--out=runs/a")
    train("--steps=20", "--out=runs/b", "--depth=4")
    status, output, errors = tfc("report", "runs/a", "runs/b")
    assert (status, errors) == (0, "")
    assert output == f"report: {Path('runs/comparison.html').resolve()}\n"
    assert "2 runs compared" in Path("runs/comparison.html").read_text()
    assert not Path("runs/a/report.html").exists()
    assert tfc("report", "runs/a", "runs/b", "--out", "new/both.html")[0] == 0
    assert Path("new/both.html").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--port=80"], "--port: it is the port of --serve"),
        (["--out=page.html"], "--out: only the page of several runs"),
        (["--serve", "--port=70000"], "--port: 70000 given, 0 to 65535 is wanted"),
        (["run"], "RUN: "),
    ],
)
def test_report_flags_that_do_not_go_together(
    train: Tfc, tfc: Tfc, flags: list[str], message: str
) -> None:
    train("--steps=5", "--out=run")
    status, output, errors = tfc("report", "run", *flags)
    assert (status, output) == (2, "")
    assert message in errors
    assert errors.count("\n") == 1


def test_info_tells_versions_instruction_set_and_why_no_cuda(tfc: Tfc) -> None:
    status, output, _ = tfc("info")
    lines = dict(line.split("  ", 1) for line in output.splitlines())
    assert status == 0
    assert lines["tfc_fast"].strip() == __version__
    assert torch.__version__ in lines["torch"]
    assert "available: " in lines["instruction set"]
    assert lines["CUDA"].strip().partition(": ")[0] in ("yes", "no")
    assert lines["CUDA"].strip().partition(": ")[2]
    assert "tqdm" in lines["extra train"]


def test_info_as_json(tfc: Tfc) -> None:
    found = json.loads(tfc("info", "--json")[1])
    assert found["versions"]["tfc_fast"] == __version__
    assert {"instruction_set", "cuda", "cuda_reason", "compiler"} <= found["build"].keys()
    assert set(found["extras"]) >= {"train", "report", "tensorboard"}


def test_info_tells_how_to_install_what_is_missing(
    tfc: Tfc, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version

    def without_tqdm(name: str) -> str:
        if name == "tqdm":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(info.metadata, "version", without_tqdm)
    assert "tqdm not installed: pip install 'tfc_fast[train]'" in tfc("info")[1]
