"""Loads the compiled part, and says what to do when it does not fit the installed torch."""

from __future__ import annotations

import torch

_REBUILD = (
    "build tfc_fast again for the torch that is installed:\n"
    "    pip install --no-build-isolation --force-reinstall --no-deps --no-cache-dir tfc_fast"
)


def _check_torch(built_with: str, installed: str) -> None:
    """Raise ImportError unless both versions agree in major and minor number.

    torch's C++ interface changes from one minor release to the next, and a mismatch ends in a
    missing symbol or a crash rather than in a message.
    """
    if built_with.split(".")[:2] != installed.split(".")[:2]:
        raise ImportError(
            f"tfc_fast was built for torch {built_with}, but torch {installed} is installed; "
            + _REBUILD
        )


try:
    from tfc_fast._built_with import TORCH_VERSION
except ImportError as error:
    raise ImportError(
        "the compiled part of tfc_fast is missing (is this a source tree?); build it with "
        "`make setup`, or `pip install --no-build-isolation .` in the source tree"
    ) from error

_check_torch(TORCH_VERSION, torch.__version__)

from tfc_fast import _C  # noqa: E402  (only after the check above)

__all__ = ["_C"]
