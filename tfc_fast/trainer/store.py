"""What a training run does to its folder: claim it, lock it, wind it back, save as it goes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc_fast.files import DamagedFileError, storage_error
from tfc_fast.run_directory import RunDirectory
from tfc_fast.sinks.parquet import truncate_parquet

__all__ = [
    "TENSORBOARD_FOLDER",
    "SaveSchedule",
    "all_files",
    "claim",
    "discard",
    "locked",
    "rewind",
]

TENSORBOARD_FOLDER = "tensorboard"
"""Name of the folder, within that of a run, of TensorBoard's event files."""

_SAVE_SECONDS = 2.0
_SAVE_SHARE = 50


class SaveSchedule:
    """Says when to save the log next: every two seconds, for at most a fiftieth of the time.

    Saving rewrites the whole log, so its cost grows with the run; the pauses grow with it.

    Example:
        >>> schedule = SaveSchedule()
        >>> with schedule.saving():
        ...     pass
        >>> schedule.due()
        False
    """

    def __init__(self) -> None:
        self._next = time.monotonic() + _SAVE_SECONDS

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() >= self._next

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Within the block something is saved; how long it takes decides when to save next."""
        began = time.monotonic()
        yield
        now = time.monotonic()
        self._next = now + max(_SAVE_SECONDS, _SAVE_SHARE * (now - began))


@contextlib.contextmanager
def locked(run: RunDirectory) -> Iterator[None]:
    """Within the block no other process can train in the folder of a run, which must exist.

    The lock goes with the process, however it ends.

    Args:
        run: The run.

    Raises:
        ValueError: Another process is training there.
    """
    descriptor = os.open(run.path, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise ValueError(
                    f"{run.path}: another process is training in this folder; wait for its end, "
                    "or choose another folder with --out"
                ) from error
            # Some network file systems have no locks; there the user has to take care.
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise storage_error("lock", run.path, error) from error
        yield
    finally:
        os.close(descriptor)


def claim(run: RunDirectory) -> None:
    """Make sure that a folder holds no run, before anything is written to it.

    Args:
        run: The run to be.

    Raises:
        FileExistsError: The folder holds an earlier run.
        StorageError: A temporary file of a killed process cannot be removed.
    """
    found = _files(run)
    if found:
        raise FileExistsError(
            f"{run.path} holds a run already ({found[0].relative_to(run.path)}): continue it with "
            "--resume, choose another folder with --out, or replace it with --overwrite"
        )
    _clear(run)


def discard(run: RunDirectory) -> None:
    """Remove the files of a run and the folders that are empty without them; nothing else.

    Args:
        run: The run.

    Raises:
        StorageError: A file cannot be removed.
    """
    _clear(run)
    tensorboard = run.path / TENSORBOARD_FOLDER
    for folder in (run.metrics_folder, run.figures_folder, tensorboard, run.path):
        # A folder that is not there, or holds files of the user, is left alone.
        with contextlib.suppress(OSError):
            folder.rmdir()


def rewind(
    run: RunDirectory, step: int, tail: dict[str, npt.NDArray[Any]] | None = None
) -> dict[str, npt.NDArray[Any]]:
    """Bring a folder back to how it was after a step, so that the run can go on from there.

    Records beyond the step are dropped, and with them the summary, which spoke of another end.

    Args:
        run: The run.
        step: Number of steps done at the checkpoint; 0 for none.
        tail: Last rows of the train log up to the step, as far as the checkpoint has them.

    Returns:
        The train log up to the step.

    Raises:
        DamagedFileError: The train log lacks steps before the checkpoint, or a file is damaged.
        StorageError: A file cannot be read or written.
    """
    for path in [*_leftovers(run), run.summary_path]:
        _remove(path)
    if run.metrics_folder.exists():
        truncate_parquet(run.metrics_folder, step)
    if step == 0:
        _remove(run.train_path)
    log = run.read_train()
    log = {name: column[log["step"] <= step] for name, column in log.items()}
    if tail is not None:
        new = tail["step"] > len(log["step"])
        log = {name: np.concatenate([column, tail[name][new]]) for name, column in log.items()}
    if not np.array_equal(log["step"], np.arange(1, step + 1)):
        raise DamagedFileError(
            f"{run.train_path} lacks steps before the checkpoint at step {step}; restore it, or "
            f"remove {run.checkpoint_path.name} and resume: the run then starts again from its "
            "first step"
        )
    return log


def all_files(run: RunDirectory) -> list[Path]:
    """The files of a run, also temporary ones that a killed process left."""
    return _files(run) + _leftovers(run)


def _clear(run: RunDirectory) -> None:
    for path in all_files(run):
        _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise storage_error("remove", path, error) from error


def _files(run: RunDirectory) -> list[Path]:
    """The files of a run that exist, config.json first: without it the folder is no run."""
    single = (
        run.config_path,
        run.checkpoint_path,
        run.train_path,
        run.summary_path,
        run.report_path,
    )
    groups = (
        (run.metrics_folder, "part-*.parquet"),
        (run.figures_folder, "*.png"),
        (run.path / TENSORBOARD_FOLDER, "events.out.tfevents.*"),
    )
    found = [path for path in single if path.exists()]
    return found + [path for folder, names in groups for path in sorted(folder.glob(names))]


def _leftovers(run: RunDirectory) -> list[Path]:
    """Temporary files of `atomic_write` whose process was killed."""
    folders = (run.path, run.metrics_folder, run.figures_folder)
    return [path for folder in folders for path in folder.glob("*.????????.tmp")]
