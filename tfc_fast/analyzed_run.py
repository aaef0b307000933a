"""A run with its analysis: what is on disk of it, complete or not, and what that says."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc_fast import phases
from tfc_fast.files import DamagedFileError
from tfc_fast.phases.thresholds import DEAD_WINDOW
from tfc_fast.records import Records
from tfc_fast.run_directory import RunDirectory

_THRESHOLDS = ("decay", "drop", "min_rise", "min_phase", "patience", "window")


@dataclass(frozen=True)
class AnalyzedRun:
    """A run that was read from disk.

    Attributes:
        name: what it is called beside others.
        directory: its files.
        config: content of `config.json`.
        stored: content of `summary.json`; None if the run has not come to its end.
        records: its records; may be empty.
        steps: step of each loss, `[n]`.
        loss: losses, `[n]`.
        summary: phase analysis of losses and records.
        diagnosis: what held it up.
    """

    name: str
    directory: RunDirectory
    config: dict[str, Any]
    stored: dict[str, Any] | None
    records: Records
    steps: npt.NDArray[np.int64]
    loss: npt.NDArray[np.float64]
    summary: phases.PhaseSummary
    diagnosis: phases.Diagnosis


def read_run(path: str | os.PathLike[str], name: str | None = None) -> AnalyzedRun:
    """Read a run and analyze it, by the thresholds that its summary was made with.

    Args:
        path: Folder of the run.
        name: What it is called; the name of the folder if not given.

    Returns:
        The run, as far as it is on disk.

    Raises:
        DamagedFileError: A file of the run is damaged; the message names it.
        FileNotFoundError: The folder is no run.
        ImportError: pyarrow is not installed.
        StorageError: A file cannot be read.
    """
    directory = RunDirectory(path)
    config = directory.read_json(directory.config_path)
    _check_kinds(
        directory.config_path,
        config,
        {"settings": dict, "versions": dict, "resumed": list, "chance_loss": (float, int)},
    )
    has_summary = directory.summary_path.exists()
    stored = directory.read_json(directory.summary_path) if has_summary else None
    _check_kinds(directory.summary_path, stored or {}, {"thresholds": dict})
    records = directory.read_metrics()
    log = directory.read_train()
    steps, loss = _with_losses_of(records, log["step"], log["loss"])
    thresholds = (stored or {}).get("thresholds") or {}
    _check_kinds(directory.summary_path, thresholds, dict.fromkeys(_THRESHOLDS, (float, int)))
    summary = phases.analyze(
        loss,
        records,
        steps=steps,
        chance_loss=config.get("chance_loss"),
        **{name: thresholds[name] for name in _THRESHOLDS if name in thresholds},
    )
    window = config.get("settings", {}).get("window", DEAD_WINDOW)
    return AnalyzedRun(
        directory.path.resolve().name if name is None else name,
        directory,
        config,
        stored,
        records,
        steps,
        loss,
        summary,
        phases.diagnose(summary, records, dead_window=window),
    )


def _with_losses_of(
    records: Records, steps: npt.NDArray[np.int64], loss: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The losses of the log, and after its last step those of the records.

    The log of a run that was killed can end before its records, which repeat the loss at each site.
    """
    recorded, first = np.unique(records["step"], return_index=True)
    later = recorded > (steps[-1] if steps.size else -1)
    return (
        np.concatenate([steps, recorded[later]]),
        np.concatenate([loss, records["loss"][first[later]]]),
    )


def _check_kinds(path: Path, values: dict[str, Any], kinds: Mapping[str, Any]) -> None:
    """DamagedFileError if a value that is there is of another kind, or no finite number."""
    for name, kind in kinds.items():
        value = values.get(name)
        finite = not isinstance(value, float) or math.isfinite(value)
        if name in values and not (isinstance(value, kind) and finite):
            # What a run writes as null is not known to it.
            if value is None and name in ("chance_loss", "thresholds"):
                continue
            raise DamagedFileError(f"{path} is damaged: {name} is {value!r}")


def read_runs(paths: Sequence[str | os.PathLike[str]]) -> list[AnalyzedRun]:
    """Read runs that are shown together.

    Args:
        paths: Their folders, at least one.

    Returns:
        The runs in this order, each with a name that no other one has.

    Raises:
        ValueError: No folder is given, or one twice.
        Exception: As `read_run`.
    """
    folders = [RunDirectory(path).path.resolve() for path in paths]
    if not folders:
        raise ValueError("runs: none given, at least one folder is wanted")
    twice = [folder for folder in folders if folders.count(folder) > 1]
    if twice:
        raise ValueError(f"runs: {twice[0]} is given twice; give each run once")
    return [read_run(path, name) for path, name in zip(paths, _names(folders), strict=True)]


def _names(folders: list[Path]) -> list[str]:
    """The names of the folders, or, where two are alike, as much of the paths as differs."""
    names = [folder.name for folder in folders]
    if len(set(names)) == len(names):
        return names
    common = os.path.commonpath(folders)
    return [str(folder.relative_to(common)) for folder in folders]
