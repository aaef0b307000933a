"""Lengths of the first phase beside those that a script of plain torch has found.

That script ends the phase at the first step at which the average of the loss (decay 0.95) is 10 %
under its plateau. `tfc_fast.phases.first_phase_end` does the same with a plateau that it finds
anew at every step. Where the phase takes hundreds of steps, every plateau gives the same end. The
three short ones of the reference (44, 40 and 23 steps) come out together if the plateau is the mean
of the first 40 averages, and with no start of the curve that is much shorter or longer. So the
lengths are compared by that rule, and those of the package stand beside it: with batch
normalisation the loss falls from the first step on, its first 40 averages are no plateau, and the
two rules part.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tfc_fast import phases
from tfc_fast.phases.thresholds import DROP
from tfc_fast.run_directory import RunDirectory

WITHIN = 0.2
"""How far the median may lie outside the range of the reference."""

PLATEAU = 40
"""Values of the averaged loss whose mean is the plateau of the reference."""

HEAD = (
    "experiment",
    "setting",
    "reference",
    "median by its rule",
    "range by its rule",
    "outside by",
    "within 20 %",
    "median of `first_phase_end`",
)


def reference_length(loss: npt.ArrayLike) -> float:
    """Steps until the averaged loss is 10 % under the mean of its first 40 values; or infinity."""
    average = phases.smoothed_loss(loss)
    below = np.flatnonzero(average < (1 - DROP) * average[:PLATEAU].mean())
    return float(below[0]) if below.size else math.inf


@dataclass(frozen=True)
class Comparison:
    """The first phase of one setting, ours and that of the reference.

    Attributes:
        experiment, setting: Where it is.
        low, high: Range of the reference.
        lengths: Of all our runs, by the rule of the reference.
        ends: Of all our runs, by `first_phase_end`; infinite where it did not end.
    """

    experiment: str
    setting: str
    low: float
    high: float
    lengths: tuple[float, ...]
    ends: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of ours, by the rule of the reference."""
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
        deviation = "not ended"
        if math.isfinite(self.deviation):
            deviation = f"{self.deviation:+.0%}" if self.deviation else "inside"
        return [
            self.experiment,
            self.setting,
            _range(self.low, self.high),
            _steps(self.median),
            _range(min(self.lengths), max(self.lengths)),
            deviation,
            "yes" if self.agrees else "NO",
            _steps(statistics.median(self.ends)),
        ]


def compare(out: Path, reference: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Comparison]:
    """Every setting of the reference that has been trained into the folder of `reproduce`."""
    found = []
    for experiment, settings in reference.items():
        folder = out / experiment
        if not (folder / "verdict.json").is_file():
            continue
        runs = json.loads((folder / "verdict.json").read_text())["runs"]
        with (folder / "table.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        of_setting: dict[str, list[tuple[float, float]]] = {}
        for row, run in zip(rows, runs, strict=True):
            loss = RunDirectory(out / "runs" / run).read_train()["loss"]
            end = float(row["first_phase_end"] or math.inf)
            of_setting.setdefault(row["setting"], []).append((reference_length(loss), end))
        for setting, (low, high) in settings.items():
            if setting in of_setting:
                lengths, ends = zip(*of_setting[setting], strict=True)
                found.append(Comparison(experiment, setting, low, high, lengths, ends))
    return found


def out_of_order(comparisons: Sequence[Comparison]) -> list[str]:
    """Pairs of settings of one experiment that the reference has in the other order.

    Where the two ranges of the reference overlap, it has them in none.
    """
    return [
        f"{shorter.experiment}: {shorter.setting} and {longer.setting}"
        for shorter, longer in itertools.permutations(comparisons, 2)
        if shorter.experiment == longer.experiment
        and shorter.high < longer.low
        and shorter.median > longer.median
    ]


def markdown(comparisons: Iterable[Comparison]) -> list[str]:
    """The comparisons as a table."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    return lines + [f"| {' | '.join(one.cells())} |" for one in comparisons]


def _steps(length: float) -> str:
    return f"{length:.0f}" if math.isfinite(length) else "not ended"


def _range(low: float, high: float) -> str:
    return _steps(low) if low == high else f"{_steps(low)}-{_steps(high)}"
