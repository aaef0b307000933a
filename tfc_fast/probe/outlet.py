"""Where the records of a probe go: history, sinks, and whoever wants to hear of events."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from tfc_fast import _extension
from tfc_fast.phases import Event, EventDetector, EventKind
from tfc_fast.probe.oversights import calls_without_earlier_ones
from tfc_fast.probe.warning import warn_user
from tfc_fast.records import COLUMNS, COUNT_COLUMNS, Records, Sink
from tfc_fast.sinks.memory import MemorySink

_C = _extension._C

_STATISTICS = COLUMNS[3:]


class Outlet:
    """Fetches records from a recorder and passes them on, to everybody even if one fails.

    Args:
        recorder: The compiled recorder.
        names: Names of its sites, a list that grows.
        sinks: Where records go besides the history.
        history_records: Records that the history keeps, None for all.
        detector: What finds events; it runs only once somebody wants to hear of them.
        stop_on: Events that set `stop_event`.
        unmeasured: Columns that are blanked: NaN, and 0 for counts.
        silence: What to warn of, once, when a step has no record.
    """

    def __init__(
        self,
        recorder: _C.Recorder,
        names: list[str],
        sinks: Sequence[Sink],
        history_records: int | None,
        detector: EventDetector,
        stop_on: Sequence[EventKind],
        unmeasured: Sequence[str] = (),
        silence: str = "no watched site took part in a backward pass; is the probe attached to the "
        "model that is trained, and before its forward?",
    ) -> None:
        self._recorder = recorder
        self._names = names
        self._sinks = tuple(sinks)
        self._history_records = history_records
        self._history = MemorySink(history_records)
        self._detector = detector
        self._callbacks: list[tuple[EventKind, Callable[[Event], object]]] = []
        self._stop_on = tuple(stop_on)
        self._unmeasured = tuple(unmeasured)
        self._silence: str | None = silence
        self._looks_at_calls = True
        self._lost = 0
        self.stop_event: Event | None = None

    def listen(self, kind: EventKind, callback: Callable[[Event], object]) -> None:
        """Call `callback` with every event of that kind that is found from now on."""
        self._callbacks.append((kind, callback))

    def drain(self, *, wait: bool = True) -> None:
        """Pass on the records that are there; then raise what was found wrong meanwhile."""
        values, steps, losses = self._recorder.drain(wait)
        self._warn_of_lost_steps()
        if len(steps) > 0:
            self._pass_on(values, steps, losses)
        error = self._recorder.take_error()
        if error is not None:
            raise ValueError(error)

    def flush(self) -> None:
        """Drain, and let the sinks store what they have."""
        for_each([self.drain, *(sink.flush for sink in self._sinks)])

    def close(self) -> None:
        """Flush, and close the sinks."""
        try:
            self.flush()
        finally:
            for_each([sink.close for sink in self._sinks])

    def history(self) -> Records:
        """All records in memory."""
        self.drain()
        return self._history.history()

    def state_dict(self) -> dict[str, Any] | None:
        """What has been found of events; None if nobody wants to hear of them."""
        return self._detector.state_dict() if self._has_listeners else None

    def restart(self, state: dict[str, Any] | None) -> None:
        """An empty history, and events from where `state_dict` was taken."""
        if state is not None:
            self._detector.load_state_dict(state)
        self._history = MemorySink(self._history_records)
        self.stop_event = None

    @property
    def _has_listeners(self) -> bool:
        return bool(self._callbacks or self._stop_on)

    def _pass_on(self, values: Tensor, steps: Tensor, losses: Tensor) -> None:
        records = _to_records(
            values.numpy(), steps.numpy(), losses.numpy(), np.array(self._names, object)
        )
        if len(records["step"]) == 0:
            self._warn_of_silence()
            return
        self._warn_of_unused_calls(values)
        for name in self._unmeasured:
            records[name][:] = 0 if name in COUNT_COLUMNS else np.nan
        self._history.write(records)
        for_each([*(_writer(sink, records) for sink in self._sinks), lambda: self._tell(records)])

    def _tell(self, records: Records) -> None:
        if not self._has_listeners:
            return
        calls = []
        for event in self._detector.update(records):
            if self.stop_event is None and event.kind in self._stop_on:
                self.stop_event = event
            calls += [_caller(call, event) for kind, call in self._callbacks if kind == event.kind]
        for_each(calls)

    def _warn_of_silence(self) -> None:
        if self._silence is None:
            return
        warn_user(self._silence)
        self._silence = None

    def _warn_of_unused_calls(self, values: Tensor) -> None:
        if not self._looks_at_calls:
            return
        recorded = ~np.isnan(values.numpy()[:, :, _STATISTICS.index("n_rows")])
        found = calls_without_earlier_ones(recorded, self._names)
        if found is None:
            return
        before, after = found
        warn_user(
            f"site {after!r} has a record in a step in which {before!r} has none: a module was "
            "called with gradients on, that call had no backward, and a later call of the same "
            "step is recorded under another name. Make calls that are not trained on under "
            "torch.no_grad()"
        )
        self._looks_at_calls = False

    def _warn_of_lost_steps(self) -> None:
        lost = self._recorder.lost()
        if lost == self._lost:
            return
        warn_user(
            f"{lost - self._lost} steps were recorded and lost: more than the capacity of the "
            "probe passed before they were fetched; call flush() more often between replays of a "
            "graph, or give Probe(capacity=...) a larger number"
        )
        self._lost = lost


def for_each(calls: list[Any]) -> None:
    """Make all calls, then raise the first error: one broken sink must not starve the others."""
    first: Exception | None = None
    for call in calls:
        try:
            call()
        except Exception as error:  # noqa: PERF203  (every sink gets its turn)
            first = first or error
    if first is not None:
        raise first


def _writer(sink: Sink, records: Records) -> Any:
    return lambda: sink.write(records)


def _caller(callback: Callable[[Event], object], event: Event) -> Any:
    return lambda: callback(event)


def _to_records(
    values: np.ndarray, steps: np.ndarray, losses: np.ndarray, names: np.ndarray
) -> Records:
    """The recorder's ring `[steps, sites, columns]` as columns; sites not seen are left out."""
    rows = values[:, :, _STATISTICS.index("n_rows")]
    step_index, site_index = np.nonzero(~np.isnan(rows))
    seen = values[step_index, site_index]
    records: Records = {
        "step": steps[step_index],
        "site": names[site_index],
        "loss": losses[step_index],
    }
    for index, name in enumerate(_STATISTICS):
        column = np.ascontiguousarray(seen[:, index])
        records[name] = column.astype(np.int64) if name in COUNT_COLUMNS else column
    return records
