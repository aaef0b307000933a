from __future__ import annotations

import dataclasses
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tfc_fast.run_directory import RunDirectory
from tfc_fast.trainer import TrainConfig

Tfc = Callable[..., tuple[int, str, str]]


def test_a_stuck_network_is_told_in_words_with_what_to_try(train: Tfc) -> None:
    status, output, errors = train("--steps=320", "--out=run")
    assert status == 0
    assert errors == ""
    assert "training in run\n" in output
    assert "Stuck" in output
    assert "What to try:\n  - " in output
    assert re.search(
        r"320 steps, final loss 1\.\d+, accuracy 0\.\d+, probe \d+ us per step", output
    )
    assert "tfc-fast report run" in output
    assert RunDirectory("run").read_json("summary.json")["verdict"] == "stuck"


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_a_run_that_is_too_short_to_tell_is_not_called_stuck(
    train: Tfc, tfc: Tfc, steps: int
) -> None:
    status, output, errors = train(f"--steps={steps}", "--out=run")
    assert (status, errors) == (0, "")
    told = " ".join(output.split())
    assert f"Too short to tell: after {steps} step" in told
    assert "Only after more than 300 steps can a run be called stuck." in told
    assert "What to try" not in output
    assert RunDirectory("run").read_json("summary.json")["verdict"] == "undecided"
    assert tfc("report", "run")[0] == 0
    page = Path("run/report.html").read_text()
    assert "Too short to tell" in page
    assert "Train for longer" in page
    assert "What to try" not in page


def test_every_setting_has_its_flag(train: Tfc, tfc: Tfc) -> None:
    text = tfc("train", "--help")[1]
    for field in dataclasses.fields(TrainConfig):
        assert f"--{field.name.replace('_', '-')}" in text, field.name
    train("--steps=3", "--batch-norm", "--no-probe", "--optimizer=adam", "--seed=7", "--out=run")
    settings = TrainConfig.from_dict(RunDirectory("run").read_json("config.json")["settings"])
    assert (settings.batch_norm, settings.probe, settings.optimizer) == (True, False, "adam")
    assert (settings.seed, settings.width, settings.momentum) == (7, 12, 0.0)


def test_the_folder_has_a_name_of_its_own_unless_given(train: Tfc) -> None:
    assert train("--steps=2", "--seed=3")[0] == 0
    assert RunDirectory("runs/gaussian-depth3-width12-seed3").read_train()["step"][-1] == 2


