"""The tables of a report, as strings ready to show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tfc_fast.phases import PhaseSummary, Rise
from tfc_fast.report.words import first_phase

MISSING = "n/a"
"""Shown for what was not measured."""


def number(value: float | None, digits: int = 3) -> str:
    """A number to so many significant digits, or the sign for what was not measured.

    Example:
        >>> number(0.012345), number(1500), number(float("nan"))
        ('0.0123', '1,500', 'n/a')
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:.{digits}g}"


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as rows of a name and a value.

    Example:
        >>> flat({"lr": 0.05, "model": {"depth": 7, "given": False}, "shape": [8, 8]})
        [('lr', '0.05'), ('model.depth', '7'), ('model.given', 'no'), ('shape', '8, 8')]
    """
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _shown(value)))
    return rows


def side_by_side(tables: Sequence[list[tuple[str, str]]]) -> list[tuple[str, list[str]]]:
    """Tables of several runs as one, a column per run.

    Args:
        tables: rows of a name and a value, of each run.

    Returns:
        Rows of a name and the values of all runs, in the order in which names first come up.

    Example:
        >>> side_by_side([[("lr", "0.1")], [("lr", "0.2"), ("momentum", "0.9")]])
        [('lr', ['0.1', '0.2']), ('momentum', ['n/a', '0.9'])]
    """
    names = dict.fromkeys(name for table in tables for name, _ in table)
    found = [dict(table) for table in tables]
    return [(name, [table.get(name, MISSING) for table in found]) for name in names]


def key_numbers(summary: PhaseSummary, stored: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The few numbers that say most about a run.

    Args:
        summary: analysis of the run.
        stored: content of `summary.json`, from which accuracy, time and overhead are taken; may be
            empty.

    Returns:
        Rows of a name and a value.
    """
    rows = [("Steps", _steps(summary, stored))]
    rows.append(("First phase ends at step", _end(summary)))
    if summary.collapse_site is not None:
        peak = f"{summary.peak_feature_cos_between:.3f} (step {summary.peak_step:,})"
        rows.append(("Largest rise at", summary.collapse_site))
        rows.append(("Peak cosine between classes there", peak))
    rows.append(("Loss at the end (average)", number(summary.final_loss)))
    if stored.get("accuracy") is not None:
        rows.append(("Training accuracy at the end", f"{100 * stored['accuracy']:.1f} %"))
    if stored.get("seconds") is not None:
        rows.append(("Time in all steps", f"{stored['seconds']:,.1f} s"))
    rows += [(f"Probe overhead, {name}", value) for name, value in flat(_overhead(stored))]
    if stored.get("stopped_by"):
        rows.append(("Stopped by", str(stored["stopped_by"])))
    return rows


def site_rows(summary: PhaseSummary) -> list[tuple[str, list[str], list[str]]]:
    """The sites with the course of their similarities.

    Args:
        summary: analysis of the run.

    Returns:
        Name, cells of the features between classes, and cells of the gradients within classes:
        start, peak, step of the peak, rise, fall.
    """
    return [
        (site.site, _cells(site.feature_between), _cells(site.grad_within))
        for site in summary.sites
    ]


def _cells(course: Rise) -> list[str]:
    def cosine(value: float, sign: str = "") -> str:
        return f"{value:{sign}.3f}" if math.isfinite(value) else MISSING

    return [
        cosine(course.start),
        cosine(course.peak),
        MISSING if course.peak_step is None else f"{course.peak_step:,}",
        cosine(course.rise, "+"),
        cosine(-course.fall, "+"),
    ]


def _end(summary: PhaseSummary) -> str:
    if summary.first_phase_end is not None:
        return f"{summary.first_phase_end:,}"
    return {"unknown": "not known", "none": "no first phase"}.get(first_phase(summary), "not ended")


def _steps(summary: PhaseSummary, stored: Mapping[str, Any]) -> str:
    planned = stored.get("planned_steps")
    if planned is None or planned == summary.n_steps:
        return f"{summary.n_steps:,}"
    return f"{summary.n_steps:,} of {planned:,}"


def _overhead(stored: Mapping[str, Any]) -> Mapping[str, Any]:
    overhead = stored.get("overhead")
    if overhead is None:
        return {}
    if not isinstance(overhead, Mapping):
        return {"": overhead}
    return {
        key.replace("_", " "): number(value) if isinstance(value, float) else value
        for key, value in overhead.items()
        if key != "steps"
    }


def _shown(value: Any) -> str:
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_shown(item) for item in value) or MISSING
    return str(value)
