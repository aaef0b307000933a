"""How much of each weight update lies along one direction, in the first phase and after it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from tfc_fast.report import style
from tfc_fast.reproduce.experiment import Experiment, Judgement, Setting
from tfc_fast.reproduce.measurement import Measurement, finite, known_median, of_medians

__all__ = ["DIRECTIONS", "Directions"]

MOST, LESS = 0.5, 0.1
"""Share of an update in the first phase: more than all other directions have; its fall after it."""


@dataclass(frozen=True)
class Directions(Experiment):
    """Weight updates lie along one common direction in the first phase, and less so after it.

    Its runs have the observer `"update-shares"`.
    """

    @property
    def rule(self) -> str:
        """When the claim counts as holding."""
        return (
            "Share of a weight update that lies along its first singular direction: its first "
            "singular value squared, by the sum of all squared. In every run the first phase "
            f"ended, the median share over its steps and the hidden layers is at least {MOST}, and "
            f"that over the steps after it is lower by at least {LESS}."
        )

    def judge(self, runs: Sequence[Measurement]) -> Judgement:
        """Compare the steps of the first phase with those after it."""
        medians = [self.medians(run) for run in runs]
        in_phase = np.array([known_median(before[1:-1]) for before, _ in medians])
        after = np.array([known_median(later[1:-1]) for _, later in medians])
        held = (in_phase >= MOST) & (in_phase - after >= LESS)
        known = ~np.isnan(after)
        layers = runs[0].observed["layers"].tolist()
        by_layer = [
            [
                known_median(of_layer)
                for of_layer in zip(*(pair[at] for pair in medians), strict=True)
            ]
            for at in (0, 1)
        ]
        opposite = known.any() and np.all(after[known] > in_phase[known])
        evidence = (
            f"Along the first direction lie {_percent(known_median(in_phase))} of an update of a "
            f"hidden layer in the first phase and {_percent(known_median(after))} after it "
            f"({of_medians(after)}); as claimed in {held.sum()} of {len(runs)} runs."
            + (" After it the share is larger in all." if opposite else ""),
            "Within the first phase the share goes from {} in its first quarter to {} in "
            "its last (medians of the hidden layers).".format(*map(_percent, self._quarters(runs))),
            "Layer by layer, from the input, in and after the first phase: "
            + ", ".join(
                f"{name.removeprefix('hidden.').removesuffix('.linear')} "
                f"{_percent(in_phase_here)} and {_percent(after_here)}"
                for name, in_phase_here, after_here in zip(layers, *by_layer, strict=True)
            )
            + ". The first and the last one are not judged: one of their sides is the data or the "
            "classes.",
        )
        effect = {
            "share_first_phase": finite(known_median(in_phase)),
            "share_later": finite(known_median(after)),
            "difference": finite(known_median(in_phase - after)),
        }
        return Judgement(bool(held.all()), evidence, effect)

    def medians(self, run: Measurement) -> tuple[list[float], list[float]]:
        """Median share of each layer in the first phase and after it; NaN if it did not end."""
        steps, share = run.observed["steps"], run.observed["share"]
        before = steps < (run.summary.first_phase_end or math.inf)
        return (
            [known_median(of_layer) for of_layer in share[before].T],
            [known_median(of_layer) for of_layer in share[~before].T],
        )

    def _quarters(self, runs: Sequence[Measurement]) -> tuple[float, float]:
        """Median share in the first and the last quarter of the first phase."""
        ends: list[tuple[float, float]] = []
        for run in runs:
            before = run.observed["steps"] < (run.summary.first_phase_end or math.inf)
            share = run.observed["share"][before, 1:-1]
            quarter = max(1, len(share) // 4)
            ends.append((known_median(share[:quarter].flat), known_median(share[-quarter:].flat)))
        first, last = (known_median(at) for at in zip(*ends, strict=True))
        return first, last

    def figure(self, runs: Sequence[Measurement]) -> Figure:
        """Share at every layer over the steps of the first run; medians of all runs by layer."""
        run = runs[0]
        layers = run.observed["layers"].tolist()
        figure = style.new_figure(11, 3.9)
        course, medians = figure.subplots(1, 2, width_ratios=(1.7, 1))
        title = "Share of an update along its first direction"
        style.dress(course, title=title, y="share")
        style.step_axis(course, 1, run.steps)
        style.mark_first_phase(course, 1, run.steps, run.summary.first_phase_end, label=True)
        for at, color in enumerate(style.site_colors(len(layers))):
            course.plot(run.observed["steps"], run.observed["share"][:, at], color=color, lw=1.2)
        course.set_ylim(0, 1.15)
        style.dress(medians, title="Medians of each run", x="layer, from the input", y="share")
        for other in runs:
            for values, marker, color in zip(
                self.medians(other), "os", (style.END, style.INK), strict=True
            ):
                medians.plot(values, marker, color=color, markersize=5, alpha=0.7, fillstyle="none")
        for marker, color, label in (("o", style.END, "first phase"), ("s", style.INK, "later")):
            medians.plot([], [], marker, color=color, fillstyle="none", label=label)
        medians.legend(frameon=False, fontsize=8.5, labelcolor=style.INK, loc="lower left")
        medians.set_ylim(0, 1.15)
        medians.set_xticks(range(len(layers)), labels=[str(at + 1) for at in range(len(layers))])
        style.add_site_key(figure, [course, medians], layers)
        return figure


def _percent(share: float) -> str:
    return "nothing known" if math.isnan(share) else f"{share:.0%}"


DIRECTIONS = Directions(
    "directions",
    "Directions of weight updates",
    "In the first phase the weights of a layer are all moved along one common direction, after it "
    "along several.",
    (Setting("defaults", 1500, observer="update-shares"),),
)
