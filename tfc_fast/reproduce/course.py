"""Experiments that look at one setting: what rises in the first phase and falls after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfc_fast.phases.sites import running_mean
from tfc_fast.phases.thresholds import MIN_RISE, WINDOW
from tfc_fast.report import style
from tfc_fast.reproduce.experiment import Experiment, Judgement, Setting
from tfc_fast.reproduce.measurement import Measurement, finite, known_median, of_medians

__all__ = ["COURSES", "Course", "Rising"]

FALLS, EXCEEDS = 0.5, 0.25
"""Parts of the rise: how far a quantity must fall after the first phase, and may still rise."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rising:
    """How one quantity went at the site where it rose most.

    Attributes:
        rise: From the start to the largest value in the first phase.
        fall: From there to the smallest value after it.
        later: Largest value after the first phase, less that in it: above 0 if it rose beyond.
    """

    rise: float
    fall: float
    later: float


@dataclass(frozen=True)
class Course(Experiment):
    """Quantities that rise in the first phase and at no other time.

    Attributes:
        columns: The quantities, column to words.
        beside: Others that are told and shown, and not judged.
    """

    columns: dict[str, str]
    beside: dict[str, str]

    @property
    def rule(self) -> str:
        """When the claim counts as holding."""
        return (
            f"In every run each of {', '.join(self.columns.values())} rises by at least {MIN_RISE} "
            f"in the first phase at some site (running means over {WINDOW} steps); after it, it "
            f"falls by at least {FALLS:.0%} of that rise from its peak there, and does not exceed "
            f"the peak by more than {EXCEEDS:.0%} of it."
        )

    def judge(self, runs: Sequence[Measurement]) -> Judgement:
        """Judge each quantity in each run."""
        evidence: list[str] = []
        effect: dict[str, float | None] = {}
        holds = True
        for column, words in (self.columns | self.beside).items():
            found = [self.rising(run, column) for run in runs]
            rose = [course.rise >= MIN_RISE for course in found]
            only = [
                course.later <= EXCEEDS * course.rise and course.fall >= FALLS * course.rise
                for course in found
            ]
            if column in self.columns:
                holds &= all(rose) and all(only)
            falls = [course.fall for course in found]
            rise, fall = known_median(course.rise for course in found), known_median(falls)
            effect |= {f"rise_{column}": finite(rise), f"fall_{column}": finite(fall)}
            both = sum(map(all, zip(rose, only, strict=True)))
            evidence.append(
                f"{words.capitalize()}: up by {rise:.3f} in the first phase, then "
                f"{_down(fall)} ({of_medians(falls)}); rise in {sum(rose)} and rise only there in "
                f"{both} of {len(found)} runs"
                + ("." if column in self.columns else " (not judged).")
            )
        return Judgement(holds, tuple(evidence), effect)

    def rising(self, run: Measurement, column: str) -> Rising:
        """The course of a quantity at the site where it rose most in the first phase."""
        courses = [
            self._course(steps, values, run.summary.first_phase_end)
            for steps, values in run.by_site(column).values()
        ]
        return max(
            courses, key=lambda course: -math.inf if math.isnan(course.rise) else course.rise
        )

    def _course(self, steps: npt.NDArray[np.int64], values: FloatArray, end: int | None) -> Rising:
        split = len(steps) if end is None else int(np.searchsorted(steps, end))
        before, after = (
            part[~np.isnan(part)]
            for part in (running_mean(values[:split], WINDOW), running_mean(values[split:], WINDOW))
        )
        if not before.size:
            return Rising(math.nan, math.nan, math.nan)
        peak = float(before.max())
        if not after.size:
            return Rising(peak - float(before[0]), math.nan, math.nan)
        return Rising(peak - float(before[0]), peak - float(after.min()), float(after.max()) - peak)

    def figure(self, runs: Sequence[Measurement]) -> Figure:
        """Every quantity at every site in the first run, and the end of the first phase."""
        run, shown = runs[0], self.columns | self.beside
        rows = -(-len(shown) // 2)
        figure = style.new_figure(11, 0.6 + 2.9 * rows)
        panels: list[Axes] = list(figure.subplots(rows, 2, squeeze=False).ravel())
        for number, (column, words) in enumerate(shown.items()):
            axes = panels[number]
            style.dress(axes, title=words.capitalize(), y="mean")
            end = run.summary.first_phase_end
            style.mark_first_phase(axes, 1, run.steps, end, label=number == 0)
            courses = run.by_site(column)
            colors = style.site_colors(len(courses))
            for (steps, values), color in zip(courses.values(), colors, strict=True):
                axes.plot(steps, running_mean(values, WINDOW), color=color, linewidth=1.1)
        for axes in panels[len(shown) :]:
            axes.remove()
        style.add_site_key(figure, panels[: len(shown)], list(courses))
        return figure


def _down(fall: float) -> str:
    return "nothing known" if math.isnan(fall) else f"down by {fall:.3f}"


_DEFAULTS = (Setting("defaults", 1500),)

COURSES: tuple[Course, ...] = (
    Course(
        "similarity",
        "Similarity of features and gradients",
        "Features of different samples, and gradients with respect to them, grow more and more "
        "alike in the first phase, and only there.",
        _DEFAULTS,
        columns={
            "feature_cos_between": "features between classes",
            "grad_cos_within": "gradients within classes",
        },
        beside={
            "feature_cos_within": "features within classes",
            "grad_cos_between": "gradients between classes",
        },
    ),
    Course(
        "gates",
        "Gating patterns",
        "Gating patterns of different samples grow more and more alike in the first phase, as the "
        "features do.",
        _DEFAULTS,
        columns={
            "gate_agreement_between": "agreement of gates between classes",
            "feature_cos_between": "features between classes",
        },
        beside={
            "gate_agreement_within": "agreement of gates within classes",
            "feature_cos_within": "features within classes",
        },
    ),
)
