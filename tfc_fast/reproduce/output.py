"""What an experiment leaves on disk: a table as CSV and Markdown, a picture, a verdict."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from tfc_fast.files import atomic_write, make_writable_folder
from tfc_fast.reproduce.experiment import Experiment, Judgement
from tfc_fast.reproduce.measurement import Measurement, known_median
from tfc_fast.run_directory import RunDirectory

__all__ = ["markdown_table", "write_index", "write_outcome"]


def write_outcome(
    folder: Path,
    experiment: Experiment,
    runs: Sequence[Measurement],
    judgement: Judgement,
    about: Mapping[str, Any],
) -> None:
    """Write `table.csv`, `table.md`, `figure.png`, `figure.svg` and `verdict.json`.

    Args:
        folder: Of the experiment; made if it is not there.
        experiment: The experiment.
        runs: Its runs.
        judgement: What they say.
        about: What else stands in `verdict.json`: command, machine, time.

    Raises:
        StorageError: A file cannot be written.
    """
    make_writable_folder(folder)
    rows = [run.row() for run in runs]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write(folder / "table.csv", table.getvalue())
    _write(folder / "table.md", markdown_table(runs) + "\n")
    figure = experiment.figure(runs)
    _draw(folder / "figure.png", figure)
    # Without a date and with names that are not random: the same runs give the same file.
    with matplotlib.rc_context({"svg.hashsalt": experiment.name}):
        _draw(folder / "figure.svg", figure, metadata={"Date": None})
    verdict = {
        "experiment": experiment.name,
        "claim": experiment.claim,
        "rule": experiment.rule,
        "holds": judgement.holds,
        "evidence": judgement.evidence,
        "effect": judgement.effect,
        "seeds": sorted({run.seed for run in runs}),
        "runs": [run.run.path.name for run in runs],
        **about,
    }
    RunDirectory(folder).write_json("verdict.json", verdict)


def markdown_table(runs: Sequence[Measurement]) -> str:
    """One line per setting: length of the first phase, rise and peak of similarity, verdicts."""
    lines = [
        "| setting | runs | end of the first phase (each run) | median rise | median peak "
        "| verdicts | accuracy |",
        "|---|---|---|---|---|---|---|",
    ]
    for setting in dict.fromkeys(run.setting for run in runs):
        group = [run for run in runs if run.setting == setting]
        cells = [
            setting,
            str(len(group)),
            ", ".join(_end(run) for run in group),
            _median([run.rise for run in group]),
            _median([run.peak for run in group]),
            ", ".join(dict.fromkeys(run.summary.verdict for run in group)),
            _median([run.accuracy for run in group]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _end(run: Measurement) -> str:
    end = run.summary.first_phase_end
    return f"> {run.steps}" if end is None else str(end)


def write_index(folder: Path, experiments: Sequence[Experiment]) -> Path:
    """Write `index.md`: all experiments whose verdicts are there, one below the other.

    Args:
        folder: Holds the folder of each experiment.
        experiments: All experiments, in the order of the page.

    Returns:
        The file.

    Raises:
        StorageError: It cannot be written.
    """
    there = [each for each in experiments if (folder / each.name / "verdict.json").is_file()]
    verdicts = {
        each.name: json.loads((folder / each.name / "verdict.json").read_text()) for each in there
    }
    lines = ["# Findings", "", "| experiment | claim | verdict |", "|---|---|---|"]
    lines += [
        f"| [{each.title}](#{each.name}) | {each.claim} | {_word(verdicts[each.name])} |"
        for each in there
    ]
    for each in there:
        found = verdicts[each.name]
        lines += ["", f'<a id="{each.name}"></a>', "", f"## {each.title}: {_word(found)}", ""]
        lines += [each.claim, "", f"![{each.title}]({each.name}/figure.png)", ""]
        lines += [(folder / each.name / "table.md").read_text().rstrip(), ""]
        lines += [f"- {sentence}" for sentence in found["evidence"]]
        lines += ["", f"Rule: {found['rule']}", ""]
        lines += [
            f"`{found['command']}`, seeds {', '.join(map(str, found['seeds']))}, "
            f"{found['device_name']}, torch {found['torch']}."
        ]
    path = folder / "index.md"
    _write(path, "\n".join(lines) + "\n")
    return path


def _draw(path: Path, figure: Figure, **options: Any) -> None:
    image = io.BytesIO()
    figure.savefig(image, format=path.suffix.removeprefix("."), **options)
    atomic_write(path, lambda file: file.write(image.getvalue()))


def _word(verdict: Mapping[str, Any]) -> str:
    return "holds" if verdict["holds"] else "does not hold"


def _median(values: Iterable[float]) -> str:
    median = known_median(values)
    return "not measured" if math.isnan(median) else f"{median:.3f}"


def _write(path: Path, text: str) -> None:
    atomic_write(path, lambda file: file.write(text.encode()))
