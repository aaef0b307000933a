"""`tfc-fast train`: train, watch, and say what happened."""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import shutil
import textwrap
import typing
from pathlib import Path
from typing import Any

import torch.distributed as distributed

from tfc_fast import phases
from tfc_fast.cli.command import Command
from tfc_fast.cli.options import errors_in_options, flag
from tfc_fast.trainer import TrainConfig, Trainer, TrainResult
from tfc_fast.trainer.past import CHANGEABLE

__all__ = ["COMMAND"]

EXIT_INTERRUPTED = 130

_SETTINGS = tuple(field.name for field in dataclasses.fields(TrainConfig))

# What loads the data calls its files so.
_OPTIONS = {name: flag(name) for name in _SETTINGS} | {"folder": flag("data_dir")}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume",
        metavar="RUN",
        help="go on with the run in this folder, bitwise as if it had never stopped; may be given "
        f"with {', '.join(flag(name) for name in CHANGEABLE)}",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a run in the folder")
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="progress bar, if standard error is a terminal (default: yes)",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="in place of the bar: loss, similarities by layer and phase, as the run goes on",
    )
    hints = typing.get_type_hints(TrainConfig)
    groups: dict[str, Any] = {}
    for field in dataclasses.fields(TrainConfig):
        title = field.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        _add_setting(groups[title], field, hints[field.name])


def _add_setting(group: Any, field: dataclasses.Field[Any], hint: Any) -> None:
    kind = (typing.get_args(hint) or (hint,))[0]
    # Without a default of argparse's, to know which flags were given: see _run.
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": field.name}
    help_text = field.metadata["help"]
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
        help_text += f" (default: {'yes' if field.default else 'no'})"
    else:
        options |= {"type": kind, "choices": field.metadata["choices"]}
        if options["choices"] is None:
            options["metavar"] = {int: "N", float: "X", str: "TEXT"}[kind]
        if field.default is not None:
            help_text += f" (default: {field.default})"
    group.add_argument(flag(field.name), help=help_text.replace("%", "%%"), **options)


def _run(arguments: argparse.Namespace) -> int:
    # A run that goes on keeps its settings: only some can be at fault, or be the remedy.
    names = _OPTIONS if arguments.resume is None else CHANGEABLE
    with errors_in_options({name: _OPTIONS[name] for name in names}):
        return _train(arguments)


def _train(arguments: argparse.Namespace) -> int:
    given = {name: getattr(arguments, name) for name in _SETTINGS if name in arguments}
    if arguments.resume is None:
        trainer = Trainer(
            TrainConfig(**given),
            progress=arguments.progress,
            live=arguments.live,
            overwrite=arguments.overwrite,
            process_group=_process_group(),
        )
    else:
        fixed = [flag(name) for name in given if name not in CHANGEABLE]
        if arguments.overwrite:
            fixed.insert(0, "--overwrite")
        if fixed:
            raise ValueError(
                f"{', '.join(fixed)}: cannot be given with --resume, which keeps the settings of "
                "the run; leave out, or start a new run"
            )
        trainer = Trainer.resume(
            arguments.resume,
            progress=arguments.progress,
            live=arguments.live,
            process_group=_process_group(),
            **given,
        )
    print(f"training in {_shown(trainer.run_directory.path)}", flush=True)
    result = trainer.fit()
    _print_result(result)
    return EXIT_INTERRUPTED if result.interrupted else 0


def _process_group() -> distributed.ProcessGroup | None:
    """All processes, if there are several: under torchrun."""
    return distributed.group.WORLD if distributed.is_initialized() else None


def _print_result(result: TrainResult) -> None:
    summary, folder = result.summary, shlex.quote(_shown(result.run_directory.path))
    _print_wrapped(phases.describe(result.phases))
    run = result.run_directory
    remedies = phases.remedies(result.phases, run.read_json(run.config_path)["settings"])
    if remedies and result.phases.verdict == "stuck":
        print("\nWhat to try:")
        for remedy in remedies:
            _print_wrapped(remedy, bullet="  - ")
        _print_wrapped(phases.REMEDY_NOTE)
    numbers = [f"{summary['steps']} step{'' if summary['steps'] == 1 else 's'}"]
    numbers += [
        f"{name.replace('_', ' ')} {summary[name]:.4g}"
        for name in ("final_loss", "accuracy")
        if summary[name] is not None
    ]
    overhead = summary["overhead"]
    # Known from the second step on.
    if overhead is not None and overhead["percent_of_step"] is not None:
        numbers.append(
            f"probe {overhead['microseconds_per_step']:.0f} us per step "
            f"({overhead['percent_of_step']:.1f} %)"
        )
    print("\n" + ", ".join(numbers))
    if result.stopped_by is not None:
        print(
            f"stopped by {result.stopped_by} after step {result.steps} of "
            f"{summary['planned_steps']}; go on with: tfc-fast train --resume {folder}"
        )
    print(f"look at it with: tfc-fast report {folder}")


def _print_wrapped(text: str, bullet: str = "") -> None:
    width = min(shutil.get_terminal_size().columns, 100)
    print(textwrap.fill(text, width, initial_indent=bullet, subsequent_indent=" " * len(bullet)))


def _shown(path: Path) -> str:
    """A path as the user would type it: from here, if it lies below."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


COMMAND = Command(
    name="train",
    help="train a network, the probe on at every step, and say what happened",
    description=(
        "Trains an MLP with the probe on at every step and says in plain words whether its\n"
        "features collapsed, or whether it is stuck and what to try. Settings, records and\n"
        "checkpoints go to the folder of the run. Ctrl-C stops after the current step; --resume\n"
        "goes on from there. Exit status 130 tells of such a stop."
    ),
    examples=(
        "tfc-fast train --depth 7 --out runs/digits",
        "tfc-fast train --dataset mnist --data-dir ~/data/mnist --depth 9 --steps 5000",
        "tfc-fast train --dataset gaussian --separation 1 --optimizer adam --lr 0.001",
        "tfc-fast train --depth 9 --live",
        "tfc-fast train --resume runs/digits --steps 3000",
        "torchrun --nproc-per-node 2 -m tfc_fast train --out runs/shared",
    ),
    configure=_configure,
    run=_run,
)
