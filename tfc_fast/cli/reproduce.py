"""`tfc-fast reproduce`: the paper's findings, trained and judged."""

from __future__ import annotations

import argparse
import shlex
import sys
import textwrap
from typing import TYPE_CHECKING

from tfc_fast.cli.command import Command
from tfc_fast.cli.options import OptionError, errors_in_options, flag

if TYPE_CHECKING:
    from tfc_fast.reproduce import Outcome

__all__ = ["COMMAND"]

_OPTIONS = {name: flag(name) for name in ("seeds", "jobs", "dataset", "data_dir", "device", "out")}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", metavar="NAME", nargs="+", help="experiments, or all, or list")
    parser.add_argument("--out", default="runs/reproduce", help="folder (default: runs/reproduce)")
    parser.add_argument("--quick", action="store_true", help="fewer settings, 2 seeds: minutes")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="runs of each setting (default: 5; 2 if quick)"
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="runs at a time (default: one per processor)"
    )
    parser.add_argument("--dataset", help="as in tfc-fast train (default: digits)")
    parser.add_argument("--data-dir", metavar="PATH", help="as in tfc-fast train")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="progress bar, if standard error is a terminal (default: yes)",
    )


def _run(arguments: argparse.Namespace) -> int:
    # Here, so that the other commands do not wait for plotting libraries.
    from tfc_fast.reproduce import EXPERIMENTS, reproduce

    for word in ("all", "list"):
        if word in arguments.names and len(arguments.names) > 1:
            raise OptionError(f"experiment: {word} given among others, it stands alone")
    if arguments.names == ["list"]:
        for name, experiment in EXPERIMENTS.items():
            print(textwrap.fill(f"{name:16}{experiment.claim}", 100, subsequent_indent=" " * 16))
        return 0
    names = list(EXPERIMENTS) if arguments.names == ["all"] else arguments.names
    given = {name: getattr(arguments, name) for name in ("dataset", "data_dir", "device")}
    with errors_in_options(_OPTIONS):
        reproduce(
            names,
            arguments.out,
            quick=arguments.quick,
            seeds=arguments.seeds,
            settings={name: value for name, value in given.items() if value is not None},
            workers=arguments.jobs,
            progress=arguments.progress,
            command=shlex.join(["tfc-fast", *sys.argv[1:]]),
            on_outcome=_print,
        )
    print(f"tables, figures and verdicts: {arguments.out}/index.md")
    return 0


def _print(outcome: Outcome) -> None:
    verdict = "holds" if outcome.judgement.holds else "DOES NOT HOLD"
    print(f"{outcome.experiment.name}: {verdict}. {outcome.experiment.claim}")
    for sentence in outcome.judgement.evidence:
        print(textwrap.fill(sentence, 100, initial_indent="  - ", subsequent_indent="    "))


COMMAND = Command(
    name="reproduce",
    help="train the paper's experiments and judge its claims by them",
    description=(
        "Trains several seeds of the settings of an experiment, side by side, and says whether\n"
        "the claim of the paper holds in them, by a rule that stands beside the verdict. Leaves a\n"
        "table (CSV, Markdown), a figure (PNG, SVG) and a verdict for each, and all runs. What is\n"
        "there is not trained again, so an interrupted call goes on when it is made again."
    ),
    examples=(
        "tfc-fast reproduce list",
        "tfc-fast reproduce depth --quick",
        "tfc-fast reproduce all --seeds 5 --out runs/reproduce",
        "tfc-fast reproduce momentum batch-norm --dataset mnist --data-dir ~/data/mnist",
    ),
    configure=_configure,
    run=_run,
)
