"""The results of `peers.py` as one picture: time over rows per task, growth, memory and error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter
from peer_base import TASKS
from peer_providers import PROVIDERS

from tfc_fast.files import atomic_write
from tfc_fast.report.style import INK, MUTED, dress, new_figure

__all__ = ["draw"]

_TITLES = {
    "mean": "Mean of all pairs",
    "matrix": "Matrix of cosines",
    "spread": "Spread of all pairs",
    "histogram": "Histogram of all pairs",
    "agreement": "Agreement of gates",
}
# Okabe and Ito's colours, which the colour-blind can tell apart; ours is the darkest line.
_COLORS = (INK, "#e69f00", "#b8860b", "#d55e00", "#cc79a7", "#0072b2", "#56b4e9", "#009e73")
_MARKERS = ("o", "s", "P", "D", "^", "v", "X", "*")
_LOOK: dict[str, dict[str, Any]] = {
    provider.name: {"color": color, "marker": marker, "linewidth": 2.2 if not index else 1.3}
    for index, (provider, color, marker) in enumerate(
        zip(PROVIDERS, _COLORS, _MARKERS, strict=True)
    )
}
_LEAST_ERROR = 1e-12


def draw(results: dict[str, Any], file: Path) -> None:
    """Draw the picture.

    Args:
        results: Those of `peers.measure`.
        file: The PNG to make or replace.
    """
    figure = new_figure(16.0, 8.2)
    panels = figure.subplots(2, 4).ravel()
    plain = [
        cell
        for cell in results["cells"]
        if cell["input"] == "features" and cell["dtype"] == "float32"
    ]
    widths = [cell["width"] for cell in plain]
    width = max(set(widths), key=widths.count)
    swept = [cell for cell in plain if cell["width"] == width]
    for axes, task in zip(panels, TASKS, strict=False):
        _draw_times(axes, [cell for cell in swept if cell["task"] == task])
        dress(axes, title=f"{_TITLES[task]}, d = {width}", x="rows n", y="milliseconds")
    _draw_curve(panels[5], results["curve"])
    most = _most_rows_of_all(swept)
    _draw_by_task(panels[6], [cell for cell in swept if cell["rows"] == most], "peak_extra_mib")
    dress(panels[6], title=f"Peak memory, n = {most}", x="", y="MiB besides the input")
    known = [cell for cell in swept if cell["error"] is not None]
    rows = max(cell["rows"] for cell in known if cell["task"] == "mean")
    _draw_by_task(panels[7], [cell for cell in known if cell["rows"] == rows], "error")
    dress(panels[7], title=f"Largest error, n = {rows}", x="", y="absolute error")
    _add_key(figure)
    atomic_write(file, lambda out: figure.savefig(out, format="png"))


def _log_axes(axes: Axes) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_minor_formatter(NullFormatter())


def _draw_times(axes: Axes, cells: list[dict[str, Any]]) -> None:
    _log_axes(axes)
    for name, look in _LOOK.items():
        mine = sorted((one["rows"], one["median_ms"]) for one in cells if one["provider"] == name)
        if mine:
            axes.plot(*zip(*mine, strict=True), markersize=5, **look)


def _draw_curve(axes: Axes, curve: dict[str, Any]) -> None:
    rows, milliseconds = np.array(curve["rows"]), np.array(curve["median_ms"])
    _log_axes(axes)
    axes.plot(rows, milliseconds, markersize=5, **_LOOK[PROVIDERS[0].name])
    middle = np.exp(np.log(rows).mean()), np.exp(np.log(milliseconds).mean())
    axes.plot(
        rows,
        middle[1] * (rows / middle[0]) ** curve["exponent"],
        color=MUTED,
        linestyle=(0, (4, 2)),
    )
    dress(axes, title=f"Our mean, d = {curve['width']}", x="rows n", y="milliseconds")
    axes.annotate(
        f"time ~ n^{curve['exponent']:.2f}",
        xy=(0.06, 0.88),
        xycoords="axes fraction",
        fontsize=9.5,
        color=MUTED,
    )


def _draw_by_task(axes: Axes, cells: list[dict[str, Any]], field: str) -> None:
    axes.set_yscale("log")
    names = list(_LOOK)
    for name, look in _LOOK.items():
        shift = 0.09 * (names.index(name) - (len(names) - 1) / 2)
        mine = [one for one in cells if one["provider"] == name and one.get(field) is not None]
        axes.plot(
            [TASKS.index(one["task"]) + shift for one in mine],
            [max(one[field], 0.01 if field == "peak_extra_mib" else _LEAST_ERROR) for one in mine],
            linestyle="",
            markersize=6,
            color=look["color"],
            marker=look["marker"],
        )
    axes.set_xticks(range(len(TASKS)), TASKS)


def _most_rows_of_all(cells: list[dict[str, Any]]) -> int:
    """The most rows at which every provider measured anywhere still takes part."""
    everyone = {(one["provider"], one["task"]) for one in cells}
    by_rows: dict[int, set[tuple[str, str]]] = {}
    for one in cells:
        by_rows.setdefault(one["rows"], set()).add((one["provider"], one["task"]))
    most: int = max(rows for rows, some in by_rows.items() if len(some) >= 0.8 * len(everyone))
    return most


def _add_key(figure: Figure) -> None:
    handles = [Line2D([], [], markersize=6, **look) for look in _LOOK.values()]
    figure.legend(
        handles,
        list(_LOOK),
        loc="outside lower center",
        ncols=len(_LOOK),
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
    )
