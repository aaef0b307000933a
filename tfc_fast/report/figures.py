"""The figures of a run; each takes arrays and returns a matplotlib `Figure`.

Steps are put into bins first (`bins.bin_records`), so a run of a million records draws as fast as a
short one. A quantity that was not measured is left out; a figure without any quantity is None.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tfc_fast.phases import smoothed_loss
from tfc_fast.phases.thresholds import DECAY
from tfc_fast.report import style
from tfc_fast.report.bins import Band, BinnedRecords, bin_records

_GATE_PANELS = (
    ("active_rate", "Open gates"),
    ("gate_agreement_within", "Agreement within classes"),
    ("gate_agreement_between", "Agreement between classes"),
    ("gate_agreement_all", "Agreement, all pairs"),
    ("dead_frac", "Dead in the step"),
    ("dead_window_frac", "Dead in the window"),
)


def loss_figure(
    steps: npt.ArrayLike,
    loss: npt.ArrayLike,
    *,
    first_phase_end: int | None = None,
    has_first_phase: bool = True,
    chance_loss: float | None = None,
    decay: float = DECAY,
) -> Figure | None:
    """The loss of every step, its exponential average, and the first phase.

    Args:
        steps: step of each loss, increasing, `[n]`.
        loss: losses, `[n]`; gaps where they are not finite.
        first_phase_end: first step after the first phase; None if it never ended.
        has_first_phase: whether to show a first phase; else there was none, or it is not known.
        chance_loss: level to draw as chance level; None for none.
        decay: of the exponential average.

    Returns:
        The figure; None if no loss is finite.

    Example:
        >>> loss_figure([0, 1, 2], [2.3, 2.2, 1.0], first_phase_end=2).axes[0].get_ylabel()
        'training loss'
    """
    values = np.asarray(loss, np.float64)
    if not np.isfinite(values).any():
        return None
    binned = bin_records(
        {
            "step": np.asarray(steps),
            "site": np.full(values.size, ""),
            "loss": values,
            "average": smoothed_loss(values, decay),
        }
    )
    raw, average = binned.band("loss"), binned.band("average")
    assert raw is not None and average is not None  # noqa: PT018 - finite values were found
    figure = style.new_figure(11, 3.7)
    axes = figure.subplots()
    style.dress(axes, title="Training loss", y="training loss")
    _frame(axes, binned, first_phase_end, has_first_phase, label=True)
    marker = "o" if binned.steps.size == 1 else ""
    color = "#7fa8d1"
    axes.fill_between(binned.steps, raw.low[0], raw.high[0], color=color, alpha=0.35, linewidth=0)
    axes.plot(binned.steps, raw.mean[0], color=color, linewidth=0.9, label="loss of the step")
    axes.plot(
        binned.steps,
        average.mean[0],
        color="#123a63",
        linewidth=1.8,
        marker=marker,
        label=f"exponential average (decay {decay:g})",
    )
    if chance_loss is not None:
        axes.axhline(chance_loss, color=style.MUTED, linewidth=1, linestyle=":", label="chance")
    _limit_loss_axis(axes, raw, chance_loss)
    axes.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=3,
        borderaxespad=0.2,
        frameon=False,
        fontsize=8.5,
        labelcolor=style.INK,
    )
    return figure


def similarity_figure(
    binned: BinnedRecords,
    quantity: Literal["feature", "grad"],
    *,
    first_phase_end: int | None = None,
    has_first_phase: bool = True,
) -> Figure | None:
    """Mean cosine within and between classes at every site, over the steps.

    Args:
        binned: the records.
        quantity: `"feature"`, or `"grad"` for the gradients with respect to the features.
        first_phase_end: first step after the first phase; None if it never ended.
        has_first_phase: whether to show a first phase; else there was none, or it is not known.

    Returns:
        The figure, one panel per kind of pairs; all pairs together if there were no class labels.
        None if the quantity was not measured.
    """
    word = "features" if quantity == "feature" else "gradients"
    panels = [
        (f"{quantity}_cos_within", f"{word.capitalize()}, within classes"),
        (f"{quantity}_cos_between", f"{word.capitalize()}, between classes"),
    ]
    found = _measured(binned, panels)
    if not found:
        found = _measured(binned, [(f"{quantity}_cos_all", f"{word.capitalize()}, all pairs")])
    return _panels(binned, found, first_phase_end, has_first_phase, y="mean cosine", columns=2)


def gates_figure(
    binned: BinnedRecords, *, first_phase_end: int | None = None, has_first_phase: bool = True
) -> Figure | None:
    """State of the gates at every site, over the steps: active, in agreement, dead.

    Args:
        binned: the records.
        first_phase_end: first step after the first phase; None if it never ended.
        has_first_phase: whether to show a first phase; else there was none, or it is not known.

    Returns:
        The figure; None if no gates were measured.
    """
    found = _measured(binned, _GATE_PANELS)
    names = [name for name, _, _ in found]
    if "gate_agreement_within" in names or "gate_agreement_between" in names:
        found = [panel for panel in found if panel[0] != "gate_agreement_all"]
    return _panels(
        binned, found, first_phase_end, has_first_phase, y="fraction", columns=3, unit_range=True
    )


def heatmap_figure(binned: BinnedRecords, *, first_phase_end: int | None = None) -> Figure | None:
    """Feature similarity between classes and gradient similarity within them: site x step.

    Args:
        binned: the records.
        first_phase_end: first step after the first phase; None if it never ended.

    Returns:
        The figure; all pairs together if there were no class labels. None if neither was measured.
    """
    found = []
    for quantity, pairs, title in (
        ("feature", "between", "Features, between classes"),
        ("grad", "within", "Gradients, within classes"),
    ):
        word = title.partition(",")[0]
        found += _measured(binned, [(f"{quantity}_cos_{pairs}", title)]) or _measured(
            binned, [(f"{quantity}_cos_all", f"{word}, all pairs")]
        )
    if not found:
        return None
    count = len(binned.sites)
    figure = style.new_figure(11, len(found) * (1.5 + 0.26 * min(count, 16)) + 0.3)
    grid = figure.subplots(len(found), 1, sharex=True, squeeze=False)
    ticks = np.unique(np.linspace(0, count - 1, min(count, 16)).round().astype(int))
    for axes, (_, title, band) in zip(grid[:, 0], found, strict=True):
        last = axes is grid[-1, 0]
        style.dress(axes, title=title, x="step" if last else "", y="site (input on top)")
        axes.grid(visible=False)
        rows = np.arange(count + 1) - 0.5
        mesh = axes.pcolormesh(binned.edges, rows, band.mean, cmap="viridis", rasterized=True)
        axes.set_ylim(count - 0.5, -0.5)
        names = [style.short_name(binned.sites[at]) for at in ticks]
        axes.set_yticks(ticks, labels=names, parse_math=False)
        style.step_axis(axes, float(binned.edges[0]), float(binned.edges[-1]))
        if first_phase_end is not None:
            axes.axvline(first_phase_end, color="white", linewidth=2.4)
            axes.axvline(first_phase_end, color=style.END, linewidth=1.2, linestyle=(0, (4, 2)))
        bar = figure.colorbar(mesh, ax=axes, pad=0.01, aspect=12)
        bar.set_label("mean cosine", fontsize=9, color=style.INK)
        bar.ax.tick_params(labelsize=8)
    return figure


def _measured(
    binned: BinnedRecords, panels: list[tuple[str, str]] | tuple[tuple[str, str], ...]
) -> list[tuple[str, str, Band]]:
    bands = ((column, title, binned.band(column)) for column, title in panels)
    return [(column, title, band) for column, title, band in bands if band is not None]


def _panels(
    binned: BinnedRecords,
    found: list[tuple[str, str, Band]],
    first_phase_end: int | None,
    has_first_phase: bool,
    *,
    y: str,
    columns: int,
    unit_range: bool = False,
) -> Figure | None:
    """One panel per column with a line per site, all on the same axes."""
    if not found:
        return None
    columns = 2 if len(found) == 4 else min(columns, len(found))
    rows = -(-len(found) // columns)
    figure = style.new_figure(11, 0.6 + 2.9 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    panels = list(grid.ravel())
    for axes in panels[len(found) :]:
        axes.remove()
    for index, (axes, (_, title, band)) in enumerate(zip(panels, found, strict=False)):
        lowest = index + columns >= len(found)
        style.dress(
            axes, title=title, x="step" if lowest else "", y=y if index % columns == 0 else ""
        )
        axes.tick_params(labelbottom=lowest)
        _frame(axes, binned, first_phase_end, has_first_phase)
        style.draw_bands(axes, binned.steps, band)
        if unit_range:
            axes.set_ylim(-0.03, 1.03)
    style.add_site_key(figure, panels[: len(found)], binned.sites)
    return figure


def _frame(
    axes: Axes, binned: BinnedRecords, end: int | None, shaded: bool, *, label: bool = False
) -> None:
    first, last = float(binned.edges[0]), float(binned.lasts[-1])
    style.step_axis(axes, first, last)
    if shaded:
        style.mark_first_phase(axes, first, last, end, label=label)


def _limit_loss_axis(axes: Axes, raw: Band, chance_loss: float | None) -> None:
    """Keep spikes from pressing the curve flat, and noise on a flat curve from looking large."""
    levels = [] if chance_loss is None else [chance_loss]
    low = min(float(np.nanmin(raw.low)), *levels, np.inf)
    high = max(float(np.nanmax(raw.high)), *levels, -np.inf)
    usual = max(_highest_level(raw.high[0]), *levels, -np.inf)
    if high - low > 3.0 * (usual - low) > 0.0:
        axes.set_ylabel(f"training loss (spikes up to {high:.3g} cut off)")
        high = low + 1.5 * (usual - low)
    # At least as high as the fall that would end the first phase; never without any height.
    missing = max(0.25 * max(abs(low), abs(high)) - (high - low), 0.0)
    missing = missing or float(high == low)
    low, high = low - 0.5 * missing, high + 0.5 * missing
    # Above the curve is room for the label of the first phase.
    axes.set_ylim(low - 0.04 * (high - low), high + 0.15 * (high - low))
    axes.ticklabel_format(axis="y", useOffset=False)


def _highest_level(values: npt.NDArray[np.float64], bins: int = 5) -> float:
    """Largest value at the start, or held for some bins: a spike is shorter."""
    known = values[np.isfinite(values)]
    windows = np.lib.stride_tricks.sliding_window_view(known, min(bins, known.size))
    return max(float(known[0]), float(windows.min(axis=1).max()))
