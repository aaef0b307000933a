"""The program `tfc-fast`: finds the command and turns errors of the user into one line."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from tfc_fast import __version__, _startup
from tfc_fast.cli import advise, bench, info, report, reproduce, train
from tfc_fast.cli.command import Command, add_command, examples_epilog

__all__ = ["COMMANDS", "main"]

COMMANDS: tuple[Command, ...] = (
    train.COMMAND,
    report.COMMAND,
    advise.COMMAND,
    reproduce.COMMAND,
    bench.COMMAND,
    info.COMMAND,
)
"""All commands, in the order of the help; add one here to make it known."""

EXIT_ERROR = 2

_TRACEBACK = "TFC_FAST_TRACEBACK"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What the user typed after `tfc-fast`; `sys.argv` if not given.

    Returns:
        Exit status: 0 for success, 1 if a check failed, 2 for an error, which is printed in one
        line, 130 if interrupted.
    """
    parsed = _parser().parse_args(arguments)
    _startup.end()
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status: int = parsed.run(parsed)
            # Now and not at exit, where a closed pipe could not be told to anyone.
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        rest = "; what is done stays: the same call, made again, goes on" if _stays(parsed) else ""
        print(f"tfc-fast: interrupted{rest}", file=sys.stderr)
        return _startup.EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has gone; what is left in the buffer must not be written either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, TypeError, OSError, ImportError) as error:
        if os.environ.get(_TRACEBACK, "0") not in ("", "0"):
            raise
        print(f"tfc-fast: error: {_one_line(error)}", file=sys.stderr)
        return EXIT_ERROR


def _stays(parsed: argparse.Namespace) -> bool:
    """Whether the command leaves what it trains, and does not train it again."""
    with_trials = parsed.run is advise.COMMAND.run and parsed.with_trials
    return with_trials or parsed.run is reproduce.COMMAND.run


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tfc-fast",
        description="Watch features, gradients and gates of a network at every training step,\n"
        "and tell whether its features collapse.",
        epilog=examples_epilog(tuple(command.examples[0] for command in COMMANDS))
        + f"\n\nSet {_TRACEBACK}=1 to see where an error comes from.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        add_command(commands, command)
    return parser


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    # Like Python's own: a terminal that is gone is no reason to stop what is being done.
    with contextlib.suppress(OSError):
        print(f"tfc-fast: warning: {' '.join(str(message).split())}", file=sys.stderr, flush=True)
