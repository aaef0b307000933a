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

import pytest

from tfc_fast.run_directory import RunDirectory
from tfc_fast.trainer import TrainConfig

Tfc = Callable[..., tuple[int, str, str]]


def test_a_stuck_network_is_told_in_words_with_what_to_try(train: Tfc) -> None:
    status, output, errors = train("--steps=80", "--out=run")
    assert status == 0
    assert errors == ""
    assert "training in run\n" in output
    assert "Stuck" in output
    assert "What to try:\n  - " in output
    assert re.search(r"80 steps, final loss 1\.\d+, accuracy 0\.\d+, probe \d+ us per step", output)
    assert "tfc-fast report run" in output
    assert RunDirectory("run").read_json("summary.json")["verdict"] == "stuck"


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
        (("--depth=0",), "depth: 0 given, at least 1 is wanted"),
        (("--steps=3", "--epochs=2"), "steps, epochs: 3 and 2 given"),
        (("--dataset=imagenet",), "unknown data set 'imagenet'; known are digits"),
        (("--dataset=digits",), "unknown option 'samples' for 'digits'"),
        (("--batch-size=500",), "batch_size: 500 given, the data set has only 200 samples"),
        (("--sites=conv*",), "sites: 'conv*' matches no module"),
        (("--out=/proc/run",), "/proc/run"),
        (("--resume=nowhere",), "cannot be given with --resume"),
    ],
)
def test_an_error_is_one_line_and_leaves_no_folder(
    train: Tfc, flags: tuple[str, ...], message: str
) -> None:
    status, _, errors = train(*flags)
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
