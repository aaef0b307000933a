"""`tfc-fast report`: figures and a self-contained page of a run."""

from __future__ import annotations

import argparse

from tfc_fast.cli.command import Command

__all__ = ["COMMAND"]


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="RUN", help="folder of the run")
    parser.add_argument("--open", action="store_true", help="show the page in a browser, too")


def _run(arguments: argparse.Namespace) -> int:
    # Here, so that the other commands do not wait for plotting libraries.
    from tfc_fast.report import write_report

    page = write_report(arguments.path, open_browser=arguments.open)
    print(f"report: {page}")
    print(f"figures: {page.parent / 'figures'}")
    return 0


COMMAND = Command(
    name="report",
    help="figures and a self-contained page of a run",
    description=(
        "Draws the figures of a run as PNG files, and one HTML page that shows them with the\n"
        "settings and the verdict; the page needs no network and no other file. A run that was\n"
        "killed, or still trains, is shown as far as it is on disk."
    ),
    examples=("tfc-fast report runs/digits", "tfc-fast report runs/digits --open"),
    configure=_configure,
    run=_run,
)
