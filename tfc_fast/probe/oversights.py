"""What is easily forgotten: to close steps, to close the probe, to switch gradients off."""

from __future__ import annotations

import atexit
import contextlib
import os
import warnings
import weakref
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from tfc_fast import _extension
from tfc_fast.probe.warning import warn_user

_C = _extension._C

_SEVERAL, _MANY = 4, 100
"""Micro-batches. Fewer than several may be a trial that ended in an error; as long as the probe is
attached, fewer than many may be those of the first step."""


class NoStepWarning:
    """Warns, once, if several micro-batches went by and no step was ever closed.

    Args:
        recorder: Of the probe.
    """

    def __init__(self, recorder: _C.Recorder) -> None:
        self._recorder = recorder
        self._is_told = False

    def look(self, first_step: int, *, attached: bool) -> None:
        """Look, when records are asked for.

        Args:
            first_step: Steps that were closed before this probe was made.
            attached: Whether the step can still be closed.
        """
        few = self._recorder.open_batches < (_MANY if attached else _SEVERAL)
        if self._is_told or few or self._recorder.step > first_step:
            return
        self._is_told = True
        warn_user(
            "no step was closed, so nothing is recorded: call probe.step() at the end of each "
            "iteration, after the last backward"
        )


class Attached(Protocol):
    """What may be forgotten: a probe."""

    def detach(self) -> None:
        """Give the model back."""

    def flush(self) -> None:
        """Bring all closed steps to the sinks."""


_attached: weakref.WeakKeyDictionary[Attached, int] = weakref.WeakKeyDictionary()


def remember(probe: Attached) -> int:
    """It is attached now, and to be closed at the end of this process, whose number is returned."""
    _attached[probe] = os.getpid()
    return _attached[probe]


def forget(probe: Attached) -> None:
    """It is not any more."""
    _attached.pop(probe, None)


def close_forgotten(probe: Attached, process: int) -> None:
    """Flush and detach a probe that nobody has detached, with a ResourceWarning.

    Not in a process that was forked later: the records are those of the first one.

    Args:
        probe: An attached probe.
        process: What `remember` has returned.
    """
    if process != os.getpid():
        return
    try:
        probe.flush()
    finally:
        probe.detach()
        warnings.warn(
            "a probe was attached to the end; its records were flushed then. Use `with probe:`, or "
            "call probe.detach() and probe.close()",
            ResourceWarning,
            stacklevel=2,
        )


@atexit.register
def _close_all() -> None:
    with contextlib.ExitStack() as stack:  # one that fails leaves none of the others out
        for probe, process in list(_attached.items()):
            stack.callback(close_forgotten, probe, process)


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
