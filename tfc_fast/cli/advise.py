"""`tfc-fast advise`: what held a run up, and what to try."""

from __future__ import annotations

import argparse
import shlex
import shutil
import textwrap
from typing import TYPE_CHECKING

from tfc_fast import phases
from tfc_fast.analyzed_run import read_run
from tfc_fast.cli.command import Command
from tfc_fast.cli.options import errors_in_options, flag
from tfc_fast.phases.effects import effects_source
from tfc_fast.run_directory import RunDirectory

if TYPE_CHECKING:
    from tfc_fast.trials import Trial

__all__ = ["COMMAND"]

_OPTIONS = {name: flag(name) for name in ("steps", "seeds", "threads")}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN", help="folder of the run")
    parser.add_argument(
        "--try",
        dest="with_trials",
        action="store_true",
        help="train the remedies for a while from the settings of the run, and rank them",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="length of a trial (default: 800)")
    parser.add_argument("--seeds", type=int, metavar="N", help="trials of each remedy (default: 2)")
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads, one for each trial at a time (default: one per processor)",
    )
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="progress bar, if standard error is a terminal (default: yes)",
    )


def _run(arguments: argparse.Namespace) -> int:
    given = {
        name: getattr(arguments, name) for name in _OPTIONS if getattr(arguments, name) is not None
    }
    if given and not arguments.with_trials:
        raise ValueError(f"{', '.join(map(flag, given))}: has no meaning without --try")
    run = read_run(arguments.path)
    _print(phases.describe(run.summary))
    print("\nDiagnosis:")
    for sentence in run.diagnosis.sentences:
        _print(sentence, bullet="  - ")
    # What shortens the first phase is no help against losses that are not finite.
    needed = not run.summary.has_diverged and (
        run.summary.verdict in ("stuck", "collapsed")
        or any(finding.sites for finding in run.diagnosis.findings)
    )
    remedies = phases.advice(run.config.get("settings")) if needed else []
    if remedies:
        print("\nWhat to try, by measured effect:")
        for number, remedy in enumerate(remedies, 1):
            _print(remedy, bullet=f"{number:3}. ")
        _print(f"Measured on: {effects_source()}.")
    if arguments.with_trials:
        return _try(arguments, given)
    if remedies:
        # Not wrapped, so that it can be copied.
        command = shlex.join(["tfc-fast", "advise", arguments.path, "--try"])
        print(f"Measure them on this run with: {command}")
    return 0


def _try(arguments: argparse.Namespace, given: dict[str, int]) -> int:
    # Here, so that the other commands do not wait for torch's trainer and joblib.
    from tfc_fast.trials import try_remedies

    if "threads" in given:
        given["workers"] = given.pop("threads")
    with errors_in_options({**_OPTIONS, "workers": "--threads", "data_dir": "data_dir"}):
        trials = try_remedies(arguments.path, progress=arguments.progress, **given)
    print("\nTried on this run:")
    _print_trials(trials)
    print(f"\ntables: {RunDirectory(arguments.path).path / 'advice'}")
    return 0


def _print_trials(trials: list[Trial]) -> None:
    from tfc_fast.trials import rows

    table = rows(trials)
    cells = [list(table[0]), *(list(row.values()) for row in table)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(cells[0]))]
    for row in cells:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    _print(
        "Ranked by the first phase; those where it did not end come after the others, by the loss "
        "that they have come to, and those whose loss is not finite last."
    )


def _print(text: str, bullet: str = "") -> None:
    width = min(shutil.get_terminal_size().columns, 100)
    print(
        textwrap.fill(
            text,
            width,
            initial_indent=bullet,
            subsequent_indent=" " * len(bullet),
            break_on_hyphens=False,  # of commands and options
        )
    )


COMMAND = Command(
    name="advise",
    help="what held a run up, and what to try",
    description=(
        "Says in plain words what held a run up, at which layer and from which step on, and what\n"
        "to try, the remedy with the largest measured effect first. --try trains the run anew for\n"
        "a while with each remedy and with none, ranks them by how much they shorten its first\n"
        "phase, and leaves tables in the folder advice of the run. What is there is not trained\n"
        "again, so an interrupted call goes on when it is made again."
    ),
    examples=(
        "tfc-fast advise runs/digits",
        "tfc-fast advise runs/digits --try",
        "tfc-fast advise runs/digits --try --steps 2000 --seeds 5",
    ),
    configure=_configure,
    run=_run,
)
