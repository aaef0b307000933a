"""Warnings that name the user's line."""

from __future__ import annotations

import sys
import warnings


def warn_user(message: str) -> None:
    """A RuntimeWarning of the line outside of this package that led here."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals["__name__"].startswith("tfc_fast."):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, RuntimeWarning, stacklevel=level)
