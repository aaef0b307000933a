"""The phases of a training run: when the first phase ended, and whether features collapsed in it.

A deep network often starts with a *first phase* in which the loss hardly falls. When the features
of different classes grow more alike in it, that is temporary feature collapse; when the phase never
ends, the network is stuck. Everything here works on plain numpy arrays of one run. The rules and
their thresholds stand in the docstrings of `first_phase_end`, `site_phases` and `analyze`; the
numbers are in `tfc_fast.phases.thresholds`.

    summary = analyze(loss, probe.history(), chance_loss=math.log(num_classes))
    print(describe(summary), remedies(summary))
    print(diagnose(summary, probe.history()).sentences)

`loss_change_point` and `rise_p_value`, which are part of it, tell how surely the one run shows what
it shows; `over_seeds` how surely several do.

While the run is going on, `PhaseMonitor` tells its state step by step, and `EventDetector` finds in
its records what somebody should hear of.
"""

from __future__ import annotations

from tfc_fast.phases.change_point import ChangePoint, loss_change_point
from tfc_fast.phases.curve import first_phase_end, smoothed_loss
from tfc_fast.phases.diagnosis import Diagnosis, diagnose
from tfc_fast.phases.effects import Effect, advice, effects
from tfc_fast.phases.events import EVENT_KINDS, Event, EventDetector, EventKind
from tfc_fast.phases.findings import Finding, FindingKind
from tfc_fast.phases.monitor import Change, PhaseMonitor, State
from tfc_fast.phases.seeds import MedianInterval, SeedSummary, median_interval, over_seeds
from tfc_fast.phases.sites import Rise, SitePhase, site_phases
from tfc_fast.phases.summary import PhaseSummary, Verdict, analyze
from tfc_fast.phases.trend import rise_p_value
from tfc_fast.phases.words import REMEDY_NOTE, describe, details, headline, remedies

__all__ = [
    "EVENT_KINDS",
    "REMEDY_NOTE",
    "Change",
    "ChangePoint",
    "Diagnosis",
    "Effect",
    "Event",
    "EventDetector",
    "EventKind",
    "Finding",
    "FindingKind",
    "MedianInterval",
    "PhaseMonitor",
    "PhaseSummary",
    "Rise",
    "SeedSummary",
    "SitePhase",
    "State",
    "Verdict",
    "advice",
    "analyze",
    "describe",
    "details",
    "diagnose",
    "effects",
    "first_phase_end",
    "headline",
    "loss_change_point",
    "median_interval",
    "over_seeds",
    "remedies",
    "rise_p_value",
    "site_phases",
    "smoothed_loss",
]
