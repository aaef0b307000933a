"""A user's own data: one .npz file with inputs and labels."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc_fast.data.dataset import RawData

_INPUT_KEYS = ("inputs", "x")
_LABEL_KEYS = ("labels", "y")
_WANTED = "a .npz file written by numpy.savez(path, inputs=..., labels=...)"


def load_npz(*, folder: Path | None = None) -> RawData:
    """Read arrays `inputs` (or `x`) and `labels` (or `y`) from a .npz file.

    Inputs are real numbers or integers (pixel values) `[n, ...]`; labels are integers `[n]`. The
    number of classes is the largest label + 1. Nothing in the file is executed: arrays of Python
    objects are refused.

    Args:
        folder: the .npz file itself.

    Raises:
        ValueError: if no file was given, it is damaged, or its arrays do not fit together.
        TypeError: if its arrays are of a wrong type.
        FileNotFoundError, IsADirectoryError: if there is no file at `folder`.
    """
    if folder is None:
        raise ValueError(f"folder must be given for 'npz': the path of {_WANTED}")
    if folder.is_dir():
        raise IsADirectoryError(f"folder {folder} is a folder; 'npz' wants the path of {_WANTED}")
    if not folder.exists():
        raise FileNotFoundError(
            f"folder {folder} does not exist; 'npz' wants the path of {_WANTED}"
        )
    if not zipfile.is_zipfile(folder):
        raise ValueError(f"{folder} is damaged or no .npz file; wanted is {_WANTED}")
    try:
        with np.load(folder, allow_pickle=False) as archive:
            inputs = _array(archive, _INPUT_KEYS, folder)
            labels = _array(archive, _LABEL_KEYS, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{folder} is damaged ({error}); write it again") from error
    # The largest label is the number of classes only if there is one; RawData says what is wrong
    # with labels that are empty, negative or no integers.
    usable = labels.dtype.kind in "iu" and labels.size > 0
    return RawData(
        inputs=inputs,
        labels=labels,
        num_classes=max(int(labels.max()) + 1, 1) if usable else 1,
        description=folder.name,
        source=str(folder),
    )


def _array(archive: np.lib.npyio.NpzFile, keys: tuple[str, str], path: Path) -> npt.NDArray[Any]:
    found = [key for key in keys if key in archive.files]
    if len(found) != 1:
        problem = f"has no array {keys[0]!r} or {keys[1]!r}" if not found else f"has both {found}"
        names = ", ".join(archive.files) or "none"
        raise ValueError(f"{path} {problem}; wanted is exactly one of them (arrays found: {names})")
    try:
        array: npt.NDArray[Any] = archive[found[0]]
    except ValueError as error:
        raise ValueError(
            f"{path}: array {found[0]!r} cannot be read ({error}); "
            "write it again, with plain numbers and no Python objects"
        ) from error
    return array
