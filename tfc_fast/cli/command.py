"""What a command of the command line is."""

from __future__ import annotations

import argparse
import dataclasses
import textwrap
from collections.abc import Callable

__all__ = ["Command", "add_command", "examples_epilog"]


@dataclasses.dataclass(frozen=True)
class Command:
    """One command of `tfc-fast`.

    Args:
        name: What the user types.
        help: One line for the list of commands.
        description: What it does, for its own `--help`.
        examples: Lines to copy, each a whole command.
        configure: Adds its arguments to a parser.
        run: Does the work; returns the exit status. Errors of the user (ValueError, TypeError,
            OSError, ImportError) pass through it: `main` prints them. None if `configure` adds
            commands of its own.
    """

    name: str
    help: str
    description: str
    examples: tuple[str, ...]
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int] | None = None


def examples_epilog(examples: tuple[str, ...]) -> str:
    """Return the epilog of a `--help` that shows examples."""
    return "examples:\n" + textwrap.indent("\n".join(examples), "  ")


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], command: Command
) -> None:
    """Make a command known to the parser of the program, or of a command that has its own.

    Args:
        commands: What `add_subparsers` returned.
        command: The command.
    """
    parser = commands.add_parser(
        command.name,
        help=command.help,
        description=command.description,
        epilog=examples_epilog(command.examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        # A prefix that works today could mean two flags tomorrow.
        allow_abbrev=False,
    )
    command.configure(parser)
    if command.run is not None:
        parser.set_defaults(run=command.run)
