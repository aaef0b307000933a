"""What can be found in a run, one function for each kind; `diagnose` has the criteria in words.

Each returns the finding, or None if there is none, and raises UndecidedError if that is not known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tfc_fast.phases.sites import FloatArray, IntArray, running_mean, site_codes
from tfc_fast.phases.summary import PhaseSummary
from tfc_fast.phases.thresholds import DEAD_UNITS, INITIAL_COSINE, VANISHING, WINDOW

__all__ = [
    "Finding",
    "FindingKind",
    "UndecidedError",
    "dead_units",
    "divergence",
    "initial_collapse",
    "later_collapse",
    "vanishing_gradients",
]

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


class UndecidedError(Exception):
    """Why something could not be decided."""


def _was_held_up(summary: PhaseSummary) -> bool:
    """Whether the first phase was long; UndecidedError if that is not known."""
    if summary.beginning_unknown:
        raise UndecidedError(
            f"the first {summary.n_missing_steps:,} steps of the run are not recorded"
        )
    if summary.always_below_chance:
        return False
    least = int(summary.thresholds["min_phase"] or 0)
    length = summary.phase_length
    if length is None:
        if summary.first_step is None or summary.last_step is None:
            raise UndecidedError("no finite loss was recorded")
        length = summary.last_step - summary.first_step + 1 + summary.n_missing_steps
        if length < least:
            raise UndecidedError(
                f"there are only {length:,} steps, a first phase of {least} or more is wanted"
            )
    return length >= least


def _check_similarity(summary: PhaseSummary) -> None:
    if all(math.isnan(site.feature_between.start) for site in summary.sites):
        raise UndecidedError(
            "the similarity of features between classes was not measured, which needs a probe and "
            "class labels"
        )


def divergence(summary: PhaseSummary, records: Mapping[str, npt.NDArray[Any]]) -> Finding | None:
    """Losses that were not finite until the end."""
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


def initial_collapse(
    summary: PhaseSummary, records: Mapping[str, npt.NDArray[Any]]
) -> Finding | None:
    """Features that were alike before the network was trained."""
    if not _was_held_up(summary):
        return None
    _check_similarity(summary)
    if summary.n_missing_steps:
        raise UndecidedError(
            f"the first {summary.n_missing_steps:,} steps of the run are not recorded"
        )
    first_steps = (summary.first_step or 0) + int(summary.thresholds["window"] or WINDOW) // 2
    starts = {
        name: float(values[of].mean())
        for name, (steps, values) in _series(records, "feature_cos_between").items()
        for of in [(steps <= first_steps) & np.isfinite(values)]
        if of.any()
    }
    if not starts:
        raise UndecidedError(f"nothing was recorded until step {first_steps:,}")
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


def later_collapse(
    summary: PhaseSummary, records: Mapping[str, npt.NDArray[Any]]
) -> Finding | None:
    """Features that grew alike in the first phase."""
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
            raise UndecidedError(
                f"the first {summary.n_missing_steps:,} steps of the run are not recorded, and "
                "there was no rise after them"
            )
        if summary.first_phase_end is None and summary.verdict == "undecided":
            raise UndecidedError("the first phase has not ended, and features can still grow alike")
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


def dead_units(records: Mapping[str, npt.NDArray[Any]], window: int) -> Finding | None:
    """Sites of which half of the units were above 0 for no sample of `window` steps."""
    series = {
        name: (steps, values)
        for name, (steps, values) in _series(records, "dead_window_frac").items()
        if np.isfinite(values).any()
    }
    if not series:
        raise UndecidedError("it was not measured, which needs a probe at ReLUs")
    last = max(int(steps[-1]) for steps, _ in series.values())
    if last < window:
        raise UndecidedError(f"there are only {last:,} steps, {window:,} are wanted to tell")
    shares, since = {}, {}
    for name, (steps, values) in series.items():
        known = np.isfinite(values) & (steps >= window)
        if not known.any():
            continue  # such as a site that a budget has left out since
        means = _trailing_means(values[known])
        if means[-1] >= DEAD_UNITS:
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


def vanishing_gradients(
    summary: PhaseSummary, records: Mapping[str, npt.NDArray[Any]]
) -> Finding | None:
    """Gradients that all but vanish on their way back, in the first phase."""
    if not _was_held_up(summary):
        return None
    series = _in_first_phase(_gradient_norms(records), summary)
    measured = [name for name, (_, norms) in series.items() if np.isfinite(norms).any()]
    if len(measured) < 2:
        raise UndecidedError("the gradients of at least two sites have to be measured")
    first = measured[0]
    last = max(measured[1:], key=lambda name: float(np.nanmedian(series[name][1])))
    (steps, first_norms), (last_steps, last_norms) = series[first], series[last]
    both, at_first, at_last = np.intersect1d(steps, last_steps, return_indices=True)
    above, below = last_norms[at_last], first_norms[at_first]
    known = np.isfinite(below) & (above > 0)
    if not known.any():
        raise UndecidedError(f"there are no gradients at {last}")
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
