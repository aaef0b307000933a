"""Checks of arguments that several data sets share; errors name argument, value and remedy."""

from __future__ import annotations

import math
import operator
from pathlib import Path
from typing import SupportsFloat, SupportsIndex


def checked_integer(name: str, value: object, *, minimum: int) -> int:
    """Return `value` as an int of at least `minimum`.

    Raises:
        TypeError: if `value` is no integer (a bool is none).
        ValueError: if it is below `minimum`.
    """
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    number = operator.index(value)
    if number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def checked_number(name: str, value: object, *, minimum: float, maximum: float = math.inf) -> float:
    """Return `value` as a finite float within `[minimum, maximum]`.

    Raises:
        TypeError: if `value` is no number (a bool is none).
        ValueError: if it is not finite or out of range.
    """
    if isinstance(value, (bool, str)) or not isinstance(value, SupportsFloat):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not math.isfinite(number) or not minimum <= number <= maximum:
        wanted = (
            f"at least {minimum:g}" if maximum == math.inf else f"from {minimum:g} to {maximum:g}"
        )
        raise ValueError(f"{name} must be a finite number {wanted}, got {value!r}")
    return number


def checked_choice(name: str, value: object, known: tuple[str, ...]) -> str:
    """Return `value` if it is one of the `known` names.

    Raises:
        ValueError: if it is none of them.
    """
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")
    return value


def checked_folder(folder: Path | None, *, data_set: str, wanted: str) -> Path:
    """Return `folder` if it is a folder on disk.

    Args:
        folder: what the user gave.
        data_set: name of the data set, for the message.
        wanted: the files the folder has to hold, for the message.

    Raises:
        ValueError: if no folder was given.
        FileNotFoundError: if there is nothing at `folder`.
        NotADirectoryError: if `folder` is a file.
    """
    if folder is None:
        raise ValueError(f"folder must be given for {data_set!r}: the folder that holds {wanted}")
    if not folder.exists():
        raise FileNotFoundError(
            f"folder {folder} does not exist; {data_set!r} wants a folder that holds {wanted}"
        )
    if not folder.is_dir():
        raise NotADirectoryError(
            f"folder {folder} is a file; {data_set!r} wants the folder that holds {wanted}"
        )
    return folder
