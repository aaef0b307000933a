"""The way of a middle layer's features: the means of the classes come together, and part again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from tfc_fast.reproduce.experiment import Judgement, Setting
from tfc_fast.reproduce.measurement import Measurement, finite
from tfc_fast.reproduce.trajectory_figure import trajectory_figure

__all__ = ["TRAJECTORY", "Trajectory", "Way", "salient_overlap"]

NEARER, APART = 2.0, 2.0
"""By which factors the relative spread must fall in the first phase, and rise after it."""

FloatArray = npt.NDArray[np.float64]


class Way(NamedTuple):
    """Relative spread of the class means of one run, at three times.

    Attributes:
        start: At the first step.
        nearest: Smallest in the first phase.
        later: Largest after it; NaN if it did not end.
        cosine_start: Mean cosine of the means of two classes at the first step.
        cosine_nearest: The same where the spread is smallest.
        cosine_later: The same where it is largest after the first phase.
    """

    start: float
    nearest: float
    later: float
    cosine_start: float
    cosine_nearest: float
    cosine_later: float


@dataclass(frozen=True)
class Trajectory:
    """Classes that come together in the first phase and part after it.

    Attributes:
        name, title, claim, settings: As in `Experiment`; its runs have the observer
            `"class-means"`.
    """

    name: str
    title: str
    claim: str
    settings: tuple[Setting, ...]

    @property
    def rule(self) -> str:
        """When the claim counts as holding."""
        return (
            "Spread: root mean square distance of the mean features of the classes from their "
            "mean, by the norm of that, in the middle layer. In every run the first phase ended, "
            f"the spread fell in it at least by a factor of {NEARER:g} below that of the first "
            f"step, and it rose after it to at least {APART:g} times its smallest value."
        )

    def judge(self, runs: Sequence[Measurement]) -> Judgement:
        """Compare the spread at the start, in the first phase and after it."""
        ways = [self.way(run) for run in runs]
        held = [
            way.start >= NEARER * way.nearest and way.later >= APART * way.nearest for way in ways
        ]
        middle = Way(*(float(np.median(column)) for column in zip(*ways, strict=True)))
        overlaps = np.median([self._overlaps(run) for run in runs], axis=0)
        evidence = (
            f"The spread between class means goes from {middle.start:.3f} to {middle.nearest:.3f} "
            f"in the first phase, and to {_number(middle.later)} after it (medians); as claimed in "
            f"{sum(held)} of {len(runs)} runs.",
            f"The mean cosine of the means of two classes goes from {middle.cosine_start:.3f} to "
            f"{middle.cosine_nearest:.4f} and to {_number(middle.cosine_later)}.",
            f"Of the 10 most salient dimensions of a class, another class shares {overlaps[0]:.0%} "
            f"at the first step, {overlaps[1]:.0%} where the spread is smallest, and "
            f"{overlaps[2]:.0%} at the end of the run.",
        )
        effect = {
            "spread_start": finite(middle.start),
            "spread_nearest": finite(middle.nearest),
            "spread_later": finite(middle.later),
            "fall_factor": finite(middle.start / middle.nearest),
            "rise_factor": finite(middle.later / middle.nearest),
            "cosine_nearest": finite(middle.cosine_nearest),
        }
        return Judgement(all(held), evidence, effect)

    def way(self, run: Measurement) -> Way:
        """The spread of the class means in the middle layer of a run, and their cosine."""
        layer, split = int(run.observed["layer"]), self._split(run)
        spread, cosine = run.observed["spread"][:, layer], run.observed["cosine"][:, layer]
        nearest = int(spread[:split].argmin())
        later = split + int(spread[split:].argmax()) if split < len(spread) else None
        return Way(
            float(spread[0]),
            float(spread[nearest]),
            math.nan if later is None else float(spread[later]),
            float(cosine[0]),
            float(cosine[nearest]),
            math.nan if later is None else float(cosine[later]),
        )

    def _split(self, run: Measurement) -> int:
        """Number of observations in the first phase; there is one at the first step."""
        end = run.summary.first_phase_end
        steps = run.observed["steps"]
        return len(steps) if end is None else max(1, int(np.searchsorted(steps, end)))

    def _overlaps(self, run: Measurement) -> tuple[float, float, float]:
        layer, means = int(run.observed["layer"]), run.observed["means"]
        nearest = int(run.observed["spread"][: self._split(run), layer].argmin())
        start, near, end = (salient_overlap(means[at]) for at in (0, nearest, -1))
        return start, near, end

    def figure(self, runs: Sequence[Measurement]) -> Figure:
        """Salient dimensions of each class over the steps, spread, projection, all layers."""
        return trajectory_figure(runs[0], self._split(runs[0]))


def salient_overlap(means: npt.ArrayLike, count: int = 10) -> float:
    """Share of the `count` largest dimensions of a class that another class has among its own.

    Args:
        means: Mean feature of each class, `[classes, d]`.
        count: How many dimensions of a class are its salient ones.

    Returns:
        Mean over all pairs of classes, from 0 to 1.

    Example:
        >>> salient_overlap([[3, 2, 0, 0], [2, 0, 3, 0]], 2)
        0.5
    """
    values = np.asarray(means, np.float64)
    largest = np.argsort(-values, axis=1, kind="stable")[:, :count]
    salient = np.zeros(values.shape)
    np.put_along_axis(salient, largest, 1.0, axis=1)
    shared = salient @ salient.T / largest.shape[1]
    classes = len(values)
    return float((shared.sum() - np.trace(shared)) / (classes * (classes - 1)))


def _number(value: float) -> str:
    return "nothing known" if math.isnan(value) else f"{value:.3f}"


TRAJECTORY = Trajectory(
    "trajectory",
    "The way of the features",
    "In a middle layer of an MLP of 9 layers the features of different classes come together by "
    "the end of the first phase, and part after it (Figure 1b).",
    (Setting("9 layers", 4000, {"depth": 9}, observer="class-means"),),
)
