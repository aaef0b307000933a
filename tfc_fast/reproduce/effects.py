"""What each remedy did to the length of the first phase, as a file: measured, not believed.

    python -m tfc_fast.reproduce.effects runs/reproduce

reads the tables and runs that `tfc-fast reproduce` has left there, writes the file that
`tfc_fast.phases.effects` quotes, and prints it as a table in Markdown.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfc_fast.files import atomic_write
from tfc_fast.phases.effects import EFFECTS_PATH
from tfc_fast.reproduce.measurement import finite
from tfc_fast.reproduce.runner import EXPERIMENTS
from tfc_fast.run_directory import RunDirectory
from tfc_fast.trainer import TrainConfig

__all__ = ["REMEDIES", "markdown_table", "measured_effects"]

REMEDIES = ("initialization", "momentum", "batch-norm", "l2", "learning-rates", "depth")
"""Experiments that turn one knob which a user can turn, too."""


# What may differ between the runs, beside what an experiment changes.
_FREE = {"seed", "steps", "out", "device"}


def measured_effects(out: Path) -> dict[str, Any]:
    """Length of the first phase with each setting and with the defaults, from what is on disk.

    The length is the end of the first phase minus the first step; a run whose phase did not end
    counts as infinitely long (null). `ratio` is median by median: below 1, the setting shortens the
    first phase. Data, network and training are read from the runs.

    Args:
        out: Folder that `reproduce` was given; it holds the tables of all of `REMEDIES`.

    Returns:
        The content of `effects.json`.

    Raises:
        FileNotFoundError: An experiment is missing.
        ValueError: The runs differ in more than what their experiment changes.
    """
    effects, commands = [], set()
    common: dict[str, Any] = {}
    for name in REMEDIES:
        table, verdict_path = out / name / "table.csv", out / name / "verdict.json"
        if not (table.is_file() and verdict_path.is_file()):
            raise FileNotFoundError(
                f"{table} is missing: run tfc-fast reproduce {' '.join(REMEDIES)} --out {out}"
            )
        verdict = json.loads(verdict_path.read_text())
        commands.add(verdict["command"])
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        experiment = {each.label: each for each in EXPERIMENTS[name].settings}
        lengths: dict[str, list[float]] = {}
        for row, run in zip(rows, verdict["runs"], strict=True):
            end = row["first_phase_end"]
            lengths.setdefault(row["setting"], []).append(int(end) - 1 if end else math.inf)
            _add_common(common, out / "runs" / run, experiment[row["setting"]].changes)
        baseline = next(lengths[each.label] for each in experiment.values() if not each.changes)
        for each in experiment.values():
            # A quick run leaves some settings out.
            if not each.changes or each.label not in lengths:
                continue
            ((setting, value),) = each.changes.items()
            here, there = statistics.median(lengths[each.label]), statistics.median(baseline)
            effects.append(
                {
                    "experiment": name,
                    "setting": setting,
                    "value": value,
                    "baseline_value": common[setting],
                    "steps": finite(here),
                    "baseline_steps": finite(there),
                    "ratio": finite(here / there) if there else None,
                    "each": [finite(length) for length in lengths[each.label]],
                    "baseline_each": [finite(length) for length in baseline],
                }
            )
    return {
        "command": "; ".join(sorted(commands)),
        "dataset": common["dataset"],
        "network": _network(common),
        "training": f"{common['optimizer']}, learning rate {common['lr']}, batches of "
        f"{common['batch_size']}",
        "effects": effects,
    }


def _add_common(common: dict[str, Any], path: Path, changes: Mapping[str, Any]) -> None:
    """Add what a run has in common with all others, and make sure that it has."""
    run = RunDirectory(path)
    settings = TrainConfig.from_dict(run.read_json(run.config_path)["settings"]).to_dict()
    for name, value in settings.items():
        if name in _FREE or name in changes:
            continue
        if common.setdefault(name, value) != value:
            raise ValueError(
                f"{path} was trained with {name}={value!r}, others of {path.parent} with "
                f"{common[name]!r}; effects are those of runs that have all else in common"
            )


def _network(settings: Mapping[str, Any]) -> str:
    model, depth = settings["model"], settings["depth"]
    layers = {"mlp": f"{depth} linear layers", "vgg11": model}.get(
        model, f"{model}, {depth} layers"
    )
    bias = "with" if settings["bias"] else "without"
    return (
        f"{layers} of {settings['width']} units {bias} bias, initial weights {settings['gain']} of "
        "He's standard deviation"
    )


def markdown_table(measured: Mapping[str, Any]) -> str:
    """The effects as a table, the shortest first phase first.

    Args:
        measured: From `measured_effects`.
    """

    def steps(length: float | None) -> str:
        return "not ended" if length is None else f"{length:,.0f}"

    lines = [
        "| setting | first phase (steps) | instead of | ratio | each seed |",
        "|---|---|---|---|---|",
    ]
    by_length = sorted(
        measured["effects"],
        key=lambda effect: math.inf if effect["steps"] is None else effect["steps"],
    )
    for effect in by_length:
        ratio = "" if effect["ratio"] is None else f"{effect['ratio']:.2g}"
        cells = [
            f"`{effect['setting']}` {effect['value']}",
            steps(effect["steps"]),
            steps(effect["baseline_steps"]),
            ratio,
            "; ".join(map(steps, effect["each"])),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    baseline = "; ".join(map(steps, by_length[0]["baseline_each"]))
    return "\n".join([*lines, "", f"With the defaults, each seed: {baseline}."])


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(prog="python -m tfc_fast.reproduce.effects")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder that reproduce was given")
    parser.add_argument("--file", type=Path, default=EFFECTS_PATH, help="default: %(default)s")
    parsed = parser.parse_args(arguments)
    measured = measured_effects(parsed.out)
    text = json.dumps(measured, indent=1, allow_nan=False) + "\n"
    atomic_write(parsed.file.absolute(), lambda file: file.write(text.encode()))
    print(markdown_table(measured))
    print(f"\nwritten: {parsed.file}")


if __name__ == "__main__":
    main()
