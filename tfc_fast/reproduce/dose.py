"""Experiments that turn one knob: length of the first phase and collapse against its value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from tfc_fast import phases
from tfc_fast.phases.thresholds import MIN_RISE
from tfc_fast.report import style
from tfc_fast.reproduce.experiment import Experiment, Judgement, Setting
from tfc_fast.reproduce.measurement import Measurement, finite

__all__ = ["DOSES", "Dose", "Occurrence", "concordance"]

MOST_OF_THE_PAIRS = 0.9
"""Share of pairs of runs that must be in the claimed order."""


def concordance(lower: Sequence[float], upper: Sequence[float]) -> float:
    """Share of pairs (a of `lower`, b of `upper`) with a < b; those that are equal count half.

    The probability of superiority, an effect size: 1 if all runs of one setting are below all runs
    of the other, 0.5 if there is no difference. NaN without pairs.

    Example:
        >>> concordance([1, 2], [2, 3])
        0.875
    """
    pairs = list(itertools.product(lower, upper))
    if not pairs:
        return math.nan
    return sum((a < b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)


@dataclass(frozen=True)
class Dose(Experiment):
    """A knob that lengthens or shortens the first phase.

    The settings stand in the order of ascending value.

    Attributes:
        knob: What the value is, for the axis.
        longer: Whether a higher value is claimed to make the first phase longer; else shorter.
    """

    knob: str
    longer: bool

    @property
    def rule(self) -> str:
        """When the claim counts as holding."""
        return (
            f"Of all pairs of runs of neighbouring settings at least {MOST_OF_THE_PAIRS:.0%} are "
            f"in the claimed order of length ({'longer' if self.longer else 'shorter'} with the "
            "knob turned up), and so are the medians; a phase that did not end is the longest."
        )

    def judge(self, runs: Sequence[Measurement]) -> Judgement:
        """Judge the claim about the length; what the peaks do is told beside it."""
        groups = grouped(self.settings, runs)
        sign = 1 if self.longer else -1
        lengths = [[sign * run.length for run in group] for group in groups]
        neighbours = list(itertools.pairwise(lengths))
        shares = [concordance(lower, upper) for lower, upper in neighbours]
        in_order = all(np.median(lower) < np.median(upper) for lower, upper in neighbours)
        share = float(np.mean(shares))
        rises = [float(np.median([run.rise for run in group])) for group in groups]
        first, last = (float(np.median([run.length for run in groups[at]])) for at in (0, -1))
        ends = f"{groups[0][0].setting} and {groups[-1][0].setting}"
        word = "longer" if self.longer else "shorter"
        opposite = concordance(lengths[-1], lengths[0]) > 0.5
        evidence = [
            f"The first phase takes {_steps(first)} and {_steps(last)} at {ends} (medians).",
            f"{share:.0%} of the pairs of neighbouring settings are in the claimed order, "
            f"{word} as {self.knob} grows."
            + (" The opposite is the case." if opposite and not in_order else ""),
            "Features of different classes grow more alike by "
            + ", ".join(f"{rise:.3f}" for rise in rises)
            + " in the first phase, in the order of the settings (medians of the largest rise at a "
            "site).",
        ]
        return Judgement(
            holds=bool(in_order and share >= MOST_OF_THE_PAIRS),
            evidence=tuple(evidence),
            effect={
                "concordance": share,
                "median_length_first": finite(first),
                "median_length_last": finite(last),
                "ratio": finite(last / first),
            },
        )

    def figure(self, runs: Sequence[Measurement]) -> Figure:
        """Loss curves, and length and rise against the knob."""
        groups = grouped(self.settings, runs)
        figure = style.new_figure(11, 3.6)
        curves, lengths, rises = figure.subplots(1, 3, width_ratios=(1.5, 1, 1))
        draw_losses(curves, groups)
        style.dress(lengths, title="Length of the first phase", x=self.knob, y="steps")
        style.dress(rises, title="Rise of the similarity", x=self.knob, y="rise of the mean cosine")
        colors = style.site_colors(len(groups))
        longest = max(run.steps for run in runs)
        for at, (group, color) in enumerate(zip(groups, colors, strict=True)):
            for run in group:
                ended = math.isfinite(run.length)
                lengths.plot(
                    at,
                    run.length if ended else longest,
                    marker="o" if ended else "^",
                    color=color,
                    markersize=6,
                )
                rises.plot(at, run.rise, marker="o", color=color, markersize=6)
        lengths.set_yscale("log")
        lengths.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        lengths.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        lengths.yaxis.set_minor_formatter(NullFormatter())
        if any(math.isinf(run.length) for run in runs):
            lengths.set_title("Length (triangle: did not end)", loc="left", fontsize=10.5)
        for axes in (lengths, rises):
            axes.set_xticks(range(len(groups)), labels=[group[0].setting for group in groups])
            axes.set_xlim(-0.5, len(groups) - 0.5)
        return figure


@dataclass(frozen=True)
class Occurrence(Experiment):
    """Settings that all have a first phase in which features collapse."""

    @property
    def rule(self) -> str:
        """When the claim counts as holding."""
        return (
            "In every run the first phase ended and the mean cosine of features of different "
            f"classes rose by at least {MIN_RISE} in it (verdict collapsed)."
        )

    def judge(self, runs: Sequence[Measurement]) -> Judgement:
        """Judge whether it happens everywhere."""
        collapsed = [run.summary.verdict == "collapsed" for run in runs]
        groups = grouped(self.settings, runs)
        evidence = [
            f"{group[0].setting}: {_steps(float(np.median([run.length for run in group])))}, rise "
            f"{np.median([run.rise for run in group]):.3f}, collapsed in "
            f"{sum(run.summary.verdict == 'collapsed' for run in group)} of {len(group)} runs."
            for group in groups
        ]
        rises = [run.rise for run in runs if not math.isnan(run.rise)]
        return Judgement(
            holds=all(collapsed),
            evidence=tuple(evidence),
            effect={
                "share_collapsed": float(np.mean(collapsed)),
                "least_rise": min(rises) if rises else None,
            },
        )

    def figure(self, runs: Sequence[Measurement]) -> Figure:
        """Loss and similarity of each setting."""
        groups = grouped(self.settings, runs)
        figure = style.new_figure(11, 3.6)
        losses, cosines = figure.subplots(1, 2)
        draw_losses(losses, groups, relative=True)
        style.dress(
            cosines, title="Features of different classes, where most alike", y="mean cosine"
        )
        for group, color in zip(groups, style.site_colors(len(groups)), strict=True):
            for run in group:
                if run.site is not None:
                    steps, values = run.by_site("feature_cos_between")[run.site.site]
                    cosines.plot(steps, phases.smoothed_loss(values), color=color, linewidth=1)
        return figure


def grouped(settings: Sequence[Setting], runs: Sequence[Measurement]) -> list[list[Measurement]]:
    """The runs of each setting that has any, in the order of the settings."""
    groups = [[run for run in runs if run.setting == setting.label] for setting in settings]
    return [group for group in groups if group]


def draw_losses(
    axes: Axes, groups: Sequence[Sequence[Measurement]], *, relative: bool = False
) -> None:
    """Smoothed loss of every run, and a dot where its first phase ends."""
    what = "loss / loss at the start" if relative else "training loss (smoothed)"
    style.dress(axes, title="Loss; dots: end of the first phase", y=what)
    for group, color in zip(groups, style.site_colors(len(groups)), strict=True):
        for number, run in enumerate(group):
            steps, loss = run.log["step"], phases.smoothed_loss(run.log["loss"])
            if relative:
                loss = loss / loss[0]
            label = group[0].setting if number == 0 else None
            axes.plot(steps, loss, color=color, linewidth=1.1, label=label)
            end = run.summary.first_phase_end
            if end is not None:
                axes.plot(end, loss[np.searchsorted(steps, end)], "o", color=color, markersize=4)
    axes.legend(frameon=False, fontsize=8, labelcolor=style.INK)


def _steps(length: float) -> str:
    return f"{length:,.0f} steps" if math.isfinite(length) else "more steps than the runs have"


_BASE_STEPS = 1500

DOSES: tuple[Dose | Occurrence, ...] = (
    Dose(
        "depth",
        "Depth",
        "The more layers, the longer the first phase, until learning sticks (Figure 1a).",
        (
            Setting("3", 400, {"depth": 3}, 3),
            Setting("5", 700, {"depth": 5}, 5),
            Setting("7", _BASE_STEPS, {}, 7),
            Setting("8", 2600, {"depth": 8}, 8, quick=False),
            Setting("9", 4500, {"depth": 9}, 9, quick=False),
            Setting("11", 6000, {"depth": 11}, 11, quick=False),
        ),
        knob="number of linear layers",
        longer=True,
    ),
    Dose(
        "initialization",
        "Variance of the initial weights",
        "The larger the initial weights, the shorter the first phase.",
        (
            Setting("0.35", 2600, {"gain": 0.35}, 0.35),
            Setting("0.41", _BASE_STEPS, {}, 0.41),
            Setting("0.5", 800, {"gain": 0.5}, 0.5),
            Setting("0.7", 400, {"gain": 0.7}, 0.7),
        ),
        knob="initial weights, as a multiple of He's standard deviation",
        longer=False,
    ),
    Dose(
        "momentum",
        "Momentum",
        "Momentum shortens the first phase.",
        (
            Setting("0", _BASE_STEPS, {}, 0),
            Setting("0.5", 900, {"momentum": 0.5}, 0.5),
            Setting("0.9", 400, {"momentum": 0.9}, 0.9),
        ),
        knob="momentum",
        longer=False,
    ),
    Dose(
        "batch-norm",
        "Batch normalisation",
        "Batch normalisation shortens the first phase.",
        (
            Setting("without", _BASE_STEPS, {}, 0),
            Setting("with", 300, {"batch_norm": True}, 1),
        ),
        knob="batch normalisation before each ReLU",
        longer=False,
    ),
    Dose(
        "l2",
        "L2 regularisation",
        "L2 regularisation shortens the first phase.",
        (
            Setting("0", _BASE_STEPS, {}, 0),
            Setting("0.001", 2000, {"weight_decay": 0.001}, 0.001, quick=False),
            Setting("0.005", 2800, {"weight_decay": 0.005}, 0.005),
        ),
        knob="weight decay",
        longer=False,
    ),
    Dose(
        "difficulty",
        "Difficulty of the task",
        "The harder the task, the longer the first phase.",
        (
            Setting("0", _BASE_STEPS, {}, 0),
            Setting("0.3", 2000, {"label_noise": 0.3}, 0.3),
            Setting("0.6", 3500, {"label_noise": 0.6}, 0.6),
        ),
        knob="share of labels that are drawn at random",
        longer=True,
    ),
    Dose(
        "classes",
        "Number of classes",
        "The more classes, and so the harder the task, the longer the first phase.",
        (
            Setting("2", 700, {"classes": 2}, 2),
            Setting("5", 1000, {"classes": 5}, 5),
            Setting("10", _BASE_STEPS, {}, 10),
        ),
        knob="number of classes",
        longer=True,
    ),
    Occurrence(
        "learning-rates",
        "Learning rates",
        "Features collapse in the first phase at different learning rates.",
        (
            Setting("0.02", 3000, {"lr": 0.02}, 0.02),
            Setting("0.05", _BASE_STEPS, {}, 0.05),
            Setting("0.1", 800, {"lr": 0.1}, 0.1),
        ),
    ),
    Occurrence(
        "losses",
        "Loss functions",
        "Features collapse in the first phase with different loss functions.",
        (
            Setting("cross-entropy", _BASE_STEPS, {}, 0),
            Setting("mean squared error", 3000, {"loss": "mse"}, 1),
        ),
    ),
)
