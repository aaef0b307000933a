"""The gallery of the paper's findings, from what `tfc-fast reproduce all` has left.

    tfc-fast reproduce all --out runs/reproduce
    python benchmarks/reproduction.py runs/reproduce

Writes docs/reproduction.md with a picture, a table and a verdict for each experiment, the pictures
beside it, and the numbers as data to benchmarks/results/reproduction. Compares the lengths of the
first phase with those of a script of plain torch (reference.json there) and prints that table.
Trains nothing.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import math
import shutil
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfc_fast.reproduce import EXPERIMENTS
from tfc_fast.run_directory import RunDirectory

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reproduction"
PAGE = ROOT / "docs" / "reproduction.md"
IMAGES = ROOT / "docs" / "images" / "reproduction"
WITHIN = 0.2
"""How far the median may lie outside the range of the reference."""

COMMAND = "tfc-fast reproduce all"


@dataclass(frozen=True)
class Comparison:
    """The first phase of one setting, ours and that of the reference."""

    experiment: str
    setting: str
    low: float
    high: float
    lengths: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of ours."""
        return statistics.median(self.lengths)

    @property
    def deviation(self) -> float:
        """Of the median from the nearer end of the reference's range, as a part of it."""
        if self.low <= self.median <= self.high:
            return 0.0
        end = self.low if self.median < self.low else self.high
        return self.median / end - 1

    @property
    def agrees(self) -> bool:
        """Whether it is within `WITHIN`."""
        return abs(self.deviation) <= WITHIN

    def cells(self) -> list[str]:
        """For a table."""
        reference = (
            f"{self.low:.0f}" if self.low == self.high else f"{self.low:.0f}-{self.high:.0f}"
        )
        return [
            self.experiment,
            self.setting,
            reference,
            _steps(self.median),
            f"{min(self.lengths):.0f}-{_steps(max(self.lengths))}",
            f"{self.deviation:+.0%}" if self.deviation else "inside",
            "yes" if self.agrees else "NO",
        ]


SIDE_BY_SIDE = """\
Runs are trained side by side by joblib, one thread each, as many as there are processors. Whoever
has a cluster of Dask (or another back end of joblib) chooses it, and the tables are the same:

```python
import joblib
from dask.distributed import Client
from tfc_fast.reproduce import EXPERIMENTS, reproduce

client = Client(n_workers=2, threads_per_worker=1)  # or the address of a scheduler
with joblib.parallel_config("dask"):
    reproduce(list(EXPERIMENTS), "runs/reproduce")  # a folder that all workers see
```

What is there is not trained again, so an interrupted call goes on when it is made again; a worker
that dies costs its runs a retry, from their checkpoints.""".splitlines()


def _steps(length: float) -> str:
    return f"{length:.0f}" if math.isfinite(length) else "not ended"


HEAD = ("experiment", "setting", "reference", "median", "range", "outside by", "within 20 %")


def read_table(folder: Path) -> list[dict[str, str]]:
    """The runs of an experiment, as `reproduce` has written them."""
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def compare(out: Path, reference: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Comparison]:
    """Every setting of the reference that has been trained."""
    found = []
    for experiment, settings in reference.items():
        if not (out / experiment / "table.csv").is_file():
            continue
        rows = read_table(out / experiment)
        for setting, (low, high) in settings.items():
            ends = [row["first_phase_end"] for row in rows if row["setting"] == setting]
            lengths = tuple(float(end) if end else math.inf for end in ends)
            if lengths:
                found.append(Comparison(experiment, setting, low, high, lengths))
    return found


def out_of_order(comparisons: Sequence[Comparison]) -> list[str]:
    """Pairs of settings of one experiment that the reference has in the other order."""
    wrong = []
    for a, b in itertools.combinations(comparisons, 2):
        if a.experiment == b.experiment and (a.high < b.low) != (a.median < b.median):
            wrong.append(f"{a.experiment}: {a.setting} and {b.setting}")
    return wrong


