"""The picture of the way of a middle layer's features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure

from tfc_fast.report import style
from tfc_fast.reproduce.measurement import Measurement

__all__ = ["projection", "trajectory_figure"]

_SHOWN = 10


def trajectory_figure(run: Measurement, split: int) -> Figure:
    """Salient dimensions of each class over the steps, spread, projection, all layers.

    Args:
        run: A run with the observer `"class-means"`.
        split: Number of its observations in the first phase, at least 1.
    """
    figure = style.new_figure(11, 9.6)
    parts = figure.subfigures(3, 1, squeeze=False, height_ratios=(3.1, 3.4, 3.1))
    top, middle, bottom = parts[:, 0]
    _draw_salient(top, run, split)
    spread, plane = middle.subplots(1, 2, width_ratios=(1.25, 1))
    _draw_spread(spread, run)
    _draw_projection(plane, run, split)
    _draw_layers(bottom, run)
    return figure


def projection(means: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """The two principal components of class means at all steps, and how much they explain.

    Args:
        means: `[k, classes, d]`.

    Returns:
        Coordinates, float64 `[k, classes, 2]`.
    """
    points = means.reshape(-1, means.shape[-1]).astype(np.float64)
    points = points - points.mean(0)
    _, _, axes = np.linalg.svd(points, full_matrices=False)
    coordinates: npt.NDArray[np.float64] = (points @ axes[:2].T).reshape(*means.shape[:2], 2)
    return coordinates


def _draw_salient(part: SubFigure, run: Measurement, split: int) -> None:
    """Classes x dimensions at five steps, each class by its own largest mean."""
    steps, means = run.observed["steps"], run.observed["means"]
    spread = run.observed["spread"][:, int(run.observed["layer"])]
    nearest = int(spread[:split].argmin())
    moments = sorted({0, nearest // 2, nearest, min(split, len(steps) - 1), len(steps) - 1})
    # The dimensions that are largest by mean rank over classes, where the classes are nearest.
    ranks = means[nearest].argsort(axis=1).argsort(axis=1).mean(axis=0)
    dimensions = np.argsort(-ranks, kind="stable")[:_SHOWN]
    panels = part.subplots(1, len(moments), squeeze=False)[0]
    for axes, at in zip(panels, moments, strict=True):
        values = means[at][:, dimensions]
        values = values / np.maximum(values.max(axis=1, keepdims=True), 1e-30)
        first = axes is panels[0]
        style.dress(
            axes,
            title=f"step {steps[at]:,}" + (" (nearest)" if at == nearest else ""),
            x="salient dimension",
            y="class" if first else "",
        )
        axes.grid(visible=False)
        image = axes.imshow(values, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(dimensions)), labels=[str(n + 1) for n in range(len(dimensions))])
        axes.set_yticks(range(len(values)))
        axes.tick_params(labelsize=7, labelleft=first)
    bar = part.colorbar(image, ax=list(panels), pad=0.01, aspect=14)
    bar.set_label("mean feature / largest\nof the class", fontsize=8.5, color=style.INK)
    bar.ax.tick_params(labelsize=8)


def _draw_spread(axes: Axes, run: Measurement) -> None:
    layer = int(run.observed["layer"])
    style.dress(
        axes, title="Spread between class means, middle layer", y="spread / norm of the mean"
    )
    style.step_axis(axes, 1, run.steps)
    style.mark_first_phase(axes, 1, run.steps, run.summary.first_phase_end, label=True)
    axes.plot(
        run.observed["steps"], run.observed["spread"][:, layer], color=style.INK, linewidth=1.4
    )
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * (high / low) ** 0.12)


def _draw_projection(axes: Axes, run: Measurement, split: int) -> None:
    means = run.observed["means"]
    # Directions: features grow much over a run, and their lengths would hide all before.
    units = means / np.maximum(np.linalg.norm(means, axis=-1, keepdims=True), 1e-30)
    points = projection(units)
    style.dress(
        axes,
        title="Class means, by norm, in two dimensions (PCA)",
        x="first component",
        y="second component",
    )
    spread = run.observed["spread"][:, int(run.observed["layer"])]
    nearest = int(spread[:split].argmin())
    colors = colormaps["tab10"](np.arange(points.shape[1]) % 10)
    for number, color in enumerate(colors):
        way = points[:, number]
        axes.plot(*way.T, color=color, linewidth=1.1, alpha=0.85)
        axes.plot(*way[0], "o", color=color, markersize=5, fillstyle="none")
        axes.plot(*way[-1], "s", color=color, markersize=5)
        axes.annotate(
            str(number), way[-1], xytext=(5, 3), textcoords="offset points", fontsize=8, color=color
        )
    axes.plot(
        *points[nearest].mean(axis=0), "*", color=style.INK, markersize=11, markeredgecolor="white"
    )
    for marker, label in (("o", "start"), ("*", "nearest"), ("s", "end, with class")):
        fill = "none" if marker == "o" else "full"
        axes.plot([], [], marker, color=style.MUTED, fillstyle=fill, label=label)
    axes.legend(frameon=False, fontsize=8, labelcolor=style.INK, loc="best")


def _draw_layers(part: SubFigure, run: Measurement) -> None:
    steps, cosine = run.observed["steps"], run.observed["cosine"]
    axes = part.subplots()
    style.dress(
        axes, title="Mean cosine of the means of two classes, every layer", y="layer (input on top)"
    )
    axes.grid(visible=False)
    edges = np.append(steps, steps[-1] + 1) - 0.5
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
