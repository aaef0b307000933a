"""Ctrl-C while the program `tfc-fast` is being imported: it ends, without a traceback.

torch takes a second or more to import, and an interrupt in the middle of that comes out as whatever
the import was about. The package imports this before all else. In any other program nothing happens
here: its signals are its own.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from types import FrameType

EXIT_INTERRUPTED = 130

_SCRIPT = "tfc-fast"
_MODULES = ("tfc_fast", "tfc_fast.cli")


def end() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt again, which the program catches."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    # Nothing has been begun that wants an end; an exception could be lost within an import.
    os._exit(EXIT_INTERRUPTED)


def _is_program(arguments: list[str], command_line: list[str]) -> bool:
    """Whether this process was started as `tfc-fast`, or by `python -m`.

    Args:
        arguments: `sys.argv`; it begins with `-m` while the module that `-m` names is looked for.
        command_line: `sys.orig_argv`. A worker of multiprocessing takes over the arguments of its
            parent, but not this.
    """
    script = arguments[0] if arguments else ""
    if script == "-m":
        return any(("-m", module) in itertools.pairwise(command_line) for module in _MODULES)
    return os.path.basename(script) == _SCRIPT and script in command_line


# Where Ctrl-C is to be ignored, as in a background job, it stays so.
if (
    _is_program(sys.argv, sys.orig_argv)
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, _leave)
