"""What is easily forgotten: to close steps, to close the probe, to switch gradients off."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc_fast import _extension
from tfc_fast.probe.warning import warn_user

_C = _extension._C

_SEVERAL = 4
"""Fewer may be a trial of the first iteration that ended in an error."""


class NoStepWarning:
    """Warns, once, if several micro-batches went by and no step was ever closed.

    Args:
        recorder: Of the probe.
    """

    def __init__(self, recorder: _C.Recorder) -> None:
        self._recorder = recorder
        self._is_told = False

    def look(self, first_step: int) -> None:
        """Look, when records are asked for.

        Args:
            first_step: Steps that were closed before this probe was made.
        """
        few = self._recorder.open_batches < _SEVERAL
        if self._is_told or few or self._recorder.step > first_step:
            return
        self._is_told = True
        warn_user(
            "no step was closed, so nothing is recorded: call probe.step() at the end of each "
            "iteration, after the last backward"
        )


def close_when_forgotten(probe: object, calls: Sequence[Callable[[], None]]) -> Any:
    """Detach and flush a probe that is gone, or there at the end of the process, and was not.

    Args:
        probe: What is waited for.
        calls: What does it, without holding the probe.

    Returns:
        A `weakref.finalize`, to be detached when the probe is.
    """
    return weakref.finalize(probe, _close, tuple(calls))


def _close(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()
    warnings.warn(
        "a probe was attached to the end; its records were flushed then. Use `with probe:`, or "
        "call probe.detach() and probe.close()",
        ResourceWarning,
        stacklevel=2,
    )


def calls_without_earlier_ones(
    recorded: npt.NDArray[np.bool_], names: Sequence[str]
) -> tuple[str, str] | None:
    """A repeated call of a module that has a record in a step in which the call before has none.

    Args:
        recorded: Whether there is a record, `[steps, sites]`.
        names: Of the sites; `name#k` is the call after `name#(k-1)`, and `name#1` that after
            `name`.

    Returns:
        Names of the earlier and of the later call, the first such pair; None if there is none.

    Example:
        >>> calls_without_earlier_ones(np.array([[False, True]]), ["relu", "relu#1"])
        ('relu', 'relu#1')
    """
    index = {name: at for at, name in enumerate(names)}
    for name, at in index.items():
        base, mark, count = name.rpartition("#")
        if not mark or not count.isdigit():
            continue
        before = base if count == "1" else f"{base}#{int(count) - 1}"
        if before in index and (recorded[:, at] & ~recorded[:, index[before]]).any():
            return before, name
    return None
