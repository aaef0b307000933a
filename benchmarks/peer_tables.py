"""The results of `peers.py` as a table for the terminal, and as tables of a Markdown page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from peer_measure import Case
from peer_providers import PROVIDERS

from tfc_fast.files import atomic_write

__all__ = ["around_tables", "as_text", "put_into_page"]

_BEGIN = "<!-- peers: begin; made by benchmarks/peers.py -->"
_END = "<!-- peers: end -->"
_NAMES = [provider.name for provider in PROVIDERS]
_OURS = _NAMES[0]

_Cell = dict[str, Any]
_Row = tuple[Case, dict[str, _Cell]]


def as_text(results: dict[str, Any]) -> str:
    """One table: times, then memory and error; who was left out, and why."""
    lines = []
    for title, entry in _VIEWS.items():
        lines += ["", title, f"{'':<44}" + "".join(f"{name:>15}" for name in _NAMES)]
        for case, cells in _rows(results):
            entries = (entry(cells.get(name), cells) for name in _NAMES)
            lines.append(f"{case!s:<44}" + "".join(f"{text:>15}" for text in entries))
    lines += ["", *_in_words(results), "", *_left_out(results), "", _machine(results)]
    return "\n".join(lines)


def put_into_page(results: dict[str, Any], page: Path) -> None:
    """Replace what stands between the two marks of a page.

    Args:
        results: Those of `peers.measure`.
        page: A Markdown file that has the marks.

    Raises:
        ValueError: It has not.
    """
    before, after = around_tables(page)
    filled = f"{before}{_BEGIN}\n{_as_markdown(results)}\n{_END}{after}"
    atomic_write(page, lambda out: out.write(filled.encode()))


def around_tables(page: Path) -> tuple[str, str]:
    """What stands before and after the two marks of a page; ValueError if it has them not."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"{page}: put the lines {_BEGIN!r} and {_END!r} where the tables belong")
    return before, after


def _as_markdown(results: dict[str, Any]) -> str:
    lines: list[str] = []
    measured = {name for _, cells in _rows(results) for name in cells}
    names = [name for name in _NAMES if name in measured]
    for title, entry in _VIEWS.items():
        lines += ["", title + ".", "", "| task | rows x width | " + " | ".join(names) + " |"]
        lines.append("|---" * (2 + len(names)) + "|")
        for case, cells in _rows(results):
            size = f"{case.rows} x {case.width}"
            size += "" if case.dtype == "float32" else f", {case.dtype}"
            size += "" if case.input == "features" else ", nearly parallel"
            entries = " | ".join(entry(cells.get(name), cells) for name in names)
            lines.append(f"| {case.task} | {size} | {entries} |")
    lines += [
        "",
        *_in_words(results),
        "",
        *(f"- {line}" for line in _left_out(results)),
        "",
        _machine(results),
    ]
    return "\n".join(lines)


def _rows(results: dict[str, Any]) -> list[_Row]:
    rows: dict[Case, dict[str, _Cell]] = {}
    for cell in results["cells"]:
        case = Case(*(cell[field] for field in Case._fields))
        rows.setdefault(case, {})[cell["provider"]] = cell
    tasks = list(dict.fromkeys(case.task for case in rows))
    return sorted(rows.items(), key=lambda row: tasks.index(row[0].task))


def _time(cell: _Cell | None, row: dict[str, _Cell]) -> str:
    if cell is None:
        return "-"
    ours = row.get(_OURS)
    if ours is None or cell is ours:
        return f"{cell['median_ms']:.3g} ms"
    return f"{cell['median_ms'] / ours['median_ms']:.3g} x"


def _memory(cell: _Cell | None, row: dict[str, _Cell]) -> str:
    mib = None if cell is None else cell.get("peak_extra_mib")
    return "-" if mib is None else f"{mib:.3g}"


def _error(cell: _Cell | None, row: dict[str, _Cell]) -> str:
    error = None if cell is None else cell["error"]
    return "-" if error is None else f"{error:.0e}" if error else "0"


_VIEWS: dict[str, Callable[[_Cell | None, dict[str, _Cell]], str]] = {
    "Time of a call: ours, and the others as a multiple of it": _time,
    "Peak memory of a call besides its input, MiB": _memory,
    "Largest absolute error against float64": _error,
}


def _in_words(results: dict[str, Any]) -> Iterable[str]:
    parallel = [cell for cell in results["cells"] if cell["input"] == "collapsed"]
    spread = next((cell["truth"] for cell in parallel if cell["task"] == "spread"), None)
    if spread is not None:
        yield f"The true spread of the nearly parallel rows is {spread:.1e}."
    curve = results["curve"]
    if curve:
        rows, milliseconds = curve["rows"], curve["median_ms"]
        yield (
            f"Our mean of all pairs takes {milliseconds[0]:.3g} ms for {rows[0]} rows and "
            f"{milliseconds[-1]:.3g} ms for {rows[-1]}, of {curve['width']} numbers each: "
            f"time grows as n^{curve['exponent']:.2f}."
        )


def _left_out(results: dict[str, Any]) -> Iterable[str]:
    """By provider and reason, so that cases of one reason stand together; JSON has each."""
    fewest: dict[tuple[str, str], dict[str, int | None]] = {}
    for each in results["left_out"]:
        case = Case(*(each[field] for field in Case._fields))
        reason, rows = each["reason"], None
        if too_much := re.match(r"(needs|would take) about \S+ (\w+), more than (.*)", reason):
            verb, unit, limit = too_much.groups()
            reason, rows = f"{verb} more than {limit} {unit}", case.rows
        tasks = fewest.setdefault((each["provider"], reason), {})
        before = tasks.get(case.task)
        tasks[case.task] = rows if before is None or rows is None else min(before, rows)
    for (provider, reason), tasks in fewest.items():
        cannot_be_imported = provider not in {cell["provider"] for cell in results["cells"]}
        what = ", ".join(
            task if rows is None else f"{task} from {rows} rows on" for task, rows in tasks.items()
        )
        yield f"left out: {provider}, {'everything' if cannot_be_imported else what}: {reason}"
    notes = {(cell["provider"], cell["task"]): cell["note"] for cell in results["cells"]}
    for (provider, task), note in notes.items():
        if note:
            yield f"{provider}, {task}: {note}"


def _machine(results: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in results["packages"].items())
    return (
        f"{results['device_name']}, {results['threads']} threads, "
        f"{results['instruction_set']}; {packages}"
    )
