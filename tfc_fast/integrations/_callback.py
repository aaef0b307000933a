"""What the callbacks of all frameworks have in common: their arguments and their probe."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import nn

from tfc_fast.integrations._labels import LabelRule, MaskRule, find_labels
from tfc_fast.integrations._metrics import DEFAULT_COLUMNS, check_columns
from tfc_fast.phases import Event, EventDetector, EventKind
from tfc_fast.phases.events import checked_kinds
from tfc_fast.probe import Probe, Sites
from tfc_fast.probe.arguments import checked_sinks
from tfc_fast.probe.budget import checked_share
from tfc_fast.probe.reductions import Reductions
from tfc_fast.records import Records, Sink, empty


class ProbeOwner:
    """Holds the arguments until a training begins, and the probe from then on."""

    def __init__(
        self,
        sites: Sites = "relu",
        *,
        num_classes: int | None = None,
        labels: LabelRule | None = None,
        mask: MaskRule | None = None,
        columns: Sequence[str] = DEFAULT_COLUMNS,
        sinks: Iterable[Sink] = (),
        every: int = 1,
        budget: float | None = None,
        window: int = 100,
        reduction: Reductions = "flatten",
        stop_on: Iterable[EventKind] = (),
        events: EventDetector | None = None,
    ) -> None:
        super().__init__()
        for name, rule in (("labels", labels), ("mask", mask)):
            if rule is not None and not callable(rule):
                raise TypeError(
                    f"{name}: wanted a function of the batch, such as lambda batch: "
                    f"batch['{name}'], got {rule!r}"
                )
        self._sites = sites
        self._num_classes = num_classes
        self._label_rule = labels or find_labels
        self._mask_rule = mask
        self._columns = check_columns(columns)
        self._sinks = checked_sinks("sinks", sinks)
        self._every = every
        self._budget = None if budget is None else checked_share(budget)
        self._window = window
        self._reduction = reduction
        self._stop_on = checked_kinds("stop_on", stop_on)
        self._events = events
        self._listeners: list[tuple[EventKind, Callable[[Event], object]]] = []
        self._probe: Probe | None = None

    @property
    def probe(self) -> Probe | None:
        """The probe of the last or present training; None before the first."""
        return self._probe

    def on(self, event: EventKind, callback: Callable[[Event], object]) -> None:
        """Call a function whenever such an event is found; see `tfc_fast.Probe.on`."""
        checked_kinds("event", [event])
        self._listeners.append((event, callback))
        if self._probe is not None:
            self._probe.on(event, callback)

    def history(self) -> Records:
        """All records of the last or present training; see `tfc_fast.Probe.history`."""
        return empty() if self._probe is None else self._probe.history()

    def close(self) -> None:
        """Give the model back as it was. Needed only where nothing else ends a training."""
        if self._probe is not None:
            self._probe.close()

    def _make_probe(self, model: nn.Module, *sinks: Sink) -> Probe:
        probe = Probe(
            model,
            self._sites,
            num_classes=self._num_classes,
            every=self._every,
            budget=self._budget,
            window=self._window,
            reduction=self._reduction,
            sinks=[*sinks, *self._sinks],
            stop_on=self._stop_on,
            events=copy.deepcopy(self._events),
        )
        for event, callback in self._listeners:
            probe.on(event, callback)
        return probe

    def _announce(self, probe: Probe, batch: Any) -> None:
        probe.batch(
            None if self._num_classes is None else self._label_rule(batch),
            None if self._mask_rule is None else self._mask_rule(batch),
        )
