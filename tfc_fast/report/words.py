"""The texts of a report that depend on the run."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from tfc_fast.phases import PhaseSummary, Verdict
from tfc_fast.records import Records

FirstPhase = Literal["ended", "open", "none", "unknown"]

_MEANINGS: dict[Verdict, str] = {
    "collapsed": (
        "For a while the network made the features of all samples more alike, those of different "
        "classes included, so that it could hardly tell them apart and its loss hardly fell. It "
        "found the way out by itself. The steps until then were mostly lost, and a deeper network "
        "or a harder task may not find the way out."
    ),
    "stuck": (
        "The network has not started to learn: it is still in the first phase. There the features "
        "of different classes can be so alike that their gradients hardly tell the network how to "
        "separate them; very deep networks with small initial weights can stay there for good."
    ),
    "none": (
        "The network started to learn soon, or its features did not grow more alike while it "
        "waited. Nothing needs to be done about collapse."
    ),
    "undecided": (
        "There is too little to judge by: the network may be about to learn, to collapse or to get "
        "stuck. Train for longer, or look at the figures."
    ),
}


def first_phase(summary: PhaseSummary) -> FirstPhase:
    """Whether the first phase ended or is still open, there was none, or nothing is known of it.

    Example:
        >>> from tfc_fast.phases import analyze
        >>> first_phase(analyze([2.3] * 400, None)), first_phase(analyze([math.nan] * 400, None))
        ('open', 'unknown')
    """
    if summary.beginning_unknown or summary.n_nonfinite_losses == summary.n_steps:
        return "unknown"
    if summary.always_below_chance:
        return "none"
    return "open" if summary.first_phase_end is None else "ended"


def meaning(summary: PhaseSummary) -> str:
    """What the verdict means for the user."""
    if summary.always_below_chance:
        return "A network that can do the task from the start has no first phase to get through."
    if summary.n_nonfinite_losses == summary.n_steps:
        return "The phases of a run are told from its loss, and there is no finite one."
    if summary.beginning_unknown:
        return (
            "Phases are told from the beginning of a run on, and that is not recorded here. The "
            "figures show what is."
        )
    if summary.verdict == "undecided" and summary.first_phase_end is not None:
        return (
            "The network learns, but whether its features collapsed meanwhile shows only in their "
            "similarity between classes: train with the probe, and give it the class labels."
        )
    if summary.verdict == "undecided" and math.isnan(summary.final_loss):
        return (
            "Before the first phase was over the losses were no longer finite, and nothing can be "
            "told from then on. See that they stay finite, with a smaller learning rate for "
            "instance."
        )
    return _MEANINGS[summary.verdict]


def notes(summary: PhaseSummary, *, finished: bool, records: Records) -> list[str]:
    """What the reader should know about the data of the report.

    Args:
        summary: analysis of the run.
        finished: whether the run left a summary.
        records: its records; may be empty.

    Returns:
        Sentences; mostly none.
    """
    found = []
    if not finished:
        found.append(
            "The run has no summary.json: it is still going on or was stopped before its end. All "
            f"here was computed from what is on disk: {summary.n_steps:,} "
            f"{'step' if summary.n_steps == 1 else 'steps'}."
        )
    if not records["step"].size:
        found.append(
            "The run has no records of features, gradients and gates: it was trained without a "
            "probe, or stopped before the first records were written."
        )
        return found
    pairs = ("feature_cos_within", "feature_cos_between", "grad_cos_within", "grad_cos_between")
    if not any(np.isfinite(records[name]).any() for name in pairs):
        found.append(
            "Similarity within and between classes was not measured, because the probe was given "
            "no class labels. The figures show all pairs of samples together."
        )
    columns = {
        "features": ("feature_cos_all", "feature_cos_within", "feature_cos_between"),
        "gradients": ("grad_cos_all", "grad_cos_within", "grad_cos_between"),
        "gates": ("active_rate", "dead_frac"),
    }
    for what, names in columns.items():
        if not any(np.isfinite(records[name]).any() for name in names):
            found.append(f"Nothing was measured of the {what}; their figures are left out.")
    bad = int(records["n_nonfinite"].sum())
    if bad:
        found.append(
            f"{bad:,} rows of features or gradients were not finite; they are left out of all "
            "statistics."
        )
    return found
