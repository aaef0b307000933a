"""The report of runs: reads their folders, draws figures, writes one page that holds it all."""

from __future__ import annotations

import os
import platform
import webbrowser
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from tfc_fast import phases
from tfc_fast.analyzed_run import AnalyzedRun, read_run, read_runs
from tfc_fast.files import atomic_write, full_path, make_writable_folder, storage_error
from tfc_fast.report import words
from tfc_fast.report.pictures import Picture, draw
from tfc_fast.report.scripts import content_security_policy, scripts, styles
from tfc_fast.report.series import json_for_script, page_data
from tfc_fast.report.tables import flat, key_numbers, side_by_side, site_rows
from tfc_fast.run_directory import RunDirectory


def write_report(run_dir: str | os.PathLike[str], *, open_browser: bool = False) -> Path:
    """Draw the figures of a run and write one HTML page that holds them all.

    The page needs no network and no other file. A run that was killed is reported as far as it is
    on disk; a run without records has only its loss. An earlier report of the run is replaced.

    Args:
        run_dir: Folder of the run.
        open_browser: Show the page in the user's browser as well.

    Returns:
        Path of the page, `report.html` in the folder. The figures are beside it as PNG files, in
        `figures`.

    Raises:
        DamagedFileError: A file of the run is damaged; the message names it.
        FileNotFoundError: The folder is no run.
        ImportError: pyarrow is not installed.
        StorageError: A file cannot be read or written.
    """
    run = read_run(run_dir)
    pictures = draw(run.steps, run.loss, run.records, run.summary)
    _write_pictures(run.directory, pictures)
    return _publish(run.directory.report_path, render([run], pictures), open_browser)


def write_comparison(
    run_dirs: Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    open_browser: bool = False,
) -> Path:
    """Write one HTML page that shows several runs side by side.

    Args:
        run_dirs: Folders of the runs, in the order of the page.
        path: The page; an earlier one is replaced.
        open_browser: Show the page in the user's browser as well.

    Returns:
        Path of the page, absolute.

    Raises:
        ValueError: No run is given, or one twice.
        Exception: As `write_report`.
    """
    page = full_path(path)
    html = render(read_runs(run_dirs))
    make_writable_folder(page.parent)
    return _publish(page, html, open_browser)


def render(
    runs: Sequence[AnalyzedRun], pictures: Sequence[Picture] = (), *, live: bool = False
) -> str:
    """The page as text.

    Args:
        runs: The runs to show, at least one.
        pictures: Figures of the run, if it is only one.
        live: Whether the page asks its server for what is new, every few seconds.

    Returns:
        HTML.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # As they are and not escaped: they come from the package, and the policy has their hashes.
    texts = [Markup(text) for text in scripts()]
    return environment.get_template("page.html").render(
        runs=[_shown(run) for run in runs],
        live=live,
        policy=content_security_policy(texts, live=live),
        styles=Markup(styles()),
        scripts=texts,
        data=Markup(json_for_script(page_data(runs))),
        key_numbers=side_by_side([key_numbers(run.summary, run.stored or {}) for run in runs]),
        remedy_note=phases.REMEDY_NOTE,
        pictures=[picture for picture in pictures if picture.png is not None],
        settings=side_by_side([flat(run.config.get("settings", {})) for run in runs]),
        rest=side_by_side([_rest(run.config) for run in runs]),
        versions=side_by_side([flat(run.config.get("versions", {})) for run in runs]),
        report_versions=_versions(),
    )


def _shown(run: AnalyzedRun) -> dict[str, Any]:
    summary = run.summary
    finished = run.stored is not None
    return {
        "name": run.name,
        "folder": str(run.directory.path),
        "verdict": summary.verdict,
        "headline": phases.headline(summary),
        "details": phases.details(summary),
        "meaning": words.meaning(summary),
        # Without records there is a note, and nothing more to say.
        "diagnosis": run.diagnosis if run.records["step"].size else None,
        "remedies": phases.remedies(summary, run.config.get("settings")),
        "notes": words.notes(summary, finished=finished, records=run.records),
        "sites": [] if summary.collapse_site is None else site_rows(summary),
        "collapse_site": summary.collapse_site,
        "window": summary.thresholds["window"],
        "resumed": [flat(past) for past in run.config.get("resumed", [])],
    }


def _rest(config: dict[str, Any]) -> list[tuple[str, str]]:
    elsewhere = ("settings", "versions", "resumed")
    return flat({key: value for key, value in config.items() if key not in elsewhere})


def _versions() -> list[tuple[str, list[str]]]:
    found = [(name, [version(name)]) for name in ("matplotlib", "numpy", "pyarrow", "jinja2")]
    return [("python", [platform.python_version()]), *found]


def _write_pictures(directory: RunDirectory, pictures: list[Picture]) -> None:
    make_writable_folder(directory.figures_folder)
    for picture in pictures:
        path = directory.figures_folder / f"{picture.name}.png"
        if picture.png is not None:
            _write(path, picture.png)
        elif path.exists():
            # It is of an earlier report and no longer belongs to the run.
            try:
                path.unlink()
            except OSError as error:
                raise storage_error("remove", path, error) from error


def _publish(path: Path, html: str, open_browser: bool) -> Path:
    _write(path, html.encode())
    if open_browser:
        webbrowser.open(path.as_uri())
    return path


def _write(path: Path, content: bytes) -> None:
    atomic_write(path, lambda file: file.write(content))
