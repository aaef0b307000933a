"""A summary in plain words: what happened, and what to try."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tfc_fast.phases.effects import advice
from tfc_fast.phases.sites import SitePhase
from tfc_fast.phases.summary import PhaseSummary

REMEDY_NOTE = (
    "The effects were measured on one network by tfc-fast reproduce; yours may differ. "
    "tfc-fast advise RUN --try measures them on your run. Change one thing at a time."
)


def describe(summary: PhaseSummary) -> str:
    """The verdict in a few plain sentences: `headline`, a colon, `details`.

    Args:
        summary: from `analyze`.

    Returns:
        The sentences, in one line.

    Example:
        >>> from tfc_fast.phases import analyze
        >>> describe(analyze([2.3] * 30, None))
        'Too short to tell: after 30 steps the loss is not 10 % below its first plateau (it is
        2.3 at the end). Only after more than 300 steps can a run be called stuck.'
    """
    return f"{headline(summary)}: {details(summary)}"


def headline(summary: PhaseSummary) -> str:
    """The verdict in a few words.

    Args:
        summary: from `analyze`.

    Returns:
        The words, without a full stop.

    Example:
        >>> from tfc_fast.phases import analyze
        >>> headline(analyze([2.3] * 400, None))
        'Stuck in the first phase'
    """
    if summary.n_nonfinite_losses == summary.n_steps:
        return "Nothing to judge"
    if summary.beginning_unknown:
        return "The beginning is missing"
    if summary.always_below_chance:
        return "No first phase"
    if summary.verdict == "stuck":
        return "Stuck in the first phase"
    if summary.first_phase_end is None:
        return "Too short to tell" if _is_too_short(summary) else "Still in the first phase"
    if summary.verdict == "undecided":
        return "Not known whether features collapsed"
    if summary.verdict == "collapsed":
        return "Temporary feature collapse"
    return "No temporary feature collapse"


def details(summary: PhaseSummary) -> str:
    """What the verdict rests on: length of the first phase, loss, rise of the similarity.

    Args:
        summary: from `analyze`.

    Returns:
        Sentences in one line; the first one goes on after a headline and a colon.

    Example:
        >>> from tfc_fast.phases import analyze
        >>> details(analyze([2.3] * 30, None))
        'after 30 steps the loss is not 10 % below its first plateau (it is 2.3 at the end). Only
        after more than 300 steps can a run be called stuck.'
    """
    if summary.n_nonfinite_losses == summary.n_steps:
        return "no finite loss was recorded."
    sentences = [_loss_sentence(summary)]
    if (
        not summary.beginning_unknown
        and not summary.always_below_chance
        and not _is_too_short(summary)
    ):
        sentences.append(_similarity_sentence(summary))
    if summary.n_nonfinite_losses:
        end = ", the last one among them" if math.isnan(summary.final_loss) else ""
        sentences.append(
            f"{summary.n_nonfinite_losses} of {summary.n_steps} losses were not finite{end}."
        )
    return " ".join(sentences)


def remedies(summary: PhaseSummary, settings: Mapping[str, Any] | None = None) -> list[str]:
    """What to try when the network is stuck or collapsed for a while, by measured effect.

    Args:
        summary: from `analyze`.
        settings: those of the run, see `tfc_fast.phases.effects.advice`.

    Returns:
        One remedy per entry with the effect that it rests on, the largest first; empty for the
        verdicts `"none"` and `"undecided"`, and for a run that ended with losses that are not
        finite: what shortens the first phase makes that more likely, if anything.

    Example:
        >>> from tfc_fast.phases import analyze
        >>> remedies(analyze([2.3] * 400, None))[0].partition(" Measured")[0]
        'Add batch normalisation before each ReLU.'
    """
    if summary.verdict in ("none", "undecided") or summary.has_diverged:
        return []
    return advice(settings)


def _loss_sentence(summary: PhaseSummary) -> str:
    if summary.beginning_unknown:
        return (
            f"the first {_count(summary.n_missing_steps)} of the run are not recorded, and nothing "
            "says whether the first phase was over by then"
            f"{_final(summary, 'the loss is')}. Keep all steps (history_records=None, or a sink "
            "that writes them to a file)."
        )
    if summary.always_below_chance:
        return (
            "the loss was below chance level from the start, like that of a network that was "
            "trained before."
        )
    length = summary.phase_length
    if length is not None:
        only = "only " if length < float(summary.thresholds["min_phase"] or 0) else ""
        return (
            f"the first phase lasted {only}{_count(length)}, then the loss fell"
            f"{_final(summary, 'to')}."
        )
    drop = 100 * float(summary.thresholds["drop"] or 0.0)
    patience = _count(int(summary.thresholds["patience"] or 0))
    level = (
        f"after {_count(_length(summary))} the loss is not {drop:g} % below its first plateau"
        f"{_final(summary, 'it is')}"
    )
    if summary.verdict == "stuck":
        return f"{level}, and at least the last {patience} brought no progress."
    if _is_too_short(summary):
        return f"{level}. Only after more than {patience} can a run be called stuck."
    return f"{level}, but the last {patience} brought progress, in the loss or in the features."


def _length(summary: PhaseSummary) -> int:
    """Steps from the first loss to the last finite one."""
    if summary.first_step is None or summary.last_step is None:
        return 0
    return summary.last_step - summary.first_step + 1


def _is_too_short(summary: PhaseSummary) -> bool:
    """Whether the first phase did not end in a run that is too short to be stuck."""
    patience = int(summary.thresholds["patience"] or 0)
    return summary.first_phase_end is None and _length(summary) <= patience


def _similarity_sentence(summary: PhaseSummary) -> str:
    site = next((site for site in summary.sites if site.site == summary.collapse_site), None)
    if site is None:
        return (
            "The similarity of features between classes was not measured: it needs a probe that is "
            "given class labels."
        )
    course = site.feature_between
    if course.rise < float(summary.thresholds["min_rise"] or 0.0):
        missing = summary.n_missing_steps
        return (
            "The features of different classes did not grow more alike meanwhile: the mean cosine "
            f"between classes rose by at most {max(_largest(summary.sites), 0.0):.3f}"
            + (f" after step {missing:,}; what was before is not recorded." if missing else ".")
        )
    sentence = (
        f"Meanwhile the features of different classes grew more alike, at {site.site} as much as "
        f"anywhere: the mean cosine between classes rose from {course.start:.2f} to "
        f"{course.peak:.2f} (step {course.peak_step})"
    )
    if course.fall > 0.0:
        sentence += f" and later fell to {course.peak - course.fall:.2f}"
    return sentence + "."


def _largest(sites: tuple[SitePhase, ...]) -> float:
    rises = (site.feature_between.rise for site in sites)
    return max((rise for rise in rises if not math.isnan(rise)), default=math.nan)


def _final(summary: PhaseSummary, verb: str) -> str:
    if math.isnan(summary.final_loss):
        return ""
    return f" ({verb} {summary.final_loss:.3g} at the end)"


def _count(steps: int) -> str:
    return f"{steps:,} step" + ("" if steps == 1 else "s")
