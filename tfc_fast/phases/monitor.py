"""`PhaseMonitor`: the phase of a run that is still going on, told as early as it can be known."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tfc_fast.phases.thresholds import (
    DECAY,
    DROP,
    HOLD_TIME_CONSTANTS,
    MIN_PHASE,
    MIN_RISE,
    PATIENCE,
    PROGRESS,
)

State = Literal["healthy", "collapsing", "stuck", "recovered"]

# A rise or fall counts if it is that many standard errors of the running mean.
_STANDARD_ERRORS = 4


@dataclass(frozen=True)
class Change:
    """A change of state.

    Attributes:
        step: step at which it was known.
        state: the new state.
        site: the site whose similarity has risen most, where that decided; else None.
    """

    step: int
    state: State
    site: str | None


class PhaseMonitor:
    """Follows one run step by step and tells its state with what is known so far.

    - `"healthy"`: the first phase is younger than `min_phase` steps, or has ended without alarm,
      or neither loss nor similarities give cause for one. With a `chance_loss`, also as long as the
      smoothed loss has always been below it by `drop`: such a network could do its task from the
      start, and there is no first phase to be stuck in.
    - `"collapsing"`: the first phase is at least `min_phase` steps old, and the between-class
      feature similarity of some site has risen by `min_rise` since its start, more than its noise
      explains (four standard errors).
    - `"stuck"`: the first phase is at least `patience` steps old, and in the last `patience` steps
      there was no progress: neither has the loss fallen by a quarter of `drop` nor a similarity
      risen by a quarter of `min_rise`, more than noise explains (four standard errors). A loss
      that is not finite counts as not falling. Where only some steps are recorded, these are no
      less than `5 / (1 - decay)` records (or `patience`, if that is less), since the averages
      follow records, not steps. `analyze` calls a whole run stuck by the same rule.
    - `"recovered"`: after an alarm (one of the two above) the first phase has ended.

    The first phase lasts as long as the smoothed loss is above its line, which is the one of
    `first_phase_end`: `drop` under the plateau. It has ended when the loss was below for
    `1 / (1 - decay)` steps in a row, which is how long this is known late. Similarities are
    averaged with the same decay; a site's start is its average over the first `1 / (1 - decay)`
    steps, and from such a start of the loss its first progress is counted. The defaults are those
    of `analyze` and stand in `tfc_fast.phases.thresholds`.

    One update costs a few microseconds and the memory does not grow. Feed it with records as they
    are drained. It does not need every step; with fewer it knows later.

    Args:
        chance_loss: see `first_phase_end`.
        decay: of the averages, see `smoothed_loss`.
        drop: see `first_phase_end`.
        min_rise: smallest rise of a mean cosine that is an alarm.
        min_phase: age of the first phase, in steps, before which there is no alarm.
        patience: steps without progress after which a run counts as stuck.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> monitor = PhaseMonitor(patience=200)
        >>> for step in range(300):
        ...     state = monitor.update(step, 2.3, {"relu": 0.9})
        >>> state, monitor.since
        ('stuck', 200)
    """

    def __init__(
        self,
        *,
        chance_loss: float | None = None,
        decay: float = DECAY,
        drop: float = DROP,
        min_rise: float = MIN_RISE,
        min_phase: int = MIN_PHASE,
        patience: int = PATIENCE,
    ) -> None:
        if chance_loss is not None and not math.isfinite(chance_loss):
            raise ValueError(f"chance_loss: {chance_loss} given, a finite number or None is wanted")
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay: {decay} given, at least 0 and below 1 is wanted")
        if not 0.0 < drop < 1.0:
            raise ValueError(f"drop: {drop} given, above 0 and below 1 is wanted")
        if not min_rise > 0.0:
            raise ValueError(f"min_rise: {min_rise} given, above 0 is wanted")
        for name, value in (("min_phase", min_phase), ("patience", patience)):
            if value < 1:
                raise ValueError(f"{name}: {value} given, at least 1 step is wanted")
        self._decay = decay
        self._drop = drop
        self._min_rise = min_rise
        self._min_phase = min_phase
        self._patience = patience
        self._fewest_records = min(patience, math.ceil(HOLD_TIME_CONSTANTS / (1.0 - decay)))
        self._loss = _LossLine(decay, drop, chance_loss)
        self._sites: dict[str, _Similarity] = {}
        self._first_step: int | None = None
        self._last_step: int | None = None
        # What counts as progress is measured from here on.
        self._progress_step = 0
        self._progress_loss = math.nan
        self._progress_rise = 0.0
        self._records_since = 0
        self._changes: list[Change] = []
        self._ended = False

    @property
    def state(self) -> State:
        """The present state."""
        return self._changes[-1].state if self._changes else "healthy"

    @property
    def since(self) -> int | None:
        """Step at which the present state was known; None before the first update."""
        return self._changes[-1].step if self._changes else self._first_step

    @property
    def changes(self) -> tuple[Change, ...]:
        """All changes of state, in order."""
        return tuple(self._changes)

    @property
    def last_progress(self) -> int | None:
        """Step of the last progress, as `"stuck"` asks for it; the first step if there was none.

        None before the first update.
        """
        return None if self._first_step is None else self._progress_step

    def is_stalled_at(self, step: int) -> bool:
        """Whether at that step, not before the last update, there was no progress for too long."""
        waited = step - self._progress_step >= self._patience
        return waited and self._records_since >= self._fewest_records

    def update(
        self, step: int, loss: float, between: Mapping[str, float] | float | None = None
    ) -> State:
        """Take one step.

        Args:
            step: its number, larger than that of the update before.
            loss: its loss; NaN and infinite losses are passed over.
            between: `feature_cos_between` of each site, by name (or of the only site, as a number);
                NaN and None: not measured.

        Returns:
            The state, as it is known at this step.

        Raises:
            ValueError: `step` does not go forward.
        """
        if self._last_step is not None and step <= self._last_step:
            raise ValueError(f"step: {step} given after {self._last_step}, a larger one is wanted")
        self._last_step = step
        if self._first_step is None:
            self._first_step = self._progress_step = step
        self._loss.add(float(loss))
        if isinstance(between, Mapping):
            measured = between
        else:
            measured = {} if between is None else {"": float(between)}
        for site, value in measured.items():
            if math.isfinite(value):
                self._sites.setdefault(site, _Similarity(self._decay)).add(float(value))
        self._judge(step)
        return self.state

    def state_dict(self) -> dict[str, Any]:
        """Everything that `load_state_dict` needs, as plain values."""
        return {
            "loss": self._loss.state_dict(),
            "sites": {name: site.state_dict() for name, site in self._sites.items()},
            "steps": [self._first_step, self._last_step],
            "progress": [
                self._progress_step,
                self._progress_loss,
                self._progress_rise,
                self._records_since,
            ],
            "changes": [[change.step, change.state, change.site] for change in self._changes],
            "ended": self._ended,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken, by a monitor of the same arguments.

        Raises:
            ValueError: the state is damaged.
        """
        try:
            loss = _LossLine(self._decay, self._drop, self._loss.chance_loss)
            loss.load_state_dict(state["loss"])
            sites = {}
            for name, values in state["sites"].items():
                sites[name] = _Similarity(self._decay)
                sites[name].load_state_dict(values)
            first, last = state["steps"]
            progress = tuple(state["progress"])
            if len(progress) != 4:
                raise ValueError(f"progress: {len(progress)} numbers")
            changes = [Change(*change) for change in state["changes"]]
            ended = bool(state["ended"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"state: not of a PhaseMonitor ({error!r})") from error
        self._loss, self._sites, self._changes, self._ended = loss, sites, changes, ended
        self._first_step, self._last_step = first, last
        self._progress_step, self._progress_loss, self._progress_rise = progress[:3]
        self._records_since = int(progress[3])

    def _judge(self, step: int) -> None:
        assert self._first_step is not None
        site, rise = self._largest_rise()
        self._note_progress(step, rise)
        if self._ended:
            return
        if self._loss.is_below_for_good:
            self._ended = True
            if self._changes:
                self._change(step, "recovered", None)
            return
        if self._loss.was_never_at_chance:
            # Should the loss come up to chance level after all, patience begins there.
            self._progress_step, self._progress_loss = step, self._loss.average
            self._records_since = 0
            return
        if self._loss.is_below or self.state == "stuck":
            return
        if self.is_stalled_at(step):
            self._change(step, "stuck", None)
        elif (
            self.state == "healthy"
            and step - self._first_step >= self._min_phase
            and rise >= self._min_rise
        ):
            self._change(step, "collapsing", site)

    def _largest_rise(self) -> tuple[str | None, float]:
        """Site and rise, of those rises that noise does not explain."""
        best: tuple[str | None, float] = (None, 0.0)
        for name, site in self._sites.items():
            if site.rise > best[1] and site.rise > _STANDARD_ERRORS * site.standard_error:
                best = (name, site.rise)
        return best

    def _note_progress(self, step: int, rise: float) -> None:
        self._records_since += 1
        if math.isnan(self._progress_loss) and self._loss.count > 0:
            self._progress_step, self._records_since = step, 0
        if self._loss.is_starting:
            self._progress_loss = self._loss.start
        else:
            least = PROGRESS * self._drop * abs(self._progress_loss)
            noise = _STANDARD_ERRORS * self._loss.standard_error
            if self._progress_loss - self._loss.average > max(least, noise):
                self._progress_loss = self._loss.average
                self._progress_step, self._records_since = step, 0
        if rise - self._progress_rise > PROGRESS * self._min_rise:
            self._progress_rise, self._progress_step, self._records_since = rise, step, 0

    def _change(self, step: int, state: State, site: str | None) -> None:
        self._changes.append(Change(step, state, site))


class _LossLine:
    """The smoothed loss and whether it is below the line of `first_phase_end`, loss by loss."""

    def __init__(self, decay: float, drop: float, chance_loss: float | None) -> None:
        self.chance_loss = chance_loss
        self.average = math.nan
        self._decay = decay
        self._drop = drop
        self._hold = math.ceil(HOLD_TIME_CONSTANTS / (1.0 - decay))
        self._time_constant = math.ceil(1.0 / (1.0 - decay))
        self.count = 0
        self.start = math.nan  # mean of the first losses
        # Decaying mean of |loss - average|, begun at 0; squares would remember a spike for longer.
        self._deviation = 0.0
        self._highest = math.nan  # of the averages
        self._held = math.nan  # highest level held so far
        self._lowest: deque[tuple[int, float]] = deque()  # candidates for the minimum of the hold
        self._below = 0  # losses in a row with the average below the line

    def add(self, loss: float) -> None:
        if not math.isfinite(loss):
            return
        self.count += 1
        if self.count == 1:
            self.average = self.start = self._held = self._highest = loss
        else:
            off = loss - self.average
            self._deviation = self._decay * self._deviation + (1 - self._decay) * abs(off)
            self.average = self._decay * self.average + (1 - self._decay) * loss
        self._highest = max(self._highest, self.average)
        if self.is_starting:
            self.start += (loss - self.start) / self.count
        while self._lowest and self._lowest[-1][1] >= self.average:
            self._lowest.pop()
        self._lowest.append((self.count, self.average))
        if self._lowest[0][0] <= self.count - self._hold:
            self._lowest.popleft()
        if self.count >= self._hold:
            self._held = max(self._held, self._lowest[0][1])
        plateau = self._held if self.chance_loss is None else min(self._held, self.chance_loss)
        is_below = self.average < plateau - self._drop * abs(plateau)
        self._below = self._below + 1 if is_below else 0

    @property
    def was_never_at_chance(self) -> bool:
        """Whether the average has always been below `chance_loss` by `drop`."""
        if self.chance_loss is None:
            return False
        return self._highest < self.chance_loss - self._drop * abs(self.chance_loss)

    @property
    def is_starting(self) -> bool:
        """Whether `start` is still being averaged."""
        return self.count <= self._time_constant

    @property
    def standard_error(self) -> float:
        """Of the difference of `start` and `average`, once the start is over.

        `start` is a mean of `1 / (1 - decay)` losses; the average began with a single one.
        """
        began = self._decay ** (self.count - 1)
        deviation = math.sqrt(math.pi / 2) * self._deviation / (1 - began)
        weight = (1 - self._decay) / (1 + self._decay) + began**2 + 1 / self._time_constant
        return deviation * math.sqrt(weight)

    @property
    def is_below(self) -> bool:
        return self._below > 0

    @property
    def is_below_for_good(self) -> bool:
        return self._below >= self._time_constant

    def state_dict(self) -> list[Any]:
        lowest = [list(pair) for pair in self._lowest]
        start = [self.start, self._deviation, self._highest]
        return [self.average, self.count, self._held, lowest, self._below, *start]

    def load_state_dict(self, state: list[Any]) -> None:
        self.average, self.count, self._held, lowest, self._below = state[:5]
        self.start, self._deviation, self._highest = state[5:]
        self._lowest = deque((count, value) for count, value in lowest)


class _Similarity:
    """The running mean of a similarity, its start and its noise, value by value."""

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._start_values = math.ceil(1.0 / (1.0 - decay))
        self._count = 0
        self._start = 0.0
        self._average = 0.0
        self._variance = 0.0  # of single values around their running mean

    def add(self, value: float) -> None:
        self._count += 1
        if self._count <= self._start_values:
            self._start += (value - self._start) / self._count
        if self._count == 1:
            self._average = value
            return
        off = value - self._average
        self._average += (1 - self._decay) * off
        self._variance = self._decay * self._variance + (1 - self._decay) * off * off

    @property
    def rise(self) -> float:
        return self._average - self._start if self._count > self._start_values else 0.0

    @property
    def standard_error(self) -> float:
        """Of the rise: of a mean over `1 / (1 - decay)` values, and of one with that decay."""
        weight = (1 - self._decay) / (1 + self._decay) + 1 / self._start_values
        return math.sqrt(self._variance * weight)

    def state_dict(self) -> list[float]:
        return [self._count, self._start, self._average, self._variance]

    def load_state_dict(self, state: list[float]) -> None:
        count, self._start, self._average, self._variance = state
        self._count = int(count)
