"""The live view of a run: loss, similarities by layer and phase, in the terminal, as they come.

Training only hands over: a step counts itself, a drain leaves its records. Whatever is computed or
drawn of them happens on a thread of its own, four times a second. A terminal that goes away, or
anything else that fails there, ends the view and not the training.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc_fast.phases import PhaseMonitor
from tfc_fast.phases.sites import site_codes
from tfc_fast.records import Records

__all__ = ["LiveState", "LiveView", "SiteNow"]

_SECONDS = 0.25
# Similarities and losses are noisy from step to step: what is shown is a mean over so many records.
_RECENT = 20
# The monitor needs no more to tell the phase, and Python would take the time from training.
_MOST_UPDATES = 100
_LOSSES = 400
_COLUMNS = (
    *("step", "site", "loss", "feature_cos_between", "feature_cos_all"),
    *("grad_cos_within", "grad_cos_all"),
)


@dataclass
class SiteNow:
    """One site as it is now; NaN for what was not measured.

    Attributes:
        feature: recent mean cosine of features, between classes, or of all pairs without labels.
        start: the same at the first records.
        grad: recent mean cosine of gradients, within classes, or of all pairs without labels.
    """

    feature: float = np.nan
    start: float = np.nan
    grad: float = np.nan


@dataclass
class LiveState:
    """Everything that the screen shows.

    Attributes:
        name: of the run.
        total: steps of the run.
        step: steps done.
        seconds: since training began.
        done: steps that were done before it began.
        loss: the newest loss that is known.
        losses: losses as means over a few steps, the newest `_LOSSES` of them.
        sites: the sites, in recorded order.
        labelled: whether classes can be told apart, as far as is known.
        monitor: tells the phase.
    """

    name: str
    total: int
    step: int = 0
    seconds: float = 0.0
    done: int = 0
    loss: float | None = None
    losses: deque[float] = field(default_factory=lambda: deque(maxlen=_LOSSES))
    sites: dict[str, SiteNow] = field(default_factory=dict)
    labelled: bool = False
    monitor: PhaseMonitor = field(default_factory=PhaseMonitor)

    def take(self, records: Mapping[str, npt.NDArray[Any]]) -> None:
        """Bring the state up to date with records that follow those taken before.

        Args:
            records: whole steps, in step order; the columns of `_COLUMNS`.
        """
        if not records["step"].size:
            return
        names, code = site_codes(records["site"])
        between = records["feature_cos_between"]
        # The first records may hold no pair of two classes.
        if not self.labelled and np.isfinite(between).any():
            self.labelled = True
            # What was noted until now is of all pairs.
            self.sites.clear()
        feature = between if self.labelled else records["feature_cos_all"]
        grad = records["grad_cos_within" if self.labelled else "grad_cos_all"]
        for index, name in enumerate(names):
            rows = np.flatnonzero(code == index)
            if name not in self.sites:
                self.sites[name] = SiteNow(start=_mean(feature[rows[:_RECENT]]))
            site, recent = self.sites[name], rows[-_RECENT:]
            site.feature, site.grad = _mean(feature[recent]), _mean(grad[recent])
        steps, first = np.unique(records["step"], return_index=True)
        losses = records["loss"][first]
        parts = np.array_split(losses, -(-losses.size // _RECENT))
        self.losses.extend(_mean(part) for part in parts)
        for at in range(0, steps.size, -(-steps.size // _MOST_UPDATES)):
            rows = np.flatnonzero(records["step"] == steps[at])
            values = {names[code[row]]: float(between[row]) for row in rows}
            self.monitor.update(int(steps[at]), float(losses[at]), values)


class LiveView:
    """Shows a run on standard error while it trains; silent where that is no terminal.

    It is a sink of the probe and is told of every step; neither waits for the screen. Whatever goes
    wrong with the screen switches the view off, with one warning.

    Args:
        name: Name of the run.
        total: Steps of the run.
        chance_loss: Of the task; see `tfc_fast.phases.PhaseMonitor`.

    Raises:
        ImportError: There is a terminal to show it on, but rich is not installed.

    Example:
        >>> with LiveView("digits", total=10) as view:
        ...     view.advance(loss=2.3)
    """

    def __init__(self, name: str, total: int, *, chance_loss: float | None = None) -> None:
        self.state = LiveState(name, total, monitor=PhaseMonitor(chance_loss=chance_loss))
        # Appended to by training, emptied by the thread that draws: a deque needs no lock for that.
        self._waiting: deque[dict[str, npt.NDArray[Any]]] = deque()
        self._began = time.monotonic()
        self._console: Any = _new_console() if sys.stderr.isatty() else None
        self._live: Any = None
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._error: Exception | None = None

    @property
    def is_shown(self) -> bool:
        """Whether there is a terminal to show it on."""
        return self._console is not None

    def begin(self, done: int, records: Records | None = None) -> None:
        """Go on with a run.

        Args:
            done: Steps that were done before.
            records: Of these steps: phase, curve and start of the sites are theirs, too.
        """
        self.state.done = self.state.step = done
        if records is None:
            return
        # In parts of which the monitor gets every step, as from a run that was watched.
        first = np.flatnonzero(np.diff(records["step"], prepend=-1))
        borders = [*first[::_MOST_UPDATES], records["step"].size]
        for start, end in itertools.pairwise(borders):
            self.write({name: records[name][start:end] for name in _COLUMNS})

    def advance(self, loss: float | None) -> None:
        """Count one step.

        Args:
            loss: The newest loss that is known.
        """
        self.state.step += 1
        self.state.loss = loss
        if self._error is not None:
            self._tell()

    def write(self, records: Records) -> None:
        """Take records from the probe; see `tfc_fast.records.Sink`."""
        if self._console is not None:
            self._waiting.append({name: records[name].copy() for name in _COLUMNS})

    def flush(self) -> None:
        """Nothing: the screen is drawn when it is time to."""

    def close(self) -> None:
        """Nothing: leaving the block draws for the last time."""

    def __enter__(self) -> LiveView:
        self._began = time.monotonic()
        if self._console is not None:
            self._try(self._start)
            # Not rich's own, in which an error would end the thread and nothing else.
            self._thread = threading.Thread(target=self._draw, name="live view", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        # Draws for the last time.
        if self._console is not None:
            self._try(self._live.stop)
        if self._error is not None:
            self._tell()

    def _start(self) -> None:
        from rich.live import Live

        self._live = Live(get_renderable=self._screen, console=self._console, auto_refresh=False)
        self._live.start()

    def _draw(self) -> None:
        while self._console is not None and not self._ended.wait(_SECONDS):
            self._try(self._live.refresh)

    def _try(self, action: Callable[[], object]) -> None:
        """Do something with the screen; if it fails, end the view and keep the error."""
        try:
            action()
        except Exception as error:
            # None: records are no longer kept, and the screen to leave behind is empty.
            self._error, self._console = error, None
            if self._live is not None:
                # Gives the terminal back, if it is still there.
                with contextlib.suppress(Exception):
                    self._live.stop()

    def _tell(self) -> None:
        """Say why the view has ended: on the thread that trains, where a warning is seen."""
        error, self._error = self._error, None
        warnings.warn(
            f"the live view has ended, training goes on: {type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=3,
        )

    def _screen(self) -> Any:
        from tfc_fast.trainer.live_screen import screen

        if self._console is None:
            return ""
        while self._waiting:
            self.state.take(self._waiting.popleft())
        self.state.seconds = time.monotonic() - self._began
        return screen(self.state, height=self._console.height)


def _new_console() -> Any:
    try:
        from rich.console import Console
    except ImportError as error:
        raise ImportError(
            f"the live view needs rich, which cannot be imported ({error}); install it with: "
            "pip install 'tfc_fast[live]', or do without live=True, --live"
        ) from error
    return Console(file=sys.stderr)


def _mean(values: npt.NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    # The largest losses add up to infinity: the curve has a gap there.
    with np.errstate(over="ignore"):
        return float(finite.mean()) if finite.size else np.nan