def test_paths_are_told_without_detours(
    train: Tfc, tfc: Tfc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    _, trained, _ = train("--steps=3", "--out=../runs/../a")
    assert trained.startswith(f"training in {tmp_path}/a\n")
    assert f"look at it with: tfc-fast report {tmp_path}/a\n" in trained
    _, refused, errors = train("--steps=3", "--out=../here/../a")
    assert refused == ""
    assert errors.startswith(f"tfc-fast: error: {tmp_path}/a holds a run already")
    train("--steps=3", "--out=b")
    assert tfc("report", "../a", "../here/b")[1] == f"report: {tmp_path}/comparison.html\n"


def test_a_run_goes_on_with_resume(train: Tfc, tfc: Tfc) -> None:
    train("--steps=20", "--out=my run")
    status, output, _ = tfc("train", "--resume", "my run", "--steps", "35")
    assert status == 0
    assert "35 steps" in output
    assert "tfc-fast report 'my run'" in output
    assert RunDirectory("my run").read_train()["step"].tolist() == list(range(1, 36))


def test_resume_takes_no_other_settings(train: Tfc, tfc: Tfc) -> None:
    train("--steps=2", "--out=run")
    status, _, errors = tfc("train", "--resume=run", "--lr=1", "--overwrite", "--steps=9")
    assert status == 2
    assert errors.startswith("tfc-fast: error: --overwrite, --lr: cannot be given with --resume")
    assert RunDirectory("run").read_train()["step"][-1] == 2


def test_a_run_is_replaced_only_when_told_so(train: Tfc) -> None:
    train("--steps=2", "--out=run")
    status, _, errors = train("--steps=3", "--out=run")
    assert status == 2
    assert errors.count("\n") == 1
    assert "holds a run already" in errors
    assert train("--steps=3", "--out=run", "--overwrite")[0] == 0
    assert RunDirectory("run").read_train()["step"][-1] == 3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--depth=0", "--depth: 0 given, at least 1 is wanted"),
        (
            "--steps=3 --epochs=2",
            "--steps, --epochs: 3 and 2 given, only one of them is wanted; leave the other out",
        ),
        ("--dataset=imagenet", "--dataset: unknown data set 'imagenet'; known are digits"),
        ("--dataset=digits", "--samples has no meaning for 'digits'; leave it out"),
        ("--dataset=mnist", "--samples has no meaning for 'mnist'; leave it out"),
        ("--data-dir=x", "--data-dir has no meaning for 'gaussian'"),
        (
            "--batch-size=500",
            "--batch-size: 500 given, the data set has only 200 samples; lower --batch-size",
        ),
        (
            "--batch-norm --batch-size=1",
            "--batch-size: 1 given, --batch-norm needs at least 2 "
            "samples per step; raise --batch-size or give --no-batch-norm",
        ),
        (
            "--optimizer=adam --momentum=0.9",
            "--momentum: 0.9 given, but adam has none; give --momentum 0 or --optimizer sgd",
        ),
        (
            "--no-probe --tensorboard",
            "--tensorboard: given, but --no-probe makes no records; give --probe",
        ),
        ("--no-probe --stop-on=stuck", "--stop-on: given, but --no-probe makes no records"),
        ("--stop-on=late", "--stop-on: no event is called 'late'; there are collapse, stuck"),
        ("--label-noise=2", "--label-noise: 2.0 given, at most 1 is wanted"),
        (
            "--depth=1",
            "--sites: the model has no module of type ReLU; give a --depth of 2 or more, "
            "name other modules with --sites, or leave the probe out with --no-probe",
        ),
        (
            "--sites=hidden.1.rel",
            "--sites: 'hidden.1.rel' matches no module of the model; did you "
            "mean one of hidden.1.relu, hidden.0.relu, hidden.1? --sites takes relu, or paths and "
            "globs such as 'hidden.*.linear' or output",
        ),
        ("--device=gpu", "--device: 'gpu' given, 'cpu', 'cuda' or 'cuda:N' is wanted"),
        ("--out=/proc/run", "/proc/run"),
        ("--resume=nowhere", "cannot be given with --resume"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_folder(train: Tfc, flags: str, message: str) -> None:
    status, _, errors = train(*flags.split())
    assert status == 2
    assert errors.startswith("tfc-fast: error: ")
    assert errors.count("\n") == 1
    assert message in errors
    assert list(Path().iterdir()) in ([], [Path("runs")])
    assert not list(Path().rglob("*.*"))


def test_resuming_where_there_is_no_run_says_so(tfc: Tfc) -> None:
    status, _, errors = tfc("train", "--resume", "nowhere")
    assert status == 2
    assert "nowhere is not a run directory: config.json is missing" in errors


def test_what_a_resumed_run_cannot_do_is_told_in_options(train: Tfc, tfc: Tfc) -> None:
    train("--steps=5", "--out=run")
    errors = tfc("train", "--resume=run", "--steps=3")[2]
    assert "--steps: 3 given, but the run has done 5 already; give at least as many" in errors
    errors = tfc("train", "--resume=run", "--steps=9", "--epochs=9")[2]
    assert "--steps, --epochs: 9 and 9 given, only one of them is wanted; leave" in errors


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--dataset=mnist", "--data-dir must be given for 'mnist': the folder that holds train-"),
        ("--dataset=mnist --data-dir=no", "--data-dir no does not exist; 'mnist' wants a folder"),
        ("--dataset=mnist --data-dir=file", "--data-dir file is a file; 'mnist' wants the folder"),
        ("--dataset=cifar10 --data-dir=.", "--data-dir . lacks data_batch_1, data_batch_2,"),
        ("--dataset=npz", "--data-dir must be given for 'npz': the path of a .npz file"),
        ("--dataset=npz --data-dir=no", "--data-dir no does not exist; 'npz' wants the path of"),
        (
            "--dataset=npz --data-dir=a.npz --num-classes=3",
            "labels of a.npz must lie from 0 to 2 for --num-classes 3, got 0 to 3",
        ),
    ],
)
def test_files_of_data_are_asked_for_by_the_option(tfc: Tfc, flags: str, message: str) -> None:
    Path("file").touch()
    np.savez("a.npz", inputs=np.ones((8, 2)), labels=np.arange(8) % 4)
    status, output, errors = tfc("train", *flags.split())
    assert (status, output) == (2, "")
    assert errors.count("\n") == 1
    assert message in errors
    assert "folder must" not in errors


def test_data_files_that_are_missing_are_named(tfc: Tfc, tmp_path: Path) -> None:
    status, _, errors = tfc("train", "--dataset", "mnist", "--data-dir", str(tmp_path))
    assert status == 2
    assert errors.count("\n") == 1
    assert "train-images-idx3-ubyte" in errors


def test_a_terminal_gets_a_bar_with_one_number() -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    flags = ("--dataset=gaussian", "--samples=200", "--width=12", "--steps=3000", "--out=run")
    process = subprocess.Popen(
        [sys.executable, "-m", "tfc_fast.cli", "train", *flags],
        stderr=slave,
        stdout=subprocess.DEVNULL,
    )
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 1 << 16):
            shown += part
    except OSError:  # Linux's way to say that the terminal's other side is closed
        pass
    os.close(master)
    assert process.wait() == 0
    last = shown.decode().strip().split("\r")[-1]
    assert "3000/3000" in last
    assert re.search(r"loss=\d", last)
    assert last.count("=") == 1
