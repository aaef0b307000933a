"""A run that replaces an earlier one: nothing is lost before its first step is done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tfc_fast.files import StorageError
from tfc_fast.run_directory import RunDirectory
from tfc_fast.sinks import MemorySink
from tfc_fast.trainer import TrainConfig, Trainer, replaced, session
from tfc_fast.trainer.replaced import drop, put_back, recover, set_aside

Small = Callable[..., TrainConfig]
Files = dict[str, bytes]

BACK = "the earlier run, which it was to replace, is back"


def files_in(folder: Path) -> Files:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


@pytest.fixture
def earlier(small: Small) -> Path:
    """The folder of a run, with files of the user beside its own."""
    folder = Trainer(small(steps=5, tensorboard=True), progress=False).fit().run_directory.path
    (folder / "notes.txt").write_text("mine")
    (folder / "figures").mkdir()
    (folder / "figures" / "loss.png").write_bytes(b"a picture")
    (folder / "metrics" / "mine.csv").write_text("1")
    return folder


class Frozen(nn.Linear):
    def __init__(self) -> None:
        super().__init__(12, 4)
        self.requires_grad_(False)


class AtFirst(nn.Linear):
    """Does something when it is first called."""

    def __init__(self, event: Callable[[], None]) -> None:
        super().__init__(12, 4)
        self.event = event

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.event()
        return super().forward(x)


def fails(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize(
    ("settings", "model", "error"),
    [
        ({"sites": "nope.*"}, None, ValueError),
        ({"probe": False}, lambda: nn.Linear(12, 3), ValueError),
        ({"probe": False}, Frozen, ValueError),
        ({"probe": False}, lambda: AtFirst(fails(KeyError("mine"))), KeyError),
        ({"probe": False}, lambda: AtFirst(fails(KeyboardInterrupt())), KeyboardInterrupt),
    ],
)
def test_a_run_that_comes_to_no_step_leaves_the_earlier_one(
    small: Small, earlier: Path, settings: dict[str, Any], model: Any, error: type[BaseException]
) -> None:
    before = files_in(earlier)
    trainer = Trainer(small(**settings), model=model and model(), overwrite=True, progress=False)
    with pytest.raises(error):
        trainer.fit()
    assert files_in(earlier) == before
    assert not list(earlier.glob("earlier-run*"))


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("ParquetSink", ImportError("pyarrow is missing")),
        ("Checkpoint", StorageError("No space left on device")),
    ],
)
def test_nor_does_a_missing_package_or_a_full_disk_cost_it(
    small: Small,
    earlier: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    error: Exception,
) -> None:
    before = files_in(earlier)
    monkeypatch.setattr(session, name, fails(error))
    with pytest.raises(type(error)):
        Trainer(small(), overwrite=True, progress=False).fit()
    assert files_in(earlier) == before


class Stops(nn.Sequential):
    """Asks for the end before the first step."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(12, 4), nn.ReLU())

    def train(self, mode: bool = True) -> nn.Module:
        signal.raise_signal(signal.SIGINT)
        return super().train(mode)


class Closes(MemorySink):
    is_closed = False

    def close(self) -> None:
        self.is_closed = True


def test_nor_does_a_stop_before_the_first_step(small: Small, earlier: Path) -> None:
    before, sink = files_in(earlier), Closes()
    config = small(sites="1")
    with pytest.raises(KeyboardInterrupt):
        Trainer(config, model=Stops(), overwrite=True, progress=False, sinks=[sink]).fit()
    assert files_in(earlier) == before
    assert sink.is_closed


def test_without_an_earlier_run_such_a_stop_is_as_any(small: Small) -> None:
    sink = Closes()
    config = small(sites="1")
    trainer = Trainer(config, model=Stops(), overwrite=True, progress=False, sinks=[sink])
    assert trainer.fit().stopped_by == "SIGINT"
    assert sink.is_closed


def test_files_that_are_of_no_run_are_in_nobodys_way(small: Small, earlier: Path) -> None:
    for name in ("earlier-run.part", "earlier-run.old"):
        (earlier / name).mkdir()
        (earlier / name / ".nfs0001").write_text("open")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            assert Trainer(small(), overwrite=True, progress=False).fit().stopped_by is None
    assert sorted(path.name for path in earlier.glob("earlier-run*/*")) == [".nfs0001", ".nfs0001"]


