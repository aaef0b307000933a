"""Short trainings with one remedy each, ranked by how much they shorten the first phase."""

from __future__ import annotations

import csv
import io
import math
import os
import statistics
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tfc_fast import phases
from tfc_fast.files import atomic_write, make_writable_folder
from tfc_fast.phases.effects import applies
from tfc_fast.reproduce import Job, train_all
from tfc_fast.reproduce.job import data_checksum, on_other_data
from tfc_fast.run_directory import RunDirectory
from tfc_fast.trainer import TrainConfig
from tfc_fast.trainer.store import discard

__all__ = ["CONTROL", "STEPS", "SEEDS", "Trial", "ranked", "remedies_for", "try_remedies"]

CONTROL = "doing nothing"
"""Name of the trial that changes nothing."""

STEPS, SEEDS = 800, 2
"""Default length of a trial, and how many of each there are."""

LEAST_GAIN = 0.01
"""Part of the loss of the control that counts as a difference where no first phase has ended."""

# What says where a run goes, how long it is and what watches it, not how it learns.
_NOT_OF_LEARNING = (
    *("out", "steps", "epochs", "seed", "threads", "checkpoint_every"),
    *("probe", "sites", "every", "budget", "window", "stop_on", "tensorboard"),
)


@dataclass(frozen=True)
class Trial:
    """What became of a run with one remedy.

    Attributes:
        remedy: What was changed, in words.
        changes: The settings that were changed.
        lengths: Length of the first phase of each seed, in steps; infinite if it did not end.
        losses: Smoothed loss of each seed at the last step; NaN if it was not finite.
        steps: Length of the trial.
    """

    remedy: str
    changes: dict[str, Any]
    lengths: tuple[float, ...]
    losses: tuple[float, ...]
    steps: int

    @property
    def length(self) -> float:
        """Median length of the first phase."""
        return statistics.median(self.lengths)

    @property
    def loss(self) -> float:
        """Median of the smoothed losses, those that are not finite counted as infinite."""
        return statistics.median(loss if math.isfinite(loss) else math.inf for loss in self.losses)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; what is not finite becomes null as JSON is written."""
        return {**asdict(self), "length": self.length, "loss": self.loss}


def remedies_for(config: TrainConfig) -> dict[str, dict[str, Any]]:
    """Changes of the settings that are worth a trial, by name; the first one changes nothing.

    Initialisation, batch normalisation, momentum, learning rate and L2 penalty, in the doses of
    `tfc-fast reproduce`; what the run has already, or cannot have, is left out.

    Example:
        >>> list(remedies_for(TrainConfig(optimizer="adam", batch_norm=True)))
        ['doing nothing', 'twice the learning rate', 'L2 penalty 0.001']
    """
    found: dict[str, dict[str, Any]] = {CONTROL: {}}
    settings = config.to_dict()
    gain = 0.7 if config.gain < 0.7 else 1.0
    if applies("gain", gain, settings):
        found[f"initial weights {gain} instead of {config.gain:g}"] = {"gain": gain}
    if applies("batch_norm", True, settings):
        found["batch normalisation"] = {"batch_norm": True}
    if applies("momentum", 0.9, settings):
        found["momentum 0.9"] = {"momentum": 0.9}
    found["twice the learning rate"] = {"lr": 2 * config.lr}
    if config.weight_decay > 0:
        found["no L2 penalty"] = {"weight_decay": 0.0}
    else:
        found["L2 penalty 0.001"] = {"weight_decay": 0.001}
    return found


def try_remedies(
    run_dir: str | os.PathLike[str],
    *,
    steps: int = STEPS,
    seeds: int = SEEDS,
    workers: int | None = None,
    progress: bool = True,
) -> list[Trial]:
    """Train a run anew for some steps, with each remedy and without any, and rank them.

    The trials are in `advice/runs` of the run. What is there is not trained again, so an
    interrupted call goes on when it is made again, and a longer one goes on from a shorter one;
    only those on other data than the run are discarded, with a warning, and trained anew.
    `advice/trials.csv`, `.md` and `.json` hold the result.

    Args:
        run_dir: Folder of a run of `tfc-fast train`.
        steps: Length of each trial.
        seeds: How many trials of each remedy: the seed of the run and those after it.
        workers: Trials at a time, one CPU thread each; None: as many as there are processors.
        progress: Whether a progress bar is shown, if standard error is a terminal.

    Returns:
        The trials, the best first, see `ranked`.

    Raises:
        DamagedFileError: `config.json` is damaged.
        FileNotFoundError: The folder is no run, or its data are gone.
        ValueError: A number is out of range, the run used a model or data of the user's own, or its
            data are no longer the same.
    """
    for name, number in (("steps", steps), ("seeds", seeds), ("threads", workers)):
        if number is not None and number < 1:
            raise ValueError(f"{name}: {number} given, at least 1 is wanted")
    run = RunDirectory(run_dir)
    config = _config(run)
    _check_data(config, run)
    folder = run.path / "advice"
    jobs, owners = [], []
    remedies = remedies_for(config)
    base = _learning_settings(config)
    for remedy, changes in remedies.items():
        for seed in range(config.seed, config.seed + seeds):
            jobs.append(Job({**base, **changes, "seed": seed, "probe": False}, steps))
            owners.append(remedy)
    _discard_those_on_other_data(jobs, folder / "runs")
    runs = train_all(jobs, folder / "runs", workers=workers, progress=progress)
    trials = []
    for remedy, changes in remedies.items():
        measured = [
            _measured(trained, steps)
            for owner, trained in zip(owners, runs, strict=True)
            if owner == remedy
        ]
        lengths, losses = zip(*measured, strict=True)
        trials.append(Trial(remedy, changes, lengths, losses, steps))
    trials = ranked(trials)
    _write(folder, trials)
    return trials


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Trials in the order of their medians: first the shorter first phase, then the lower loss.

    Those whose first phase did not end come after those where it did, by the loss that they have
    come to; those whose loss is not finite come last, however short their first phase was.

    Example:
        >>> slow = Trial("slow", {}, (math.inf,), (2.2,), 100)
        >>> fast = Trial("fast", {}, (40.0,), (2.1,), 100)
        >>> [trial.remedy for trial in ranked([slow, fast])]
        ['fast', 'slow']
    """
    return sorted(
        trials, key=lambda trial: (not math.isfinite(trial.loss), trial.length, trial.loss)
    )


