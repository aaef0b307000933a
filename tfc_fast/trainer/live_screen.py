"""What the live view looks like: a state in, something that rich can draw out."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from rich.bar import Bar
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tfc_fast.phases import State
from tfc_fast.trainer.live import LiveState, SiteNow

__all__ = ["screen", "sparkline"]

_BLOCKS = "▁▂▃▄▅▆▇█"
_SPARKLINE_WIDTH = 60
_BAR_WIDTH = 20
# Lines of the screen that are not sites.
_OTHER_LINES = 8

_WORDS: dict[State, tuple[str, str]] = {
    "healthy": ("green", "no sign of a collapse"),
    "collapsing": ("yellow", "the features of different classes grow more alike"),
    "stuck": ("red", "neither the loss nor a similarity makes progress"),
    "recovered": ("green", "the first phase is over"),
}


def screen(state: LiveState, *, height: int) -> RenderableType:
    """The screen of a run.

    Args:
        state: the run as it is now.
        height: lines of the terminal; of more sites than fit, some are shown.

    Returns:
        What rich prints.
    """
    parts: list[RenderableType] = [_progress(state), _loss(state)]
    # Without records the phase is not known, either.
    if state.sites:
        parts += [_phase(state), _sites(state, max(height - _OTHER_LINES, 3))]
    return Group(*parts)


def sparkline(values: Sequence[float], width: int = _SPARKLINE_WIDTH) -> str:
    """A curve in one line of text; a space where nothing finite is.

    Example:
        >>> sparkline([3.0, 2.0, 1.0, float("nan"), 1.0])
        '█▄▁ ▁'
    """
    if len(values) > width:
        # The largest of each part, so that no spike is lost.
        bounds = [round(at * len(values) / width) for at in range(width + 1)]
        parts = [values[a:b] for a, b in itertools.pairwise(bounds)]
        values = [max((v for v in part if math.isfinite(v)), default=math.nan) for part in parts]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return ""
    # In halves: the distance of two finite numbers need not be one.
    low, high = min(finite) / 2, max(finite) / 2
    last = len(_BLOCKS) - 1

    def block(value: float) -> str:
        if not math.isfinite(value):
            return " "
        return _BLOCKS[int(last * ((value / 2 - low) / (high - low))) if high > low else 0]

    return "".join(map(block, values))


def _progress(state: LiveState) -> RenderableType:
    speed = (state.step - state.done) / state.seconds if state.seconds > 0 else 0.0
    left = f"{(state.total - state.step) / speed:,.0f} s left" if speed > 0 else ""
    line = Table.grid(padding=(0, 2))
    line.add_row(
        Text(state.name, style="bold"),
        ProgressBar(total=max(state.total, 1), completed=state.step, width=_BAR_WIDTH),
        f"step {state.step:,} of {state.total:,}",
        f"{speed:,.0f} steps/s",
        left,
    )
    return line


def _loss(state: LiveState) -> Text:
    shown = "not known yet" if state.loss is None else f"{state.loss:.4g}"
    return Text.assemble(("loss   ", "bold"), f"{shown}  ", (sparkline(list(state.losses)), "cyan"))


def _phase(state: LiveState) -> Text:
    monitor = state.monitor
    color, meaning = _WORDS[monitor.state]
    since = "" if monitor.since is None else f" since step {monitor.since:,}"
    site = monitor.changes[-1].site if monitor.changes else None
    where = f", most of all at {site}" if site else ""
    line = Text("phase  ", style="bold", no_wrap=True, overflow="ellipsis")
    line.append(monitor.state, f"bold {color}")
    return line.append(f"{since}: {meaning}{where}", "not bold")


def _sites(state: LiveState, most: int) -> Table:
    feature, grad = ("between", "within") if state.labelled else ("all pairs", "all pairs")
    names = list(state.sites)
    shown = names
    if len(names) > most:
        shown = [names[round(at * (len(names) - 1) / (most - 1))] for at in range(most)]
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("site" if shown is names else f"{most} of {len(names)} sites", no_wrap=True)
    table.add_column(f"features, {feature}", width=_BAR_WIDTH)
    table.add_column("cosine", justify="right")
    table.add_column("rise", justify="right")
    table.add_column(f"gradients, {grad}", width=_BAR_WIDTH)
    table.add_column("cosine", justify="right")
    for name in shown:
        table.add_row(Text(name), *_cells(state.sites[name]))
    return table


def _cells(site: SiteNow) -> list[RenderableType]:
    return [
        _bar(site.feature, "blue"),
        _number(site.feature),
        _number(site.feature - site.start, "+"),
        _bar(site.grad, "magenta"),
        _number(site.grad),
    ]


def _bar(value: float, color: str) -> RenderableType:
    # A cosine below zero has no bar, only its number.
    return Bar(1.0, 0.0, max(value, 0.0) if math.isfinite(value) else 0.0, color=color)


def _number(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if math.isfinite(value) else "n/a"
