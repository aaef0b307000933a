"""Runs in a process of their own, ended from outside."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tfc_fast.run_directory import RunDirectory
from tfc_fast.trainer import TrainConfig, Trainer, load_checkpoint

SameRun = Callable[..., None]
Small = Callable[..., TrainConfig]
Start = Callable[..., subprocess.Popen[str]]

_ENDLESS = "1000000000"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `tfc-fast train`; `limit` is the largest size of a file, as on a full disk."""
    processes = []

    def run(*flags: str | Path, limit: int | None = None) -> subprocess.Popen[str]:
        def limit_files() -> None:
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

        process = subprocess.Popen(
            [sys.executable, "-m", "tfc_fast.cli", "train", *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=limit_files,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def _wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _step(run: RunDirectory) -> int:
    """Step of the checkpoint; it is replaced whole, so that it can be read at any moment."""
    return load_checkpoint(run.checkpoint_path).step if run.checkpoint_path.exists() else -1


def _assert_goes_on_bitwise(run: RunDirectory, small: Small, assert_same_run: SameRun) -> None:
    steps = _step(run) + 40
    result = Trainer.resume(run.path, steps=steps).fit()
    whole = Trainer(small("whole", steps=steps)).fit()
    assert_same_run(whole.run_directory, result.run_directory)


@pytest.mark.parametrize("after", [0, 25, 300])
def test_a_killed_run_opens_and_goes_on_bitwise(
    start: Start,
    small: Small,
    small_flags: list[str],
    assert_same_run: SameRun,
    tmp_path: Path,
    after: int,
) -> None:
    run = RunDirectory(tmp_path / "killed")
    process = start(*small_flags, "--steps", _ENDLESS, "--out", run.path)
    _wait_until(lambda: _step(run) >= after, process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = _step(run)
    # All records before the checkpoint are on disk; what came after it may be, too.
    assert (np.unique(run.read_metrics()["step"])[:done] == np.arange(1, done + 1)).all()
    steps = run.read_train()["step"]
    np.testing.assert_array_equal(steps, np.arange(1, len(steps) + 1))
    _assert_goes_on_bitwise(run, small, assert_same_run)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_everything_and_says_how_to_go_on(
    start: Start,
    small: Small,
    small_flags: list[str],
    assert_same_run: SameRun,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    run = RunDirectory(tmp_path / "stopped")
    process = start(*small_flags, "--steps", _ENDLESS, "--out", run.path)
    _wait_until(lambda: _step(run) >= 25, process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors == ""
    done = _step(run)
    assert f"stopped by {number.name} after step {done} of {_ENDLESS}" in output
    assert f"tfc-fast train --resume {run.path}" in output
    assert run.read_json("summary.json")["steps"] == done
    assert run.read_train()["step"].tolist() == list(range(1, done + 1))
    assert np.unique(run.read_metrics()["step"]).tolist() == list(range(1, done + 1))
    _assert_goes_on_bitwise(run, small, assert_same_run)


def test_a_full_disk_ends_the_run_with_one_line_and_it_goes_on_later(
    start: Start, small: Small, assert_same_run: SameRun, tmp_path: Path
) -> None:
    run = Trainer(small("full", steps=30)).fit().run_directory
    # Room for a checkpoint, not for the records of a thousand steps.
    flags = ("--steps", _ENDLESS, "--checkpoint-every", "1000")
    process = start("--resume", run.path, *flags, limit=130_000)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert errors.startswith(f"tfc-fast: error: cannot write {run.path}")
    assert "File too large; free some space" in errors
    assert not list(run.path.rglob("*.tmp"))
    assert _step(run) == 30
    _assert_goes_on_bitwise(run, small, assert_same_run)


def test_a_disk_without_room_for_the_first_checkpoint_leaves_nothing(
    start: Start, small_flags: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "full"
    process = start(*small_flags, "--steps", "10", "--width", "256", "--out", out, limit=100_000)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "checkpoint.pt: File too large" in errors
    assert not out.exists()