def effect_in_words(trial: Trial, control: Trial) -> str:
    """How a trial compares with the one that changes nothing."""
    if trial is control:
        return "for comparison"
    if not math.isfinite(trial.loss):
        return "loss not finite"
    if not math.isfinite(control.loss):
        return "loss not finite without it"
    if math.isfinite(trial.length):
        if control.length == 0:
            return f"{CONTROL} has no first phase"
        if math.isfinite(control.length):
            return f"{trial.length / control.length:.2g} times as long"
        return f"at most {trial.length / control.steps:.2g} times as long"
    if math.isfinite(control.length):
        return "longer"
    gain = control.loss - trial.loss
    if abs(gain) <= LEAST_GAIN * abs(control.loss):
        return "not ended; no difference seen in so few steps"
    if control.loss == 0:
        return f"not ended; loss {trial.loss:.4g} instead of 0"
    part = abs(gain / control.loss)
    return f"not ended; loss {part:.0%} {'lower' if gain > 0 else 'higher'}"


def rows(trials: Sequence[Trial]) -> list[dict[str, str]]:
    """The table of ranked trials, as strings ready to show."""
    control = next(trial for trial in trials if trial.remedy == CONTROL)
    return [
        {
            "rank": str(rank),
            "remedy": trial.remedy,
            "first phase (steps)": (
                f"{trial.length:,.0f}" if math.isfinite(trial.length) else f"over {trial.steps:,}"
            ),
            "each seed": ", ".join(
                f"{length:.0f}" if math.isfinite(length) else f"over {trial.steps}"
                for length in trial.lengths
            ),
            f"loss after {trial.steps:,} steps": (
                f"{trial.loss:.4g}" if math.isfinite(trial.loss) else "not finite"
            ),
            "compared with doing nothing": effect_in_words(trial, control),
        }
        for rank, trial in enumerate(trials, 1)
    ]


