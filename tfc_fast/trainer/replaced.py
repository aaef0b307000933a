"""An earlier run in the folder of a new one: it stands aside until the new one has done a step.

Its files are renamed into a folder within that of the run, never copied. The name of that folder
says at any moment, also after a kill, whose files stand where:

- `earlier-run.part`, or `.part1` and so on: a part of the earlier run; the rest stands in its
  place.
- `earlier-run`: all of the earlier run; what stands in its place is of the new one.
- `earlier-run.old`, or `.old1` and so on: what is left of the earlier run after the first step of
  the new one.
"""

from __future__ import annotations

import itertools
import os
import warnings
from pathlib import Path

from tfc_fast.files import storage_error
from tfc_fast.run_directory import RunDirectory
from tfc_fast.trainer.store import all_files, discard, locked

__all__ = ["drop", "put_back", "recover", "recover_locked", "set_aside"]

_WHOLE, _PART, _OLD = "earlier-run", ".part", ".old"


def set_aside(run: RunDirectory) -> bool:
    """Move the files of an earlier run, if there is one, out of the way of a new one.

    Args:
        run: The run; this process holds its lock, and `recover` was called.

    Returns:
        Whether there was one.

    Raises:
        StorageError: A file cannot be moved; all are then where they were, as far as can be.
    """
    if not all_files(run):
        return False
    part = _new_folder(run, _PART)
    try:
        _move_files(run, part)
        _move(part.path, _whole(run).path)
    except Exception:
        _move_files(part, run)
        raise
    return True


def put_back(run: RunDirectory) -> None:
    """Remove what a new run wrote, after `set_aside`, and put back the earlier one.

    Args:
        run: The run; this process holds its lock.

    Raises:
        StorageError: A file cannot be removed or moved.
    """
    discard(run)
    if all_files(_whole(run)):
        part = _new_folder(run, _PART)
        _move(_whole(run).path, part.path)
        _move_files(part, run)


def drop(run: RunDirectory) -> None:
    """Remove the earlier run for good.

    Args:
        run: The run; this process holds its lock.

    Raises:
        StorageError: A file cannot be removed.
    """
    if _whole(run).path.exists():
        old = _new_folder(run, _OLD)
        _move(_whole(run).path, old.path)
        discard(old)


def recover(run: RunDirectory) -> None:
    """Bring in order what a killed process left; with a warning if that was an earlier run aside.

    Args:
        run: The run; this process holds its lock.

    Raises:
        StorageError: A file cannot be removed or moved.
    """
    for old in _folders(run, _OLD):
        discard(old)
    parts = _folders(run, _PART)
    if any(all_files(part) for part in parts):
        for part in parts:
            _move_files(part, run)
    elif all_files(_whole(run)):
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
    if any(_folders(run, "")):
        with locked(run):
            recover(run)


def _whole(run: RunDirectory) -> RunDirectory:
    return RunDirectory(run.path / _WHOLE)


def _folders(run: RunDirectory, ending: str) -> list[RunDirectory]:
    return [RunDirectory(path) for path in sorted(run.path.glob(f"{_WHOLE}{ending}*"))]


def _new_folder(run: RunDirectory, ending: str) -> RunDirectory:
    """One that is not there: in an old one may be files that are not of a run."""
    names = (f"{_WHOLE}{ending}{number or ''}" for number in itertools.count())
    return RunDirectory(next(run.path / name for name in names if not (run.path / name).exists()))


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