def markdown(rows: Iterator[list[str]]) -> list[str]:
    """The comparison as a table."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def training_seconds(out: Path, verdict: Mapping[str, Any]) -> float:
    """What the runs of one experiment took, one after another."""
    return sum(
        float(RunDirectory(out / "runs" / run).read_train()["step_seconds"].sum())
        for run in verdict["runs"]
    )


def section(out: Path, name: str, verdict: Mapping[str, Any]) -> list[str]:
    """One experiment on the page."""
    experiment = EXPERIMENTS[name]
    word = "holds" if verdict["holds"] else "does not hold here"
    seconds = training_seconds(out, verdict)
    lines = [f'<a id="{name}"></a>', "", f"## {experiment.title}: {word}", "", experiment.claim, ""]
    lines += [f"![{experiment.title}](images/reproduction/{name}.png)", ""]
    lines += [(out / name / "table.md").read_text().rstrip(), ""]
    lines += [f"- {sentence}" for sentence in verdict["evidence"]]
    lines += ["", f"*Rule.* {verdict['rule']}", ""]
    lines += [
        f"`{verdict['command']}`: seeds {', '.join(map(str, verdict['seeds']))}; "
        f"{len(verdict['runs'])} runs, {seconds:.0f} s of training on one core; "
        f"{verdict['device_name']}, torch {verdict['torch']}. "
        f"[Data](../benchmarks/results/reproduction/{name}.csv)"
    ]
    return [*lines, ""]


def write_page(out: Path, comparisons: Sequence[Comparison]) -> None:
    """docs/reproduction.md, its pictures and its data."""
    there = {
        name: json.loads((out / name / "verdict.json").read_text())
        for name in EXPERIMENTS
        if (out / name / "verdict.json").is_file()
    }
    for name, verdict in there.items():
        verdict["command"] = f"tfc-fast reproduce {name}"  # not the folder on this machine
    for folder in (IMAGES, RESULTS):
        folder.mkdir(parents=True, exist_ok=True)
    for name in there:
        shutil.copyfile(out / name / "figure.png", IMAGES / f"{name}.png")
        shutil.copyfile(out / name / "table.csv", RESULTS / f"{name}.csv")
    (RESULTS / "verdicts.json").write_text(json.dumps(there, indent=1, sort_keys=True) + "\n")
    fail = [EXPERIMENTS[name].title for name, verdict in there.items() if not verdict["holds"]]
    seconds = sum(training_seconds(out, verdict) for verdict in there.values())
    lines = [
        "# The paper's findings",
        "",
        "Each claim of *Temporary Feature Collapse Phenomenon in Early Learning of MLPs* on real "
        "data (scikit-learn's digits), with several seeds. The verdicts are computed from the runs "
        "by the rule that stands below each.",
        "",
        "```",
        f"{COMMAND} --out runs/reproduce   # {seconds / 60:.0f} minutes of one core; goes on where "
        "it was",
        "python benchmarks/reproduction.py runs/reproduce   # this page",
        "```",
        "",
        f"{len(there) - len(fail)} of {len(there)} claims hold on these data. "
        + (f"These do not: {', '.join(fail)}." if fail else ""),
        "",
        "| experiment | claim | holds |",
        "|---|---|---|",
    ]
    lines += [
        f"| [{EXPERIMENTS[name].title}](#{name}) | {EXPERIMENTS[name].claim} "
        f"| {'yes' if verdict['holds'] else '**no**'} |"
        for name, verdict in there.items()
    ]
    lines += ["", *SIDE_BY_SIDE]
    wrong = out_of_order(comparisons)
    outside = [one for one in comparisons if not one.agrees]
    lines += [
        "",
        "## Against plain torch",
        "",
        "Steps of the first phase beside those that a script without this package has found: two "
        "seeds there, the median and the range of all seeds here.",
        "",
        *markdown(one.cells() for one in comparisons),
        "",
        f"{len(comparisons) - len(outside)} of {len(comparisons)} are within {WITHIN:.0%}"
        + (f"; out of order: {'; '.join(wrong)}." if wrong else "; all are in the same order."),
        "",
    ]
    for name, verdict in there.items():
        lines += section(out, name, verdict)
    PAGE.write_text("\n".join(lines).rstrip() + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder of `tfc-fast reproduce`")
    parser.add_argument(
        "--page", action=argparse.BooleanOptionalAction, default=True, help="write the page, too"
    )
    arguments = parser.parse_args()
    if not any(arguments.out.glob("*/verdict.json")):
        parser.error(f"out: {arguments.out} has no verdicts; run {COMMAND} --out {arguments.out}")
    reference = json.loads((RESULTS / "reference.json").read_text())["lengths"]
    comparisons = compare(arguments.out, reference)
    print("\n".join(markdown(one.cells() for one in comparisons)))
    for pair in out_of_order(comparisons):
        print(f"out of order: {pair}")
    if arguments.page:
        write_page(arguments.out, comparisons)
        print(f"page: {PAGE}")


if __name__ == "__main__":
    main()
