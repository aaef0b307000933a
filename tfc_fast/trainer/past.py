"""`config.json`: what a run is, and what a resumed run must still be to give the same bits."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tfc_fast.environment import environment
from tfc_fast.files import DamagedFileError
from tfc_fast.run_directory import RunDirectory
from tfc_fast.trainer.checkpoint import Checkpoint, load_checkpoint
from tfc_fast.trainer.config import TrainConfig
from tfc_fast.trainer.log import Columns
from tfc_fast.trainer.samples import Samples

__all__ = ["Past", "description", "past_of"]

CHANGEABLE = ("steps", "epochs", "threads", "device", "checkpoint_every", "stop_on", "budget")
"""What a resumed run may change: none of these alters the steps that were done."""

_KEYS = ("settings", "model", "dataset", "versions", "device_name", "threads")


def description(
    config: TrainConfig,
    *,
    model: nn.Module,
    model_given: bool,
    samples: Samples,
    device: torch.device,
    chance_loss: float,
    processes: int,
) -> dict[str, Any]:
    """Return the content of `config.json` for a new run.

    Args:
        config: The settings.
        model: The model.
        model_given: Whether the user gave it.
        samples: The data.
        device: Device of the training.
        chance_loss: Loss of a network that knows only the class frequencies.
        processes: How many processes train together.
    """
    kind = type(model)
    return {
        "settings": config.to_dict(),
        "seed": config.seed,
        **environment(device),
        "dataset": samples.describe(),
        "model": {
            "type": f"{kind.__module__}.{kind.__qualname__}",
            "given": model_given,
            "parameters": sum(weight.numel() for weight in model.parameters()),
        },
        "chance_loss": chance_loss,
        "processes": processes,
        "resumed": [],
    }


@dataclasses.dataclass(frozen=True)
class Past:
    """A run that stopped.

    Args:
        stored: Content of its `config.json`.
        config: Its settings, changes applied.
        checkpoint: Where it stopped; None if it never came to a checkpoint.
        threads: CPU threads to go on with: as many as before, unless changed.
    """

    stored: dict[str, Any]
    config: TrainConfig
    checkpoint: Checkpoint | None
    threads: int

    @property
    def step(self) -> int:
        """Steps done at the checkpoint."""
        return 0 if self.checkpoint is None else self.checkpoint.step

    @property
    def log_tail(self) -> Columns | None:
        """Rows of the train log that only the checkpoint has; None without one."""
        if self.checkpoint is None:
            return None
        return {name: column.numpy() for name, column in self.checkpoint.log.items()}

    def given(self, name: str) -> bool:
        """Whether the user gave the "model" or "dataset"."""
        return bool(self.stored[name]["given"])

    def check(self, now: dict[str, Any], planned_steps: int) -> None:
        """Make sure that the run can go on here, and warn where its bits may differ.

        Args:
            now: `description` of the run as it would go on.
            planned_steps: Number of steps asked for.

        Raises:
            ValueError: The data are others, or fewer steps are asked for than are done.
        """
        if planned_steps < self.step:
            raise ValueError(
                f"steps: {planned_steps} given, but the run has done {self.step} already; give at "
                "least as many"
            )
        before, after = self.stored["dataset"], now["dataset"]
        if after["checksum"] != before["checksum"]:
            raise ValueError(
                f"dataset: {after['description']} ({after['samples']} samples) differs from what "
                f"the run was started with: {before['description']} ({before['samples']} samples); "
                "give the same data"
            )
        for what in ("versions", "device_name"):
            if now[what] != self.stored[what]:
                warnings.warn(
                    f"{what}: the run was started with {_shown(self.stored[what])} and goes on "
                    f"with {_shown(now[what])}; its last bits may differ from those of a run "
                    "without a stop",
                    stacklevel=4,
                )

    def continued(self, now: dict[str, Any]) -> dict[str, Any]:
        """Return the content of `config.json` for the run as it goes on: its start stays told."""
        here = {name: now[name] for name in ("versions", "device_name", "platform")}
        stretch = {"step": self.step, **here, "threads": self.threads}
        resumed = [*self.stored.get("resumed", []), stretch]
        return {**self.stored, "settings": now["settings"], "resumed": resumed}


def past_of(path: str | os.PathLike[str], changes: Mapping[str, Any]) -> Past:
    """Read what a stopped run left.

    Args:
        path: Folder of the run.
        changes: New values of settings in `CHANGEABLE`.

    Returns:
        Settings and state of the run.

    Raises:
        CheckpointError: The checkpoint is damaged or foreign.
        DamagedFileError: `config.json` is damaged.
        FileNotFoundError: The folder holds no run.
        TypeError, ValueError: A change is not possible.
    """
    run = RunDirectory(path)
    stored = run.read_json(run.config_path)
    missing = [name for name in _KEYS if name not in stored]
    if missing:
        raise DamagedFileError(
            f"{run.config_path} is damaged: {missing} are missing; restore it from a copy"
        )
    try:
        before = TrainConfig.from_dict(stored["settings"])
    except (TypeError, ValueError) as error:
        raise DamagedFileError(f"{run.config_path} is damaged: {error}") from error
    config = dataclasses.replace(_changed(before, changes), out=os.fspath(run.path))
    return Past(
        stored=stored,
        config=config,
        checkpoint=load_checkpoint(run.checkpoint_path) if run.checkpoint_path.exists() else None,
        # As many threads as before: how a product of matrices is split decides its last bits.
        threads=config.threads or int(stored["threads"]),
    )


def _changed(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    for name in changes:
        if name not in CHANGEABLE:
            raise ValueError(
                f"{name}: a run that goes on cannot change it; it can change "
                f"{', '.join(CHANGEABLE)}"
            )
    # The length is one setting with two names: naming one takes back the other.
    if changes.keys() & {"steps", "epochs"}:
        config = dataclasses.replace(config, epochs=None)
        changes = {"steps": None, "epochs": None, **changes}
    return dataclasses.replace(config, **changes)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return str(value)
