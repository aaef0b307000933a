"""Diagnosis: what held a run up, at which site, from which step on, and how that is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc_fast.phases.findings import (
    Finding,
    FindingKind,
    UndecidedError,
    dead_units,
    divergence,
    initial_collapse,
    later_collapse,
    vanishing_gradients,
)
from tfc_fast.phases.summary import PhaseSummary
from tfc_fast.phases.thresholds import DEAD_WINDOW

__all__ = ["Diagnosis", "diagnose"]


@dataclass(frozen=True)
class Diagnosis:
    """Result of `diagnose`.

    Attributes:
        findings: What was found; one of kind `"none"`, `"unexplained"` or `"undecided"` if nothing.
        open: What could not be decided, and why; all of kind `"undecided"`.
    """

    findings: tuple[Finding, ...]
    open: tuple[Finding, ...]

    @property
    def kinds(self) -> tuple[FindingKind, ...]:
        """The kinds of the findings."""
        return tuple(finding.kind for finding in self.findings)

    @property
    def first_collapse(self) -> Finding | None:
        """The collapse that was there first; its first site is the layer that collapsed first."""
        collapses = [finding for finding in self.findings if finding.kind.startswith("collapse")]
        return collapses[0] if collapses else None

    @property
    def sentences(self) -> list[str]:
        """All of it in plain words."""
        return [finding.sentence for finding in (*self.findings, *self.open)]

    def to_dict(self) -> dict[str, Any]:
        """This diagnosis as plain values for JSON."""
        return {
            name: [{**asdict(finding), "sites": list(finding.sites)} for finding in findings]
            for name, findings in (("findings", self.findings), ("open", self.open))
        }


def diagnose(
    summary: PhaseSummary,
    records: Mapping[str, npt.NDArray[Any]] | None,
    *,
    dead_window: int = DEAD_WINDOW,
) -> Diagnosis:
    """What held the run up, as far as its records tell.

    All means are those of `site_phases`: over `window` records of a site, within the first phase.
    The *start* of a site is its first one. A run is *held up* if its first phase lasted `min_phase`
    steps or more, ended or not; collapse and vanishing gradients are only told of such a run.

    - `"divergence"`: the last loss is not finite. The step is the one after the last finite loss,
      and all else is about the records until then.
    - `"collapse at initialisation"`: at a site the mean cosine between classes, over the first
      `window // 2 + 1` steps of the run, is 0.8 (`INITIAL_COSINE`) or more.
    - `"collapse during training"`: at a site it rose by `min_rise` (0.04) or more:
      `peak - start >= min_rise`. It collapsed at the first step with `mean >= start + min_rise`;
      sites are in the order of these steps.
    - `"dead units"`: half of the units of a site, or more, were dead at the end of the records:
      the mean of the last `window` values of `dead_window_frac` is at least `DEAD_UNITS`. The step
      is that of the first such value in the window from which on that mean stays there. A unit
      counts as dead that was above 0 for no sample, which says little at a module that is no ReLU.
    - `"vanishing gradients"`: half of the steps of the first phase, or more, have
      `grad_norm_mean(first site) < VANISHING * grad_norm_mean(s)`, where `s` is the site with the
      largest median (mostly the last one; a tap stands behind all modules in the records, wherever
      it is in the network). A site whose gradients are all zero counts as 0. The step is the first
      of these.

    If there is none of them: `"none"` for a run that was not held up, or not at all in these ways;
    `"unexplained"` for one that is stuck; `"undecided"` if at least one could not be decided.
    What cannot be decided (too short, not measured, the beginning missing) stands in `open` and
    says why.

    Args:
        summary: from `analyze`.
        records: the records that it was given; sites in the order of the network.
        dead_window: steps that `dead_window_frac` looks back over (`window` of the probe).

    Returns:
        The diagnosis.

    Raises:
        ValueError: `dead_window` is below 1.

    Example:
        >>> from tfc_fast.phases import analyze
        >>> diagnose(analyze([2.3] * 30, None), None).kinds
        ('undecided',)
    """
    if dead_window < 1:
        raise ValueError(f"dead_window: {dead_window} given, at least 1 step is wanted")
    records = records or {}
    diverged = divergence(summary, records)
    if diverged is not None and summary.last_step is not None and "step" in records:
        kept = np.asarray(records["step"]) <= summary.last_step
        records = {name: np.asarray(values)[kept] for name, values in records.items()}
    checks: dict[str, Callable[[], Finding | None]] = {
        "features were alike at initialisation": partial(initial_collapse, summary, records),
        "features grew alike during training": partial(later_collapse, summary, records),
        "units are dead": partial(dead_units, records, dead_window),
        "gradients vanish": partial(vanishing_gradients, summary, records),
    }
    found = [] if diverged is None else [diverged]
    unknown = []
    for what, check in checks.items():
        try:
            finding = check()
        except UndecidedError as reason:
            sentence = f"Not known whether {what}: {reason}."
            unknown.append(Finding("undecided", (), None, {}, sentence))
            continue
        if finding is not None:
            found.append(finding)
    return Diagnosis(tuple(found or [_nothing(summary, bool(unknown))]), tuple(unknown))


def _nothing(summary: PhaseSummary, is_open: bool) -> Finding:
    if is_open:
        kind: FindingKind = "undecided"
        sentence = "Nothing was found, but not everything could be decided."
    elif summary.verdict == "stuck":
        kind = "unexplained"
        sentence = (
            "The run is stuck, and neither alike features nor dead units nor vanishing gradients "
            "explain it."
        )
    elif summary.first_phase_end is None and not summary.always_below_chance:
        kind = "undecided"
        sentence = "Nothing was found so far, but the first phase has not ended."
    else:
        kind = "none"
        sentence = "Neither collapsed features nor dead units nor vanishing gradients were found."
    return Finding(kind, (), None, {}, sentence)
