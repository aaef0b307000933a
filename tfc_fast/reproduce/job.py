"""One run of a sweep: its settings, and what is on disk of it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tfc_fast.reproduce.measurement import OBSERVED
from tfc_fast.run_directory import RunDirectory
from tfc_fast.trainer import TrainConfig
from tfc_fast.trainer.past import CHANGEABLE
from tfc_fast.trainer.samples import training_samples

__all__ = ["Job", "check_settings", "data_checksum", "on_other_data", "steps_done"]

_OF_DATA = (
    *(each.name for each in dataclasses.fields(TrainConfig) if each.metadata["group"] == "data"),
    "seed",
)


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Args:
        changes: Settings that differ from the defaults of `TrainConfig`; neither `steps` nor `out`.
        steps: Its length.
        observer: What looks at it while it trains: a name in `observation.OBSERVERS`, or None.
    """

    changes: Mapping[str, Any]
    steps: int
    observer: str | None = None

    @property
    def name(self) -> str:
        """Name of the folder: the settings in words, or a part of them and a checksum."""
        words = [f"{key}={value}" for key, value in sorted(self.changes.items())]
        words += [] if self.observer is None else [self.observer]
        name = ",".join(words).replace("/", "_")
        if len(name) <= 100:
            return name or "defaults"
        return f"{name[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"

    def config(self, folder: Path) -> TrainConfig:
        """All its settings."""
        return TrainConfig(
            **{"threads": 1, **self.changes}, steps=self.steps, out=str(folder / self.name)
        )

    def run(self, folder: Path) -> RunDirectory:
        """Its files, which need not be there."""
        return RunDirectory(folder / self.name)


def check_settings(job: Job, folder: Path) -> None:
    """Make sure that what is there of a run has its settings.

    Raises:
        ValueError: It has others.
    """
    run = job.run(folder)
    if not run.config_path.is_file():
        return
    there = run.read_json(run.config_path)["settings"]
    wanted = job.config(folder).to_dict()
    for name in wanted.keys() - {*CHANGEABLE, "out"}:
        # What this version knows and the one that made the run did not has its default there.
        if name in there and json.dumps(there[name]) != json.dumps(wanted[name]):
            raise ValueError(
                f"{run.path} holds a run with {name}={there[name]!r}, {wanted[name]!r} is wanted; "
                "give another folder"
            )


def data_checksum(config: TrainConfig) -> str:
    """Of the data that settings load now, as `config.json` has it of those of a run."""
    return str(training_samples(config, None).describe()["checksum"])


def on_other_data(jobs: Iterable[Job], folder: Path) -> list[RunDirectory]:
    """The runs that are there, but were trained on other data than their settings load now.

    Args:
        jobs: The runs.
        folder: Where they are.

    Raises:
        OSError: The data are gone.
    """
    now: dict[str, str] = {}
    found = []
    for job in jobs:
        run = job.run(folder)
        if not run.config_path.is_file():
            continue
        config = job.config(folder)
        key = json.dumps([getattr(config, name) for name in _OF_DATA])
        if key not in now:
            now[key] = data_checksum(config)
        if run.read_json(run.config_path)["dataset"]["checksum"] != now[key]:
            found.append(run)
    return found


def steps_done(job: Job, folder: Path) -> int:
    """Steps of the run as its summary tells them, also if it was interrupted; 0 without one."""
    run = job.run(folder)
    if not (run.config_path.is_file() and run.summary_path.is_file()):
        return 0
    if job.observer is not None and not (run.path / OBSERVED).is_file():
        return 0
    return int(run.read_json(run.summary_path)["steps"])
