"""The collapse in other networks than MLPs: VGG-11 and recurrent ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from tfc_fast import phases
from tfc_fast.phases.sites import running_mean
from tfc_fast.phases.thresholds import WINDOW
from tfc_fast.report import style
from tfc_fast.reproduce.dose import Occurrence, grouped
from tfc_fast.reproduce.experiment import Setting
from tfc_fast.reproduce.measurement import Measurement

__all__ = ["ARCHITECTURES", "Architectures"]


@dataclass(frozen=True)
class Architectures(Occurrence):
    """An occurrence in networks of different kinds, each with sites of its own."""

    def figure(self, runs: Sequence[Measurement]) -> Figure:
        """Loss and similarity of features at every site, in the first run of each network."""
        first = [group[0] for group in grouped(self.settings, runs)]
        figure = style.new_figure(max(3.3 * len(first), 6.6), 5.6)
        grid = figure.subplots(2, len(first), squeeze=False, sharex="col")
        for column, run in enumerate(first):
            loss, cosine = grid[:, column]
            end = run.summary.first_phase_end
            style.dress(loss, title=run.setting, x="", y="" if column else "training loss")
            style.dress(cosine, y="" if column else "mean cosine of features, between classes")
            for axes in (loss, cosine):
                style.step_axis(axes, 1, run.steps)
                style.mark_first_phase(axes, 1, run.steps, end, label=axes is loss)
            smoothed = phases.smoothed_loss(run.log["loss"])
            loss.plot(run.log["step"], smoothed, color=style.INK, linewidth=1.3)
            loss.set_ylim(0, 1.3 * float(smoothed.max()))
            sites = list(dict.fromkeys(run.records["site"].tolist()))
            for site, color in zip(sites, style.site_colors(len(sites)), strict=True):
                steps, values = run.at_site("feature_cos_between", site)
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
"""Of a size at which the first phase ends soon. Digits are scaled up to 32 x 32 pixels for VGG-11, and read row by row by the recurrent ones."""
