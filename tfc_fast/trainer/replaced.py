"""An earlier run in the folder of a new one: it stands aside until the new one has done a step.

Its files are renamed into a folder within that of the run, never copied. The name of that folder
says at any moment, also after a kill, whose files stand where:

- `earlier-run.part`: a part of the earlier run; the rest of it stands in its place.
- `earlier-run`: all of the earlier run; what stands in its place is of the new one.
- `earlier-run.old`: what is left of the earlier run after the first step of the new one.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

from tfc_fast.files import storage_error
from tfc_fast.run_directory import RunDirectory
from tfc_fast.trainer.store import all_files, discard, locked

__all__ = ["drop", "put_back", "recover", "recover_locked", "set_aside"]

_WHOLE = "earlier-run"


def set_aside(run: RunDirectory) -> None:
    """Move the files of an earlier run, if there is one, out of the way of a new one.

    Args:
        run: The run; this process holds its lock, and `recover` was called.

    Raises:
        StorageError: A file cannot be moved; all are then where they were, as far as can be.
    """
    if not all_files(run):
        return
    part, whole, _ = _asides(run)
    try:
        _move_files(run, part)
        _move(part.path, whole.path)
    except Exception:
        _move_files(part, run)
        raise


def put_back(run: RunDirectory) -> None:
    """Remove what a new run wrote, after `set_aside`, and put back the earlier one.

    Args:
        run: The run; this process holds its lock.

    Raises:
        StorageError: A file cannot be removed or moved.
    """
    part, whole, _ = _asides(run)
    discard(run)
    if whole.path.exists():
        _move(whole.path, part.path)
        _move_files(part, run)


def drop(run: RunDirectory) -> None:
    """Remove the earlier run for good.

    Args:
        run: The run; this process holds its lock.

    Raises:
        StorageError: A file cannot be removed.
    """
    _, whole, old = _asides(run)
    if whole.path.exists():
        _move(whole.path, old.path)
        discard(old)


def recover(run: RunDirectory) -> None:
    """Bring in order what a killed process left; with a warning if that was an earlier run aside.

    Args:
        run: The run; this process holds its lock.

    Raises:
        StorageError: A file cannot be removed or moved.
    """
    part, whole, old = _asides(run)
    discard(old)
    if part.path.exists():
        _move_files(part, run)
    elif whole.path.exists():
        put_back(run)
    else:
        return
    warnings.warn(
        f"{run.path}: a new run here was killed before its first step was done; the earlier run, "
        "which it was to replace, is back",
        stacklevel=4,
    )


def recover_locked(run: RunDirectory) -> None:
    """Like `recover`, and takes the lock for it, if there is anything to bring in order.

    Raises:
        StorageError: A file cannot be removed or moved.
        ValueError: Another process is training there.
    """
    if any(aside.path.exists() for aside in _asides(run)):
        with locked(run):
            recover(run)


def _asides(run: RunDirectory) -> tuple[RunDirectory, RunDirectory, RunDirectory]:
    names = (f"{_WHOLE}.part", _WHOLE, f"{_WHOLE}.old")
    part, whole, old = (RunDirectory(run.path / name) for name in names)
    return part, whole, old


def _move_files(source: RunDirectory, target: RunDirectory) -> None:
    """Move the files of a run, and remove the folders that are empty without them."""
    for path in all_files(source):
        _move(path, target.path / path.relative_to(source.path))
    discard(source)


def _move(path: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)
    except OSError as error:
        raise storage_error("move", path, error) from error
