"""Train, judge, write: `reproduce`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfc_fast.analyzed_run import read_run
from tfc_fast.phases import PhaseSummary
from tfc_fast.reproduce.architectures import ARCHITECTURES
from tfc_fast.reproduce.course import COURSES
from tfc_fast.reproduce.directions import DIRECTIONS
from tfc_fast.reproduce.dose import DOSES
from tfc_fast.reproduce.experiment import Experiment, Judgement, Setting
from tfc_fast.reproduce.job import Job
from tfc_fast.reproduce.measurement import Measurement
from tfc_fast.reproduce.output import write_index, write_outcome
from tfc_fast.reproduce.sweep import train_all
from tfc_fast.reproduce.trajectory import TRAJECTORY
from tfc_fast.run_directory import RunDirectory

__all__ = ["EXPERIMENTS", "QUICK_SEEDS", "SEEDS", "Outcome", "reproduce"]

EXPERIMENTS: dict[str, Experiment] = {
    each.name: each for each in (*DOSES, *COURSES, TRAJECTORY, DIRECTIONS, ARCHITECTURES)
}
"""All experiments by name, in the order of the page."""

SEEDS, QUICK_SEEDS = 5, 2
"""How many seeds each setting is trained with."""


@dataclass(frozen=True)
class Outcome:
    """What one experiment has found.

    Attributes:
        experiment: The experiment.
        judgement: Whether its claim holds, and why.
        runs: Its runs.
        folder: Where table, picture and verdict are.
    """

    experiment: Experiment
    judgement: Judgement
    runs: tuple[Measurement, ...]
    folder: Path


def reproduce(
    names: Sequence[str],
    out: str | os.PathLike[str],
    *,
    quick: bool = False,
    seeds: int | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: int | None = None,
    progress: bool = True,
    command: str = "",
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Train the runs of experiments as far as they are not there, judge their claims, write it all.

    Experiments share runs: the same setting is trained once. An interrupted call goes on when it is
    made again.

    Args:
        names: Names of `EXPERIMENTS`.
        out: Folder of everything: `runs/`, a folder for each experiment, and `index.md`.
        quick: Fewer settings, and by default 2 seeds instead of 5.
        seeds: How many seeds, from 0 on.
        settings: Settings of `TrainConfig` for all runs, such as `dataset`, `data_dir`, `device`.
        workers: Runs at a time; None: as many as there are processors, or see `train_all`.
        progress: Whether a progress bar is shown, if standard error is a terminal.
        command: What stands in the verdicts as the command that made them.
        on_outcome: Called with the outcome of each experiment as soon as it is there.

    Returns:
        The outcome of each experiment.

    Raises:
        StorageError: A file cannot be written.
        TypeError: A setting has a wrong type.
        ValueError: A name is unknown, a number out of range, or the folder has other runs.
    """
    unknown = [name for name in names if name not in EXPERIMENTS]
    if unknown:
        raise ValueError(f"experiment: {unknown[0]!r} given, known are {', '.join(EXPERIMENTS)}")
    for what, number in (("seeds", seeds), ("jobs", workers)):
        if number is not None and number < 1:
            raise ValueError(f"{what}: {number} given, at least 1 is wanted")
    count = seeds if seeds is not None else QUICK_SEEDS if quick else SEEDS
    folder = Path(out).absolute()
    experiments = [EXPERIMENTS[name] for name in dict.fromkeys(names)]
    planned = [
        (each, setting, seed, _job(setting, seed, settings or {}))
        for each in experiments
        for setting in each.settings
        if setting.quick or not quick
        for seed in range(count)
    ]
    trained = train_all(
        [job for *_, job in planned], folder / "runs", workers=workers, progress=progress
    )
    # One analysis of each run, however many experiments it is part of; records are not kept.
    found = {run.path: _found(run) for run in trained}
    outcomes = []
    for each in experiments:
        runs = tuple(
            Measurement(setting.label, seed, run, found[run.path][0])
            for (of, setting, seed, _), run in zip(planned, trained, strict=True)
            if of is each
        )
        judgement = each.judge(runs)
        machines = [found[run.run.path][1] for run in runs]
        about = {"command": command, **_in_words(machines)}
        write_outcome(folder / each.name, each, runs, judgement, about)
        outcomes.append(Outcome(each, judgement, runs, folder / each.name))
        if on_outcome is not None:
            on_outcome(outcomes[-1])
    write_index(folder, list(EXPERIMENTS.values()))
    return outcomes


def _found(run: RunDirectory) -> tuple[PhaseSummary, list[dict[str, str]]]:
    """The analysis of a run, and the machines that it was trained on, one after another."""
    read = read_run(run.path)
    stretches = [read.config, *read.config["resumed"]]
    return read.summary, [
        {"device_name": stretch["device_name"], "torch": stretch["versions"]["torch"]}
        for stretch in stretches
    ]


def _in_words(machines: Sequence[Sequence[Mapping[str, str]]]) -> dict[str, str]:
    """All that runs were trained on, each once."""
    every = list(itertools.chain.from_iterable(machines))
    return {
        name: ", ".join(dict.fromkeys(machine[name] for machine in every))
        for name in ("device_name", "torch")
    }


def _job(setting: Setting, seed: int, settings: Mapping[str, Any]) -> Job:
    return Job({**settings, **setting.changes, "seed": seed}, setting.steps, setting.observer)