def test_after_the_first_step_the_earlier_run_is_gone(small: Small, earlier: Path) -> None:
    seen = []

    def look() -> None:
        seen.append((earlier / "earlier-run").exists())
        if len(seen) == 3:
            raise ArithmeticError

    config = small(probe=False)
    with pytest.raises(ArithmeticError):
        Trainer(config, model=AtFirst(look), overwrite=True, progress=False).fit()
    assert seen == [True, False, False]
    assert RunDirectory(earlier).read_train()["step"].tolist() == [1, 2]
    assert not (earlier / "tensorboard").exists()
    assert (earlier / "notes.txt").read_text() == "mine"


KILLED = """
import os, signal, sys
from torch import nn
from tfc_fast.sinks import MemorySink
from tfc_fast.trainer import TrainConfig, Trainer

class Kills(nn.Linear):
    def forward(self, x):
        os.kill(os.getpid(), signal.SIGKILL)

config = TrainConfig(
    dataset="gaussian", samples=40, dim=12, num_classes=4, probe=False, batch_size=20,
    out=sys.argv[1],
)
Trainer(config, model=Kills(12, 4), overwrite=True).fit()
"""


def test_a_kill_in_the_first_step_leaves_it_to_be_found(small: Small, earlier: Path) -> None:
    before = files_in(earlier)
    done = subprocess.run([sys.executable, "-c", KILLED, earlier], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    # A whole run, should somebody look for it by hand.
    assert RunDirectory(earlier / "earlier-run").read_train()["step"].size == 5
    assert RunDirectory(earlier).read_json("config.json")["settings"]["samples"] == 40
    with pytest.warns(UserWarning, match=BACK), pytest.raises(FileExistsError):
        Trainer(small(), progress=False)
    assert files_in(earlier) == before
    assert Trainer.resume(earlier, steps=7, progress=False).fit().steps == 7


class Killed(BaseException):
    """No handler sees it, and nothing is written on the way out."""


@pytest.mark.parametrize("action", [set_aside, put_back, drop])
def test_a_kill_between_two_files_loses_none(
    earlier: Path, monkeypatch: pytest.MonkeyPatch, action: Callable[[RunDirectory], None]
) -> None:
    """Killed before each renaming or removal in turn, until it comes to its end."""
    run, whole = RunDirectory(earlier), files_in(earlier)
    left = 0

    def count(real: Callable[..., None]) -> Callable[..., None]:
        def counted(*given: Any, **named: Any) -> None:
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            real(*given, **named)

        return counted

    deaths = 0
    while True:
        if action is not set_aside:
            set_aside(run)
            (earlier / "config.json").write_text("{}")
        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", count(os.replace))
            patch.setattr(Path, "unlink", count(Path.unlink))
            left = deaths
            try:
                action(run)
                break
            except Killed:
                deaths += 1
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            recover(run)
        assert all(BACK in str(warning.message) for warning in told)
        if action is drop and deaths > 1:
            # The first renaming is what counts; the new run stays.
            assert files_in(earlier)["config.json"] == b"{}"
            assert not list(earlier.glob("earlier-run*"))
            break
        assert files_in(earlier) == whole
    assert deaths > 1


def test_a_file_that_cannot_be_moved_is_one_clear_error(
    small: Small, earlier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real = files_in(earlier), os.replace

    def replace(source: Path, target: Path) -> None:
        if source == earlier / "train.parquet":
            raise PermissionError(13, "Permission denied")
        real(source, target)

    monkeypatch.setattr(replaced.os, "replace", replace)
    with pytest.raises(StorageError, match=r"cannot move .*train\.parquet: Permission denied"):
        Trainer(small(), overwrite=True, progress=False).fit()
    assert files_in(earlier) == before


def test_what_is_not_of_the_run_stays_where_it_is(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    set_aside(run)
    put_back(run)
    assert files_in(tmp_path) == {"notes.txt": b"mine"}
