"""Warnings that name the user's line."""

from __future__ import annotations

import sys
import warnings
from types import FrameType


def warn_user(message: str) -> None:
    """A RuntimeWarning of the line outside of this package that led here."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _is_ours(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def _is_ours(frame: FrameType) -> bool:
    # What exec runs need not have a name.
    return str(frame.f_globals.get("__name__")).startswith("tfc_fast.")
