"""The Chromium that looks at the report page: by TFC_FAST_CHROMIUM, or found on PATH."""

from __future__ import annotations

import os
import shutil

_NAMES = ("chromium", "chromium-browser", "google-chrome")


def chromium_path() -> str | None:
    """Path of the browser; None if there is none."""
    named = os.environ.get("TFC_FAST_CHROMIUM")
    if named:
        return named
    return next(filter(None, map(shutil.which, _NAMES)), None)
