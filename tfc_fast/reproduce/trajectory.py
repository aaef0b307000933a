"""The way of a middle layer's features: different classes come together, and part again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from tfc_fast.reproduce.experiment import Experiment, Judgement, Setting
from tfc_fast.reproduce.measurement import Measurement, finite, known_median, of_medians
from tfc_fast.reproduce.trajectory_figure import Moments, trajectory_figure

__all__ = ["TRAJECTORY", "Trajectory", "Way", "moments", "salient_overlap"]

FACTOR = 1.5
"""By which the distance between classes must fall in the first phase, and rise after it."""


class Way(NamedTuple):
    """What the middle layer of one run was like at the start, where classes are nearest, and later.

    Attributes:
        distance: 1 less the mean cosine of the features of two samples of different classes; the
            last one is the largest after the first phase, NaN if it did not end.
        means_cosine: Mean cosine of the mean features of two classes, at the same steps.
        overlap: `salient_overlap`, at the same steps.
    """

    distance: tuple[float, float, float]
    means_cosine: tuple[float, float, float]
    overlap: tuple[float, float, float]


@dataclass(frozen=True)
class Trajectory(Experiment):
    """Classes that come together in the first phase and part after it.

    Its runs have the observer `"features"`.
    """

    @property
    def rule(self) -> str:
        """When the claim counts as holding."""
        return (
            "Distance: 1 less the mean cosine of the features of two samples of different classes, "
            "in the middle layer, on the same samples all the time. In every run the first phase "
            f"ended, the distance fell in it from that of the first step by a factor of {FACTOR:g} "
            f"at least, and rose after it to {FACTOR:g} times its smallest value at least."
        )

    def judge(self, runs: Sequence[Measurement]) -> Judgement:
        """Compare the distance at the start, in the first phase and after it."""
        ways = [self.way(run) for run in runs]
        distance = np.array([way.distance for way in ways])
        falls, rises = distance[:, 0] / distance[:, 1], distance[:, 2] / distance[:, 1]
        held = (falls >= FACTOR) & (rises >= FACTOR)
        middle, means, overlap = (
            [known_median(at) for at in zip(*(values[part] for values in ways), strict=True)]
            for part in range(3)
        )
        evidence = (
            f"The distance of samples of different classes goes from {_number(middle[0])} to "
            f"{_number(middle[1])} in the first phase, and to {_number(middle[2])} after it "
            f"({of_medians(distance[:, 2])}); "
            f"as claimed in {held.sum()} of {len(runs)} runs.",
            f"The mean cosine of the means of two classes goes from {_number(means[0])} to "
            f"{_number(means[1])} and to {_number(means[2])} (not judged).",
            f"Of the 10 most salient dimensions of a sample, one of another class shares "
            f"{_percent(overlap[0])} at the first step, {_percent(overlap[1])} where classes are "
            f"nearest, and {_percent(overlap[2])} after it.",
        )
        effect = {
            "distance_start": finite(middle[0]),
            "distance_nearest": finite(middle[1]),
            "distance_later": finite(middle[2]),
            "fall_factor": finite(known_median(falls)),
            "rise_factor": finite(known_median(rises)),
        }
        return Judgement(bool(held.all()), evidence, effect)

    def way(self, run: Measurement) -> Way:
        """The middle layer of a run at three moments."""
        seen, at = run.observed, moments(run)
        layer, labels = int(seen["layer"]), seen["labels"]

        def three(values: Sequence[float]) -> tuple[float, float, float]:
            return values[0], values[1], values[2] if len(values) > 2 else math.nan

        steps = [at.start, at.nearest] + ([] if at.apart is None else [at.apart])
        return Way(
            three([1 - float(seen["between"][step, layer]) for step in steps]),
            three([float(seen["means_cosine"][step, layer]) for step in steps]),
            three([salient_overlap(seen["samples"][step], labels) for step in steps]),
        )

    def figure(self, runs: Sequence[Measurement]) -> Figure:
        """Salient dimensions over the steps, cosines, projection, all layers; of the first run."""
        return trajectory_figure(runs[0], moments(runs[0]))


def moments(run: Measurement) -> Moments:
    """Which of the observations are those of the start, of the nearest classes, and so on."""
    steps = run.observed["steps"]
    between = run.observed["between"][:, int(run.observed["layer"])]
    end = run.summary.first_phase_end
    split = len(steps) if end is None else max(1, int(np.searchsorted(steps, end)))
    # What diverged is neither near nor apart.
    known = np.flatnonzero(~np.isnan(between))
    before, after = known[known < split], known[known >= split]
    return Moments(
        start=0,
        nearest=int(before[between[before].argmax()]) if before.size else 0,
        end=split if split < len(steps) else None,
        apart=int(after[between[after].argmin()]) if after.size else None,
    )


def salient_overlap(features: npt.ArrayLike, labels: npt.ArrayLike, count: int = 10) -> float:
    """Share of the `count` largest dimensions of a sample that one of another class has, too.

    Args:
        features: `[n, d]`.
        labels: Class of each sample, `[n]`; at least two classes.
        count: How many dimensions of a sample are its salient ones.

    Returns:
        Mean over all pairs of samples of different classes, from 0 to 1.

    Example:
        >>> salient_overlap([[3, 2, 0, 0], [2, 0, 3, 0]], [0, 1], 2)
        0.5
    """
    values, classes = np.asarray(features, np.float64), np.asarray(labels)
    largest = np.argsort(-values, axis=1, kind="stable")[:, :count]
    salient = np.zeros(values.shape)
    np.put_along_axis(salient, largest, 1.0, axis=1)
    shared = salient @ salient.T / largest.shape[1]
    return float(shared[classes[:, None] != classes[None]].mean())


def _number(value: float) -> str:
    return "nothing known" if math.isnan(value) else f"{value:.3f}"


def _percent(value: float) -> str:
    return "nothing known" if math.isnan(value) else f"{value:.0%}"


TRAJECTORY = Trajectory(
    "trajectory",
    "The way of the features",
    "In a middle layer of an MLP of 9 layers the features of different classes come together by "
    "the end of the first phase, and part after it (Figure 1b).",
    (Setting("9 layers", 4000, {"depth": 9}, observer="features"),),
)
