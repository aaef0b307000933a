"""Events: what somebody should hear of, found in the records of a run as they come."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from tfc_fast.phases.monitor import PhaseMonitor
from tfc_fast.phases.thresholds import DEAD_UNITS, DEAD_WINDOW
from tfc_fast.records import Records

EventKind = Literal["collapse", "stuck", "recovered", "dead_units", "nonfinite"]

EVENT_KINDS: tuple[EventKind, ...] = get_args(EventKind)
"""All kinds of events."""

_KIND_OF_STATE: dict[str, EventKind] = {
    "collapsing": "collapse",
    "stuck": "stuck",
    "recovered": "recovered",
}


@dataclass(frozen=True)
class Event:
    """Something that happened in a run.

    Attributes:
        kind: One of `EVENT_KINDS`.
        step: Step at which it was known.
        site: Where; None for what concerns the whole run.
        value: What it was known by: the site's `feature_cos_between` for `"collapse"`, the loss for
            `"stuck"` and `"recovered"`, `dead_window_frac` for `"dead_units"`, and for
            `"nonfinite"` the number of rows or, without a site, the loss.
    """

    kind: EventKind
    step: int
    site: str | None
    value: float

    def __str__(self) -> str:
        where = "" if self.site is None else f" at {self.site}"
        what = {
            "collapse": f"features collapse{where}: between-class similarity {self.value:.3f}",
            "stuck": f"stuck in the first phase, loss {self.value:.4g}",
            "recovered": f"the first phase has ended, loss {self.value:.4g}",
            "dead_units": f"{self.value:.0%} of the units{where} are dead",
            "nonfinite": (
                f"loss {self.value}"
                if self.site is None
                else f"{self.value:.0f} rows{where} hold NaN or Inf"
            ),
        }
        return f"step {self.step}: {what[self.kind]}"


class EventDetector:
    """Finds events in the records of one run.

    - `"collapse"`, `"stuck"`, `"recovered"`: the state of a `PhaseMonitor` has become
      `"collapsing"`, `"stuck"` or `"recovered"`. These need the loss of each step.
    - `"dead_units"`: the `dead_window_frac` of a site has reached `dead_units`, after `window`
      steps at the earliest. Told once; again only if it was below in between.
    - `"nonfinite"`: a site has rows with a NaN or Inf, or the loss is none after it was finite.
      Told at the first step of a run of such steps.

    Args:
        monitor: Judges phases; default: `PhaseMonitor()`.
        dead_units: Share of dead units that is an event, above 0, at most 1.
        window: Steps that `dead_window_frac` of the records looks back over.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from tfc_fast.phases import EventDetector
        >>> from tfc_fast.records import empty
        >>> EventDetector(dead_units=0.9).update(empty())
        []
    """

    def __init__(
        self,
        monitor: PhaseMonitor | None = None,
        *,
        dead_units: float = DEAD_UNITS,
        window: int = DEAD_WINDOW,
    ) -> None:
        if not 0.0 < dead_units <= 1.0:
            raise ValueError(f"dead_units: {dead_units} given, above 0 and at most 1 is wanted")
        if window < 1:
            raise ValueError(f"window: {window} given, at least 1 step is wanted")
        self._monitor = PhaseMonitor() if monitor is None else monitor
        self._dead_units = dead_units
        self._window = window
        self._first_step: int | None = None
        self._had_finite_loss = False
        # Sites of which an event has been told that is not over; None is the loss.
        self._dead: set[str] = set()
        self._nonfinite: set[str | None] = set()

    def update(self, records: Records) -> list[Event]:
        """Take the next records of the run.

        Args:
            records: Whole steps, after those of the call before; see `tfc_fast.records`.

        Returns:
            What has happened in them, in order.

        Raises:
            ValueError: The steps do not go forward.
        """
        borders = [*np.flatnonzero(np.diff(records["step"], prepend=-1)), len(records["step"])]
        events: list[Event] = []
        for start, end in itertools.pairwise(borders):
            events += self._of_step({name: records[name][start:end] for name in _COLUMNS})
        return events

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs, as plain values."""
        return {
            "monitor": self._monitor.state_dict(),
            "first_step": self._first_step,
            "had_finite_loss": self._had_finite_loss,
            "dead": sorted(self._dead),
            "nonfinite": sorted(site for site in self._nonfinite if site is not None),
            "loss_is_nonfinite": None in self._nonfinite,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken, by a detector of the same arguments.

        Raises:
            ValueError: The state is damaged.
        """
        try:
            first_step, had_finite_loss = state["first_step"], bool(state["had_finite_loss"])
            dead = set(state["dead"])
            nonfinite = {*state["nonfinite"], *([None] if state["loss_is_nonfinite"] else [])}
            self._monitor.load_state_dict(state["monitor"])
        except (KeyError, TypeError) as error:
            raise ValueError(f"state: not of an EventDetector ({error!r})") from error
        self._first_step, self._had_finite_loss = first_step, had_finite_loss
        self._dead, self._nonfinite = dead, nonfinite

    def _of_step(self, records: Records) -> Iterator[Event]:
        step, loss = int(records["step"][0]), float(records["loss"][0])
        sites = [str(site) for site in records["site"]]
        if self._first_step is None:
            self._first_step = step
        self._had_finite_loss |= math.isfinite(loss)
        rows = dict(zip(sites, records["n_nonfinite"].tolist(), strict=True))
        yield from self._nonfinite_events(step, loss, rows)
        if step - self._first_step + 1 >= self._window:
            dead = dict(zip(sites, records["dead_window_frac"].tolist(), strict=True))
            yield from self._dead_events(step, dead)
        if self._had_finite_loss:
            between = dict(zip(sites, records["feature_cos_between"].tolist(), strict=True))
            yield from self._phase_events(step, loss, between)

    def _nonfinite_events(self, step: int, loss: float, rows: Mapping[str, int]) -> Iterator[Event]:
        found: dict[str | None, float] = {site: count for site, count in rows.items() if count > 0}
        # A loss that was never given is NaN, too.
        if self._had_finite_loss and not math.isfinite(loss):
            found = {None: loss, **found}
        for site, value in found.items():
            if site not in self._nonfinite:
                yield Event("nonfinite", step, site, float(value))
        self._nonfinite = set(found)

    def _dead_events(self, step: int, shares: Mapping[str, float]) -> Iterator[Event]:
        for site, share in shares.items():
            if not share >= self._dead_units:  # NaN: not measured
                self._dead.discard(site)
            elif site not in self._dead:
                self._dead.add(site)
                yield Event("dead_units", step, site, share)

    def _phase_events(
        self, step: int, loss: float, between: Mapping[str, float]
    ) -> Iterator[Event]:
        known = len(self._monitor.changes)
        self._monitor.update(step, loss, between)
        for change in self._monitor.changes[known:]:
            kind = _KIND_OF_STATE.get(change.state)
            if kind is not None:
                value = loss if change.site is None else between[change.site]
                yield Event(kind, step, change.site, value)


_COLUMNS = ("step", "site", "loss", "feature_cos_between", "dead_window_frac", "n_nonfinite")


def checked_kinds(argument: str, kinds: Iterable[str]) -> tuple[EventKind, ...]:
    """The kinds of events that a user named.

    Args:
        argument: Its name, for the message.
        kinds: What was given.

    Raises:
        TypeError: `kinds` is one string, or no collection.
        ValueError: One is no kind of event.
    """
    if isinstance(kinds, str) or not isinstance(kinds, Iterable):
        given = repr(kinds) if isinstance(kinds, str) else type(kinds).__name__
        raise TypeError(
            f"{argument}: wanted a list of events, such as ['stuck', 'nonfinite'], got {given}"
        )
    kinds = tuple(kinds)
    for kind in kinds:
        if kind not in EVENT_KINDS:
            raise ValueError(
                f"{argument}: no event is called {kind!r}; there are {', '.join(EVENT_KINDS)}"
            )
    return kinds  # type: ignore[return-value]
