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
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from reference_lengths import PLATEAU, WITHIN, Comparison, compare, markdown, out_of_order

from tfc_fast.reproduce import EXPERIMENTS
from tfc_fast.run_directory import RunDirectory

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "reproduction"
PAGE = ROOT / "docs" / "reproduction.md"
IMAGES = ROOT / "docs" / "images" / "reproduction"
COMMAND = "tfc-fast reproduce all"


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


def training_seconds(out: Path, runs: Iterable[str]) -> float:
    """What runs took, one after another; a run that is named twice was trained once."""
    return sum(
        float(RunDirectory(out / "runs" / run).read_train()["step_seconds"].sum())
        for run in set(runs)
    )


def section(out: Path, name: str, verdict: Mapping[str, Any]) -> list[str]:
    """One experiment on the page."""
    experiment = EXPERIMENTS[name]
    word = "holds" if verdict["holds"] else "does not hold here"
    seconds = training_seconds(out, verdict["runs"])
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
    # Experiments share runs.
    seconds = training_seconds(out, (run for each in there.values() for run in each["runs"]))
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
        "seeds there, the median and the range of all seeds here. It ends the phase at the first "
        "step at which the average of the loss (decay 0.95) is 10 % under its plateau, and our "
        f"runs are measured by its rule, with the mean of the first {PLATEAU} averages as that "
        "plateau (inferred: its three short phases come out together with no other start of the "
        "curve). `first_phase_end` of this package finds the plateau anew at every step, and is "
        "told in the last column. The rules part only where there is no plateau: with batch "
        "normalisation the loss falls from the first step on.",
        "",
        *markdown(comparisons),
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
    print("\n".join(markdown(comparisons)))
    for pair in out_of_order(comparisons):
        print(f"out of order: {pair}")
    if arguments.page:
        write_page(arguments.out, comparisons)
        print(f"page: {PAGE}")


if __name__ == "__main__":
    main()
