"""A run with its analysis: what is on disk of it, complete or not, and what that says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc_fast import phases
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
    has_summary = directory.summary_path.exists()
    stored = directory.read_json(directory.summary_path) if has_summary else None
    records = directory.read_metrics()
    log = directory.read_train()
    steps, loss = log["step"], log["loss"]
    if not steps.size:
        # A run that was killed early can have records, which repeat the loss at every site.
        steps, first = np.unique(records["step"], return_index=True)
        loss = records["loss"][first]
    thresholds = (stored or {}).get("thresholds") or {}
    summary = phases.analyze(
        loss,
        records,
        steps=steps,
        chance_loss=config.get("chance_loss"),
        **{name: thresholds[name] for name in _THRESHOLDS if name in thresholds},
    )
    window = config.get("settings", {}).get("window", DEAD_WINDOW)
    return AnalyzedRun(
        directory.path.name if name is None else name,
        directory,
        config,
        stored,
        records,
        steps,
        loss,
        summary,
        phases.diagnose(summary, records, dead_window=window),
    )


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
