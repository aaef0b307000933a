"""Budget: a probe that measures what it costs, and records less often where that is too much."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import torch

from tfc_fast import _extension

_C = _extension._C

PERIOD = 32
"""Least steps between two decisions; of seldom recorded ones there are at least `RECORDED`."""

RECORDED = 8

MOST_EVERY = 64
"""Records that are rarer tell too little: sites are left out instead."""

LOOK_AGAIN = 16
"""Where all steps are recorded, one period in so many has some that are not, to compare with."""


class Costs(NamedTuple):
    """Seconds per step, of the steps since they were asked for last; NaN: none to tell it from."""

    record: float  # what a recorded step takes more than one that is not
    always: float  # what the probe takes in a step that is not recorded
    step: float  # a step, all in all


class Meter(Protocol):
    """What measures the cost of a probe."""

    def step_ended(self, recorded: bool) -> None:
        """A step is over."""

    def costs(self) -> Costs:
        """Of the steps since the last call."""


class HostMeter:
    """On the CPU, by the recorder's own clock.

    Args:
        recorder: The recorder.
        drain_seconds: Tells how long it has taken so far to pass records on.
        clock: Seconds.
    """

    def __init__(
        self,
        recorder: _C.Recorder,
        drain_seconds: Callable[[], float],
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self._recorder = recorder
        self._drain_seconds = drain_seconds
        self._clock = clock
        self._before = recorder.costs()
        self._last_end = math.nan
        self._steps: list[float] = []
        # A recorded step does the work of ReLU's own backward, too, which is not the probe's.
        self._plain = self._always = math.nan

    def step_ended(self, recorded: bool) -> None:
        """Take the time."""
        now = self._clock()
        self._steps.append(now - self._last_end)
        self._last_end = now

    def costs(self) -> Costs:
        """Of the steps since the last call; of skipped ones also what was found before."""
        now = self._recorder.costs()
        in_recorded, in_skipped, plain, _, recorded, skipped = (
            new - old for new, old in zip(now, self._before, strict=True)
        )
        self._before = now
        if skipped > 0:
            self._plain, self._always = plain / skipped, in_skipped / skipped
        record = math.nan
        if recorded > 0:
            passing_on = self._drain_seconds() / now[4]
            record = in_recorded / recorded + passing_on - self._plain - self._always
        # Of a step that an evaluation came after, a mean would tell the evaluation.
        steps, self._steps = [time for time in self._steps if not math.isnan(time)], []
        return Costs(record, self._always, median(steps) if steps else math.nan)


class DeviceMeter:
    """On a GPU, by events on the stream of the training; nothing waits for them.

    Args:
        new_event: Makes an event that can be timed.
    """

    def __init__(
        self,
        new_event: Callable[[], Any] = lambda: torch.cuda.Event(enable_timing=True),  # type: ignore[no-untyped-call]
    ) -> None:
        self._new_event = new_event
        self._pending: deque[tuple[Any, bool]] = deque()
        self._free: list[Any] = []
        self._steps: dict[bool, list[float]] = {True: [], False: []}

    def step_ended(self, recorded: bool) -> None:
        """Note an event, and look which of those before have come about."""
        if torch.cuda.is_current_stream_capturing():
            return
        event = self._free.pop() if self._free else self._new_event()
        event.record()
        self._pending.append((event, recorded))
        while len(self._pending) > 1 and self._pending[1][0].query():
            begin, _ = self._pending.popleft()
            end, was_recorded = self._pending[0]
            self._steps[was_recorded].append(1e-3 * begin.elapsed_time(end))
            self._free.append(begin)

    def costs(self) -> Costs:
        """Of the steps since the last call of which the events have come about."""
        recorded, skipped = (
            median(self._steps[kind]) if self._steps[kind] else math.nan for kind in (True, False)
        )
        self._steps = {True: [], False: []}
        step = recorded if math.isnan(skipped) else skipped
        return Costs(recorded - skipped, 0.0, step)


class Budget:
    """Chooses how often a probe records, so that it takes no more than a share of the time.

    Of a step of `t` seconds, of which `a` go to the probe in any case, every k-th may take `c` more
    if `a + c / k <= share * t`. Where no k up to `MOST_EVERY` will do, half of the sites are left
    out, and half of the rest if need be.

    Args:
        share: Of the time of a step, more than 0 and less than 1.
        least_every: Record no more often than every so many steps.
        meter: What measures.
        record_every: Called with each new k.
        leave_out_half: Called to leave sites out.
    """

    def __init__(
        self,
        share: float,
        least_every: int,
        meter: Meter,
        record_every: Callable[[int], None],
        leave_out_half: Callable[[], None],
    ) -> None:
        self._share = share
        self._least = least_every
        self._meter = meter
        self._record_every = record_every
        self._leave_out_half = leave_out_half
        self._costs = Costs(math.nan, math.nan, math.nan)
        self._periods = 0
        self.every = 0
        self._use(max(2, least_every))  # both kinds of steps, to tell them apart
        self.restart(0)

    def restart(self, step: int) -> None:
        """So many steps are closed."""
        self._step = step
        self._recorded = step % self.every == 0
        self._in_period = 0

    def step_ended(self) -> None:
        """Count a step, and decide again at the end of a period."""
        self._meter.step_ended(self._recorded)
        self._step += 1
        self._in_period += 1
        # As the recorder has decided with the k that it had.
        self._recorded = self._step % self.every == 0
        if self._in_period >= max(PERIOD, RECORDED * self.every):
            self._in_period = 0
            self._decide()

    def seconds_per_step(self) -> float:
        """What the probe is known to take now, on average; NaN: not known yet."""
        return self._costs.always + self._costs.record / self.every

    def share_of_step(self) -> float:
        """The same, of the time of a step."""
        return self.seconds_per_step() / self._costs.step

    def _decide(self) -> None:
        self._periods += 1
        new = self._meter.costs()
        old = self._costs
        record = old.record if math.isnan(new.record) else max(0.0, new.record)
        self._costs = Costs(record, new.always, new.step)
        if any(math.isnan(cost) for cost in self._costs):
            return
        allowed = self._share * new.step - new.always
        if allowed <= 0 or record > MOST_EVERY * allowed:
            self._leave_out_half()
            self._use(max(self._least, MOST_EVERY))
            return
        every = max(self._least, math.ceil(record / allowed))
        self._use(2 if every <= 1 and self._periods % LOOK_AGAIN == 0 else max(1, every))

    def _use(self, every: int) -> None:
        if every != self.every:
            self.every = every
            self._record_every(every)


def make_budget(
    share: float,
    least_every: int,
    recorder: _C.Recorder,
    drain_seconds: Callable[[], float],
    leave_out_half: Callable[[], None],
) -> Budget:
    """A budget that measures in the way of the recorder's device.

    Args:
        share: See `Budget`.
        least_every: See `Budget`.
        recorder: The recorder.
        drain_seconds: Tells how long it has taken so far to pass records on.
        leave_out_half: See `Budget`.
    """
    meter = DeviceMeter() if recorder.sites.is_cuda else HostMeter(recorder, drain_seconds)
    return Budget(share, least_every, meter, recorder.record_every, leave_out_half)


def checked_share(budget: object) -> float:
    """A share of the time that a user gave.

    Raises:
        TypeError: It is no number.
        ValueError: It is not between 0 and 1.
    """
    if isinstance(budget, bool) or not isinstance(budget, (int, float)):
        raise TypeError(f"budget: wanted a number, got {type(budget).__name__}")
    if not 0 < budget < 1:
        raise ValueError(f"budget: wanted more than 0 and less than 1 (0.01 is 1 %), got {budget}")
    return float(budget)
