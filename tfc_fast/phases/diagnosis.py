"""Diagnosis: what held a run up, at which site, from which step on, and how that is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tfc_fast.phases.sites import FloatArray, IntArray, running_mean, site_codes
from tfc_fast.phases.summary import PhaseSummary
from tfc_fast.phases.thresholds import DEAD_UNITS, DEAD_WINDOW, INITIAL_COSINE, VANISHING, WINDOW

__all__ = ["Diagnosis", "Finding", "FindingKind", "diagnose"]

FindingKind = Literal[
    "divergence",
    "collapse at initialisation",
    "collapse during training",
    "dead units",
    "vanishing gradients",
    "unexplained",
    "none",
    "undecided",
]

_Series = dict[str, tuple[IntArray, FloatArray]]


@dataclass(frozen=True)
class Finding:
    """One thing that was found, or could not be decided.

    Attributes:
        kind: What it is.
        sites: Where, the first one first; empty for what concerns the whole run.
        step: From when on; None if it has no step.
        evidence: The numbers that it rests on.
        sentence: All of that in plain words.
    """

    kind: FindingKind
    sites: tuple[str, ...]
    step: int | None
    evidence: dict[str, float]
    sentence: str


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


class _OpenError(Exception):
    """Why something could not be decided."""


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
    diverged = _divergence(summary, records)
    if diverged is not None and summary.last_step is not None and "step" in records:
        kept = np.asarray(records["step"]) <= summary.last_step
        records = {name: np.asarray(values)[kept] for name, values in records.items()}
    checks: dict[str, Callable[[], Finding | None]] = {
        "features were alike at initialisation": partial(_initial_collapse, summary, records),
        "features grew alike during training": partial(_later_collapse, summary, records),
        "units are dead": partial(_dead_units, records, dead_window),
        "gradients vanish": partial(_vanishing_gradients, summary, records),
    }
    found = [] if diverged is None else [diverged]
    unknown = []
    for what, check in checks.items():
        try:
            finding = check()
        except _OpenError as reason:
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


def _was_held_up(summary: PhaseSummary) -> bool:
    """Whether the first phase was long; _OpenError if that is not known."""
    if summary.beginning_unknown:
        raise _OpenError(f"the first {summary.n_missing_steps:,} steps of the run are not recorded")
    if summary.always_below_chance:
        return False
    least = int(summary.thresholds["min_phase"] or 0)
    length = summary.phase_length
    if length is None:
        if summary.first_step is None or summary.last_step is None:
            raise _OpenError("no finite loss was recorded")
        length = summary.last_step - summary.first_step + 1 + summary.n_missing_steps
        if length < least:
            raise _OpenError(
                f"there are only {length:,} steps, a first phase of {least} or more is wanted"
            )
    return length >= least


def _check_similarity(summary: PhaseSummary) -> None:
    if all(math.isnan(site.feature_between.start) for site in summary.sites):
        raise _OpenError(
            "the similarity of features between classes was not measured, which needs a probe and "
            "class labels"
        )


def _divergence(summary: PhaseSummary, records: Mapping[str, npt.NDArray[Any]]) -> Finding | None:
    if not summary.has_diverged:
        return None
    last = summary.last_step
    step = summary.first_step if last is None else last + 1
    bad = _series(records, "n_nonfinite")
    since = {
        name: int(steps[of][0])
        for name, (steps, counts) in bad.items()
        for of in [(counts > 0) & (steps >= (last or 0))]
        if of.any()
    }
    first = [name for name, at in since.items() if at == min(since.values())]
    where = f" Rows that are not finite were seen first at {first[0]}." if first else ""
    return Finding(
        "divergence",
        tuple(first),
        step,
        {"n_nonfinite_losses": summary.n_nonfinite_losses},
        f"The run diverged: from step {step:,} on its loss was not finite, as with too large a "
        f"learning rate.{where} All else that is told is about the steps before.",
    )


def _initial_collapse(
    summary: PhaseSummary, records: Mapping[str, npt.NDArray[Any]]
) -> Finding | None:
    if not _was_held_up(summary):
        return None
    _check_similarity(summary)
    if summary.n_missing_steps:
        raise _OpenError(f"the first {summary.n_missing_steps:,} steps of the run are not recorded")
    first_steps = (summary.first_step or 0) + int(summary.thresholds["window"] or WINDOW) // 2
    starts = {
        name: float(values[of].mean())
        for name, (steps, values) in _series(records, "feature_cos_between").items()
        for of in [(steps <= first_steps) & np.isfinite(values)]
        if of.any()
    }
    if not starts:
        raise _OpenError(f"nothing was recorded until step {first_steps:,}")
    sites = tuple(name for name, start in starts.items() if start >= INITIAL_COSINE)
    if not sites:
        return None
    first = sites[0]
    return Finding(
        "collapse at initialisation",
        sites,
        summary.first_step,
        {"start": starts[first], "largest_start": max(starts[name] for name in sites)},
        f"Features of different classes were alike before the network was trained, from {first} "
        f"on: mean cosine {starts[first]:.2f} at step {summary.first_step}{_also(sites)}.",
    )


def _later_collapse(
    summary: PhaseSummary, records: Mapping[str, npt.NDArray[Any]]
) -> Finding | None:
    if not _was_held_up(summary):
        return None
    _check_similarity(summary)
    least = float(summary.thresholds["min_rise"] or 0.0)
    risen = {
        site.site: site.feature_between
        for site in summary.sites
        if site.feature_between.rise >= least
    }
    if not risen:
        if summary.n_missing_steps:
            raise _OpenError(
                f"the first {summary.n_missing_steps:,} steps of the run are not recorded, and "
                "there was no rise after them"
            )
        if summary.first_phase_end is None and summary.verdict == "undecided":
            raise _OpenError("the first phase has not ended, and features can still grow alike")
        return None
    series = _in_first_phase(_series(records, "feature_cos_between"), summary)
    window = int(summary.thresholds["window"] or WINDOW)
    onsets = {}
    for name, course in risen.items():
        steps, values = series[name]
        above = running_mean(values, window) >= course.start + least
        onsets[name] = int(steps[np.argmax(above)])
    sites = tuple(sorted(risen, key=lambda name: onsets[name]))
    first = sites[0]
    course = risen[first]
    return Finding(
        "collapse during training",
        sites,
        onsets[first],
        {"start": course.start, "peak": course.peak, "rise": course.rise},
        f"Features of different classes grew alike while the network was trained, first at {first} "
        f"(from step {onsets[first]:,} on): mean cosine {course.start:.2f} at the start, "
        f"{course.peak:.2f} at step {course.peak_step:,}{_also(sites)}.",
    )


def _dead_units(records: Mapping[str, npt.NDArray[Any]], window: int) -> Finding | None:
    series = {
        name: (steps, values)
        for name, (steps, values) in _series(records, "dead_window_frac").items()
        if np.isfinite(values).any()
    }
    if not series:
        raise _OpenError("it was not measured, which needs a probe at ReLUs")
    last = max(int(steps[-1]) for steps, _ in series.values())
    if last < window:
        raise _OpenError(f"there are only {last:,} steps, {window:,} are wanted to tell")
    shares, since = {}, {}
    for name, (steps, values) in series.items():
        known = np.isfinite(values) & (steps >= window)
        means = _trailing_means(values[known])
        if means.size and means[-1] >= DEAD_UNITS:
            below = np.flatnonzero(means < DEAD_UNITS)
            stays = below[-1] + 1 if below.size else 0
            # The mean is late: what lifted it began within its window.
            begin = max(stays - WINDOW + 1, 0)
            begin += int(np.argmax(values[known][begin : stays + 1] >= DEAD_UNITS))
            shares[name], since[name] = float(means[-1]), int(steps[known][begin])
    if not shares:
        return None
    sites = tuple(sorted(shares, key=lambda name: since[name]))
    first_site = sites[0]
    return Finding(
        "dead units",
        sites,
        since[first_site],
        {"dead_window_frac": shares[first_site], "largest": max(shares.values())},
        f"{shares[first_site]:.0%} of the units at {first_site} were above 0 for no sample of "
        f"{window:,} steps (known since step {since[first_site]:,}){_also(sites)}.",
    )


def _vanishing_gradients(
    summary: PhaseSummary, records: Mapping[str, npt.NDArray[Any]]
) -> Finding | None:
    if not _was_held_up(summary):
        return None
    series = _in_first_phase(_gradient_norms(records), summary)
    measured = [name for name, (_, norms) in series.items() if np.isfinite(norms).any()]
    if len(measured) < 2:
        raise _OpenError("the gradients of at least two sites have to be measured")
    first = measured[0]
    last = max(measured[1:], key=lambda name: float(np.nanmedian(series[name][1])))
    (steps, first_norms), (last_steps, last_norms) = series[first], series[last]
    both, at_first, at_last = np.intersect1d(steps, last_steps, return_indices=True)
    above, below = last_norms[at_last], first_norms[at_first]
    known = np.isfinite(below) & (above > 0)
    if not known.any():
        raise _OpenError(f"there are no gradients at {last}")
    ratios = below[known] / above[known]
    ratio = float(np.median(ratios))
    if ratio >= VANISHING:
        return None
    step = int(both[known][np.argmax(ratios < VANISHING)])
    return Finding(
        "vanishing gradients",
        (first, last),
        step,
        {"ratio": ratio},
        f"Gradients vanish on their way back: at {first} they are {ratio:.2g} times as long as at "
        f"{last} (from step {step:,} on, median of the first phase).",
    )


def _gradient_norms(records: Mapping[str, npt.NDArray[Any]]) -> _Series:
    """Mean length of the gradients by site; 0 where all are zero, of which no mean is recorded."""
    norms = _series(records, "grad_norm_mean")
    zero, rows = _series(records, "n_zero_grads"), _series(records, "n_rows")
    for name in norms.keys() & zero.keys() & rows.keys():
        steps, values = norms[name]
        vanished = np.isnan(values) & (zero[name][1] == rows[name][1]) & (rows[name][1] > 0)
        norms[name] = (steps, np.where(vanished, 0.0, values))
    return norms


def _trailing_means(values: FloatArray) -> FloatArray:
    """Mean of each value and the up to `WINDOW - 1` before it."""
    sums = np.convolve(values, np.ones(WINDOW))[: values.size]
    means: FloatArray = sums / np.minimum(np.arange(1, values.size + 1), WINDOW)
    return means


def _series(records: Mapping[str, npt.NDArray[Any]], column: str) -> _Series:
    """Steps and values of a column at each site, in step order; empty if it is not there."""
    if column not in records:
        return {}
    sites, code = site_codes(records["site"])
    steps = np.asarray(records["step"], np.int64)
    values = np.asarray(records[column], np.float64)
    order = np.lexsort((steps, code))
    bounds = np.searchsorted(code[order], np.arange(len(sites) + 1))
    rows = (order[bounds[at] : bounds[at + 1]] for at in range(len(sites)))
    return {site: (steps[of], values[of]) for site, of in zip(sites, rows, strict=True)}


def _in_first_phase(series: _Series, summary: PhaseSummary) -> _Series:
    end = summary.first_phase_end
    if end is None:
        return series
    return {
        name: (steps[steps < end], values[steps < end]) for name, (steps, values) in series.items()
    }


def _also(sites: tuple[str, ...]) -> str:
    return "" if len(sites) == 1 else f"; likewise at {', '.join(sites[1:])}"