def _config(run: RunDirectory) -> TrainConfig:
    stored = run.read_json(run.config_path)
    for what in ("model", "dataset"):
        if stored.get(what, {}).get("given"):
            raise ValueError(
                f"{run.path} was trained with a {what} of your own, which its settings cannot make "
                "again; trials need a run of tfc-fast train"
            )
    if "settings" not in stored:
        raise ValueError(f"{run.config_path} has no settings; trials need a run of tfc-fast train")
    return TrainConfig.from_dict(stored["settings"])


def _check_data(config: TrainConfig, run: RunDirectory) -> None:
    """Now, and not in each of the trials: the files are there, and the data those of the run."""
    if config.data_dir is not None:
        files = Path(config.data_dir).expanduser()
        if not files.exists():
            remedy = "put it back"
            if not files.is_absolute():
                remedy = f"it was looked for in {Path.cwd()}; call from where the run was started"
            raise FileNotFoundError(
                f"data_dir: {config.data_dir} of the run is not there, its data set "
                f"{config.dataset!r} is read from there; {remedy}"
            )
    if data_checksum(config) != run.read_json(run.config_path)["dataset"]["checksum"]:
        where = "" if config.data_dir is None else f" in {config.data_dir}"
        raise ValueError(
            f"dataset: {config.dataset!r}{where} gives other data now than those that {run.path} "
            "was trained on, so trials would say nothing about it; bring them back, or train the "
            "run anew"
        )


def _discard_those_on_other_data(jobs: Sequence[Job], folder: Path) -> None:
    """The trials outlive their run: one that was trained anew may be on other data."""
    others = on_other_data(jobs, folder)
    for run in others:
        discard(run)
    if others:
        warnings.warn(
            f"{len(others)} trials in {folder} were of other data than the run is of now; they "
            "are trained anew",
            RuntimeWarning,
            stacklevel=3,
        )


def _learning_settings(config: TrainConfig) -> Mapping[str, Any]:
    """The settings that are not the defaults and that have a say in what is learned."""
    defaults = TrainConfig().to_dict()
    return {
        name: value
        for name, value in config.to_dict().items()
        if name not in _NOT_OF_LEARNING and value != defaults[name]
    }


def _measured(run: RunDirectory, steps: int) -> tuple[float, float]:
    """Length of the first phase and smoothed loss at the last step, of the first `steps` only."""
    log = run.read_train()
    summary = phases.analyze(
        log["loss"][:steps],
        None,
        steps=log["step"][:steps],
        chance_loss=run.read_json(run.config_path)["chance_loss"],
    )
    length = summary.phase_length
    return math.inf if length is None else float(length), summary.final_loss


def _write(folder: Path, trials: Sequence[Trial]) -> None:
    make_writable_folder(folder)
    table = rows(trials)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    markdown = [f"| {' | '.join(table[0])} |", "|" + "---|" * len(table[0])]
    markdown += [f"| {' | '.join(row.values())} |" for row in table]
    for name, content in (("trials.csv", text.getvalue()), ("trials.md", "\n".join(markdown))):
        encoded = content.rstrip("\n").encode() + b"\n"
        atomic_write(folder / name, lambda file, encoded=encoded: file.write(encoded))  # type: ignore[misc]
    # RunDirectory knows how to turn infinities into null.
    RunDirectory(folder).write_json(
        "trials.json", {"trials": [trial.to_dict() for trial in trials]}
    )
