"""The picture of the way of a middle layer's features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from tfc_fast.report import style
from tfc_fast.reproduce.measurement import Measurement

__all__ = ["Moments", "projection", "trajectory_figure"]

_SHOWN = 10


class Moments(NamedTuple):
    """Numbers of observations of a run.

    Attributes:
        start: The first.
        nearest: That at which classes are nearest in the first phase.
        end: First one after the first phase; None if it did not end.
        apart: That at which they are farthest from each other after it; None likewise.
    """

    start: int
    nearest: int
    end: int | None
    apart: int | None


def trajectory_figure(run: Measurement, at: Moments) -> Figure:
    """Salient dimensions over the steps, cosines, projection, all layers.

    Args:
        run: A run with the observer `"features"`.
        at: The moments that are shown.
    """
    figure = style.new_figure(11, 10)
    parts = figure.subfigures(3, 1, squeeze=False, height_ratios=(3.6, 3.4, 3))
    top, middle, bottom = parts[:, 0]
    _draw_salient(top, run, at)
    cosines, plane = middle.subplots(1, 2, width_ratios=(1.2, 1))
    _draw_cosines(cosines, run)
    _draw_projection(plane, run, at)
    _draw_layers(bottom, run)
    return figure


def projection(points: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Coordinates along the first two principal components, `[..., 2]`, of points `[..., d]`."""
    flat = points.reshape(-1, points.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(0)
    _, _, axes = np.linalg.svd(flat, full_matrices=False)
    coordinates: npt.NDArray[np.float64] = (flat @ axes[:2].T).reshape(*points.shape[:-1], 2)
    return coordinates


def _draw_salient(part: SubFigure, run: Measurement, at: Moments) -> None:
    """Samples x dimensions at up to five steps, each sample by its own largest value."""
    steps, samples, labels = (run.observed[name] for name in ("steps", "samples", "labels"))
    words = {at.start: "start", at.nearest: "nearest", at.end: "end of phase", at.apart: "apart"}
    shown = sorted({0, at.nearest // 2, *(each for each in words if each is not None)})
    # The dimensions that are largest by their mean rank over samples, where these are nearest.
    ranks = samples[at.nearest].argsort(axis=1).argsort(axis=1).mean(axis=0)
    dimensions = np.argsort(-ranks, kind="stable")[:_SHOWN]
    panels = part.subplots(1, len(shown), squeeze=False)[0]
    classes, first = np.unique(labels, return_index=True)
    edges = np.append(first, len(labels))
    for axes, moment in zip(panels, shown, strict=True):
        values = samples[moment][:, dimensions].astype(np.float64)
        values = values / np.maximum(values.max(axis=1, keepdims=True), 1e-30)
        word = f" ({words[moment]})" if moment in words else ""
        style.dress(
            axes,
            title=f"{steps[moment]:,}{word}",
            x="salient dimension",
            y="sample, by class" if axes is panels[0] else "",
        )
        axes.grid(visible=False)
        image = axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        for edge in edges[1:-1]:
            axes.axhline(edge - 0.5, color="white", linewidth=1.2)
        axes.set_xticks(range(len(dimensions)), labels=[str(n + 1) for n in range(len(dimensions))])
        axes.set_yticks((edges[:-1] + edges[1:] - 1) / 2, labels=[str(c) for c in classes])
        axes.tick_params(labelsize=7.5, length=0, labelleft=axes is panels[0])
    part.suptitle(
        "The 10 most salient dimensions of a middle layer, step by step",
        fontsize=10.5,
        color=style.INK,
        fontweight="bold",
        x=0.01,
        ha="left",
    )
    bar = part.colorbar(image, ax=list(panels), pad=0.01, aspect=16)
    bar.set_label("feature / largest of the sample", fontsize=8.5, color=style.INK)
    bar.ax.tick_params(labelsize=8)


def _draw_cosines(axes: Axes, run: Measurement) -> None:
    layer = int(run.observed["layer"])
    style.dress(axes, title="Cosines in the middle layer", y="mean cosine")
    style.step_axis(axes, 1, run.steps)
    style.mark_first_phase(axes, 1, run.steps, run.summary.first_phase_end, label=True)
    for column, label, color, line in (
        ("between", "samples of different classes", style.INK, "-"),
        ("within", "samples of the same class", "#3f8f6b", "-"),
        ("means_cosine", "means of two classes", "#7fa8d1", "--"),
    ):
        values = run.observed[column][:, layer]
        axes.plot(run.observed["steps"], values, line, color=color, linewidth=1.4, label=label)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.14 * (high - low))
    axes.legend(frameon=False, fontsize=8.5, labelcolor=style.INK, loc="lower left")


def _draw_projection(axes: Axes, run: Measurement, at: Moments) -> None:
    means = run.observed["means"]
    # Their directions: features grow much after the first phase, which would hide all before.
    unit = means / np.maximum(np.linalg.norm(means, axis=-1, keepdims=True), 1e-30)
    known = np.flatnonzero(np.isfinite(unit).all(axis=(1, 2)))
    points = np.full((*unit.shape[:2], 2), np.nan)
    if known.size:
        points[known] = projection(unit[known])
    style.dress(
        axes,
        title="Class means over the steps (PCA of unit vectors)",
        x="first component",
        y="second component",
    )
    for number, color in enumerate(colormaps["tab10"](np.arange(points.shape[1]) % 10)):
        way = points[:, number]
        last = way[known[-1]] if known.size else way[-1]
        axes.plot(*way.T, color=color, linewidth=0.9, alpha=0.55)
        axes.plot(*way[0], "o", color=color, markersize=6, fillstyle="none")
        axes.plot(*way[at.nearest], "*", color=color, markersize=7)
        axes.plot(*last, "s", color=color, markersize=9)
        axes.annotate(
            str(number), last, fontsize=7, color="white", ha="center", va="center", zorder=5
        )
    for marker, label in (("o", "start"), ("*", "nearest"), ("s", "end of the run, class")):
        fill = "none" if marker == "o" else "full"
        axes.plot([], [], marker, color=style.MUTED, fillstyle=fill, label=label)
    axes.legend(frameon=False, fontsize=8.5, labelcolor=style.INK, loc="best")


def _draw_layers(part: SubFigure, run: Measurement) -> None:
    steps, cosine = run.observed["steps"], run.observed["between"]
    axes = part.subplots()
    style.dress(
        axes,
        title="Mean cosine of samples of different classes, every layer",
        y="layer (input on top)",
    )
    axes.grid(visible=False)
    edges = np.append(steps, run.steps)
    rows = np.arange(cosine.shape[1] + 1) + 0.5
    mesh = axes.pcolormesh(edges, rows, cosine.T, cmap="viridis", rasterized=True)
    axes.set_ylim(rows[-1], rows[0])
    axes.set_yticks(range(1, cosine.shape[1] + 1))
    style.step_axis(axes, 1, run.steps)
    end = run.summary.first_phase_end
    if end is not None:
        axes.axvline(end, color="white", linewidth=2.4)
        axes.axvline(end, color=style.END, linewidth=1.2, linestyle=(0, (4, 2)))
    bar = part.colorbar(mesh, ax=axes, pad=0.01, aspect=14)
    bar.set_label("mean cosine", fontsize=9, color=style.INK)
    bar.ax.tick_params(labelsize=8)
