"""The collapse in other networks than MLPs: VGG-11 and recurrent ones."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from tfc_fast import phases
from tfc_fast.phases.sites import running_mean
from tfc_fast.phases.thresholds import WINDOW
from tfc_fast.report import style
from tfc_fast.reproduce.dose import Occurrence, grouped
from tfc_fast.reproduce.experiment import Judgement, Setting
from tfc_fast.reproduce.measurement import Measurement

__all__ = ["ARCHITECTURES", "Architectures"]


@dataclass(frozen=True)
class Architectures(Occurrence):
    """An occurrence in networks of different kinds, each with sites of its own."""

    def judge(self, runs: Sequence[Measurement]) -> Judgement:
        """Judge whether it happens everywhere; when features are most alike is told beside it."""
        judgement = super().judge(runs)
        shares = (
            f"{np.median([self._peak_share(run) for run in group]):.0%} at {group[0].setting}"
            for group in grouped(self.settings, runs)
        )
        told = "Of the first phase, features are most alike after " + ", ".join(shares) + "."
        return dataclasses.replace(judgement, evidence=(*judgement.evidence, told))

    @staticmethod
    def _peak_share(run: Measurement) -> float:
        """Where in the first phase the similarity has its peak, from 0 to 1."""
        peak = run.summary.peak_step
        return math.nan if peak is None else peak / (run.summary.first_phase_end or run.steps)

    def figure(self, runs: Sequence[Measurement]) -> Figure:
        """Loss and similarity of features at every site, in the first run of each network."""
        first = [group[0] for group in grouped(self.settings, runs)]
        figure = style.new_figure(max(3.3 * len(first), 6.6), 5.6)
        grid = figure.subplots(2, len(first), squeeze=False, sharex="col")
        for column, run in enumerate(first):
            loss, cosine = grid[:, column]
            end = run.summary.first_phase_end
            style.dress(loss, title=run.setting, x="", y="" if column else "training loss")
            style.dress(cosine, y="" if column else "cosine of features,\nbetween classes")
            for axes in (loss, cosine):
                style.step_axis(axes, 1, run.steps)
                style.mark_first_phase(axes, 1, run.steps, end)
            smoothed = phases.smoothed_loss(run.log["loss"])
            loss.plot(run.log["step"], smoothed, color=style.INK, linewidth=1.3)
            loss.set_ylim(0, 1.2 * float(smoothed.max()))
            told = "did not end" if end is None else f"ends at step {end:,}"
            loss.annotate(
                f"first phase {told}",
                xy=(0.03, 0.06),
                xycoords="axes fraction",
                fontsize=9,
                color=style.MUTED if end is None else style.END,
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
            )
            courses = run.by_site("feature_cos_between")
            colors = style.site_colors(len(courses))
            for (steps, values), color in zip(courses.values(), colors, strict=True):
                cosine.plot(steps, running_mean(values, WINDOW), color=color, linewidth=1.1)
        for axes in grid[1]:
            axes.set_ylim(-0.05, 1.02)
        figure.supxlabel(
            "one line per layer, from the input (dark) to the output (light)",
            fontsize=9,
            color=style.MUTED,
        )
        return figure


_VGG_11 = {"model": "vgg11", "width": 4, "gain": 0.5, "lr": 0.1}
_ROWS = {"sites": "recurrent.*", "width": 64}
_RNN = {**_ROWS, "model": "rnn", "depth": 5, "gain": 0.41}
# Without biases the states of an LSTM, on standardised rows, are as often negative as positive, and
# there is no direction in which they could grow alike.
_LSTM = {**_ROWS, "model": "lstm", "depth": 4, "gain": 0.2, "lr": 1.0, "bias": True}

ARCHITECTURES = Architectures(
    "architectures",
    "Architectures",
    "Features collapse in the first phase of convolutional and recurrent networks, too (Figure 2).",
    (
        Setting("MLP", 1500, {}, 0, quick=False),
        Setting("VGG-11", 450, _VGG_11, 1),
        Setting(
            "VGG-11, twice as wide", 900, {**_VGG_11, "width": 8, "gain": 0.45}, 2, quick=False
        ),
        Setting("RNN", 400, _RNN, 3),
        Setting("LSTM", 350, _LSTM, 4),
    ),
)
"""Of a size and with initial weights at which there is a first phase, and it ends soon. Images are
scaled up to 32 x 32 pixels for VGG-11; the recurrent networks read them row by row."""
