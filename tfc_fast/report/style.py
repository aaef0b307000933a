"""The look that all figures share: axes, colours of the sites, legend, marks of the first phase.

Figures are built with matplotlib's object-oriented API on the Agg canvas: no display, no global
state, safe in threads and beside a user's own plots.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tfc_fast.report.bins import Band

INK = "#1f2933"
MUTED = "#5f6b7a"
PHASE = "#e9edf2"
END = "#b3261e"

# With more sites than this a legend is longer than the figure is high: a colour bar takes over.
_MOST_IN_LEGEND = 12
_LONGEST_NAME = 28


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches."""
    figure = Figure(figsize=(width, height), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def dress(axes: Axes, *, title: str = "", x: str = "step", y: str = "") -> None:
    """Labels, grid and spines of one panel."""
    axes.set_title(title, loc="left", fontsize=10.5, color=INK, fontweight="bold")
    axes.set_xlabel(x, fontsize=9.5, color=INK)
    axes.set_ylabel(y, fontsize=9.5, color=INK)
    axes.tick_params(labelsize=8.5, colors=MUTED, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#aab4c0")
    axes.grid(visible=True, color="#dde3ea", linewidth=0.6)
    axes.set_axisbelow(True)


def step_axis(axes: Axes, first: float, last: float) -> None:
    """The x axis runs over the recorded steps and shows whole numbers, thousands set apart."""
    # a run of one step still needs an axis of some width
    margin = 0.5 if first == last else 0.0
    axes.set_xlim(first - margin, last + margin)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def site_colors(count: int) -> npt.NDArray[np.float64]:
    """One colour per site from first (dark) to last (light), `[count, 4]`.

    Viridis: perceptually uniform and safe for the colour-blind. Its yellow end is left out: too
    faint on white.
    """
    colors: npt.NDArray[np.float64] = colormaps["viridis"](np.linspace(0.0, 0.88, max(count, 2)))
    return colors[:count]


def short_name(name: str) -> str:
    """The end of a long name, which is what tells sites apart; "?" for what the font lacks."""
    font = get_font(findfont(FontProperties()))
    name = "".join(letter if font.get_char_index(ord(letter)) else "?" for letter in name)
    return name if len(name) <= _LONGEST_NAME else "…" + name[1 - _LONGEST_NAME :]


def draw_bands(axes: Axes, steps: npt.NDArray[np.float64], band: Band) -> None:
    """One line per site, with the range of the values where a bin holds several."""
    marker = "o" if steps.size == 1 else ""
    spread = bool(np.nanmax(band.high - band.low) > 0)
    for index, color in enumerate(site_colors(len(band.mean))):
        if spread:
            axes.fill_between(
                steps, band.low[index], band.high[index], color=color, alpha=0.16, linewidth=0
            )
        axes.plot(steps, band.mean[index], color=color, linewidth=1.3, marker=marker)


def mark_first_phase(
    axes: Axes, first: float, last: float, end: int | None, *, label: bool = False
) -> None:
    """Shade the first phase and mark its end; all of the run is shaded if it never ended."""
    axes.axvspan(first, last if end is None else end, color=PHASE, linewidth=0, zorder=0)
    if end is not None:
        axes.axvline(end, color=END, linewidth=1.1, linestyle=(0, (4, 2)), zorder=3)
    if label:
        text = "first phase: not ended" if end is None else f"first phase ends: step {end:,}"
        near_right = end is not None and end > first + 0.6 * (last - first)
        axes.annotate(
            text,
            xy=(first if end is None else end, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-6 if near_right else 6, -6),
            textcoords="offset points",
            ha="right" if near_right else "left",
            va="top",
            fontsize=9,
            color=MUTED if end is None else END,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        )


def add_site_key(figure: Figure, panels: Sequence[Axes], sites: Sequence[str]) -> None:
    """Say which colour is which site: a legend, or a colour bar when there are many."""
    colors = site_colors(len(sites))
    if len(sites) <= _MOST_IN_LEGEND:
        handles = [Line2D([], [], color=color, linewidth=3) for color in colors]
        legend = figure.legend(
            handles,
            [str(index) for index in range(len(sites))],
            loc="outside right upper",
            frameon=False,
            fontsize=8.5,
            title="site (input first)",
            title_fontsize=8.5,
            labelcolor=INK,
        )
        for text, site in zip(legend.get_texts(), sites, strict=True):
            plain_text(text, site)
        return
    edges = np.arange(len(sites) + 1) - 0.5
    mappable = ScalarMappable(BoundaryNorm(edges, len(sites)), ListedColormap(list(colors)))
    ticks = np.unique(np.linspace(0, len(sites) - 1, 9).round().astype(int))
    bar = figure.colorbar(mappable, ax=list(panels), fraction=0.04, pad=0.02)
    bar.set_ticks(ticks.tolist(), labels=[short_name(sites[at]) for at in ticks], parse_math=False)
    bar.ax.minorticks_off()
    bar.ax.invert_yaxis()
    bar.ax.tick_params(labelsize=8, length=0)
    bar.set_label("site (input first)", fontsize=8.5, color=INK)


def plain_text(text: Text, name: str) -> None:
    """Show a name as it is: it may hold what matplotlib takes for mathematics."""
    text.set_parse_math(False)
    text.set_text(short_name(name))
