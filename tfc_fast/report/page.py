"""The report of a run: reads its folder, draws the figures, writes one page that holds them all."""

from __future__ import annotations

import os
import platform
import webbrowser
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from tfc_fast import phases
from tfc_fast.files import atomic_write, make_writable_folder, storage_error
from tfc_fast.records import Records
from tfc_fast.report import words
from tfc_fast.report.pictures import Picture, draw
from tfc_fast.report.tables import flat, key_numbers, site_rows
from tfc_fast.run_directory import RunDirectory

_THRESHOLDS = ("decay", "drop", "min_rise", "min_phase", "patience", "window")


@dataclass(frozen=True)
class _Run:
    """What is on disk of a run, complete or not."""

    directory: RunDirectory
    config: dict[str, Any]
    summary: dict[str, Any] | None
    records: Records
    steps: npt.NDArray[np.int64]
    loss: npt.NDArray[np.float64]


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
    run = _read(RunDirectory(run_dir))
    thresholds = (run.summary or {}).get("thresholds") or {}
    summary = phases.analyze(
        run.loss,
        run.records,
        steps=run.steps,
        chance_loss=run.config.get("chance_loss"),
        **{name: thresholds[name] for name in _THRESHOLDS if name in thresholds},
    )
    pictures = draw(run.steps, run.loss, run.records, summary)
    _write_pictures(run.directory, pictures)
    html = _render(run, summary, pictures)
    _write(run.directory.report_path, html.encode())
    if open_browser:
        webbrowser.open(run.directory.report_path.as_uri())
    return run.directory.report_path


def _read(directory: RunDirectory) -> _Run:
    config = directory.read_json(directory.config_path)
    has_summary = directory.summary_path.exists()
    summary = directory.read_json(directory.summary_path) if has_summary else None
    records = directory.read_metrics()
    log = directory.read_train()
    steps, loss = log["step"], log["loss"]
    if not steps.size:
        # A run that was killed early can have records, which repeat the loss at every site.
        steps, first = np.unique(records["step"], return_index=True)
        loss = records["loss"][first]
    return _Run(directory, config, summary, records, steps, loss)


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


def _write(path: Path, content: bytes) -> None:
    atomic_write(path, lambda file: file.write(content))


def _render(run: _Run, summary: phases.PhaseSummary, pictures: list[Picture]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    settings = run.config.get("settings", {})
    rest = {
        key: value
        for key, value in run.config.items()
        if key not in ("settings", "versions", "resumed")
    }
    return environment.get_template("page.html").render(
        name=run.directory.path.name,
        folder=str(run.directory.path),
        verdict=summary.verdict,
        headline=phases.headline(summary),
        details=phases.details(summary),
        meaning=words.meaning(summary),
        remedies=phases.remedies(summary),
        remedy_note=phases.REMEDY_NOTE,
        notes=words.notes(summary, finished=run.summary is not None, records=run.records),
        key_numbers=key_numbers(summary, run.summary or {}),
        pictures=[picture for picture in pictures if picture.png is not None],
        sites=site_rows(summary) if summary.collapse_site is not None else [],
        collapse_site=summary.collapse_site,
        window=summary.thresholds["window"],
        settings=flat(settings),
        rest=flat(rest),
        resumed=[flat(past) for past in run.config.get("resumed", [])],
        versions=flat(run.config.get("versions", {})),
        report_versions=_versions(),
    )


def _versions() -> list[tuple[str, str]]:
    found = [(name, version(name)) for name in ("matplotlib", "numpy", "pyarrow", "jinja2")]
    return [("python", platform.python_version()), *found]
