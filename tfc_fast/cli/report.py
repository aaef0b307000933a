"""`tfc-fast report`: figures and a self-contained page of a run, or of several, or a live one."""

from __future__ import annotations

import argparse
import webbrowser
from pathlib import Path

from tfc_fast.cli.command import Command
from tfc_fast.cli.options import errors_in_options
from tfc_fast.files import full_path

__all__ = ["COMMAND"]

_COMPARISON = "comparison.html"
_OPTIONS = {"runs": "RUN", "port": "--port"}


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", metavar="RUN", nargs="+", help="folder of a run")
    parser.add_argument("--open", action="store_true", help="show the page in a browser, too")
    parser.add_argument(
        "--out",
        metavar="FILE",
        help=f"the page of several runs (default: {_COMPARISON} beside the first of them)",
    )
    parser.add_argument(
        "--serve",
        action="store_true",
        help="write nothing, but serve the page to browsers on this machine and keep it up to date "
        "while the runs go on; Ctrl-C stops",
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help="port of --serve (default: one that is free)"
    )


def _run(arguments: argparse.Namespace) -> int:
    paths: list[str] = arguments.paths
    if arguments.port is not None and not arguments.serve:
        raise ValueError("--port: it is the port of --serve; give that, too, or leave it out")
    if arguments.out is not None and (arguments.serve or len(paths) == 1):
        raise ValueError(
            "--out: only the page of several runs is written to a file of your choice; that of one "
            "is report.html in its folder, and --serve writes none"
        )
    with errors_in_options(_OPTIONS):
        if arguments.serve:
            return _serve(paths, arguments.port or 0, open_browser=arguments.open)
        return _write(paths, arguments.out, open_browser=arguments.open)


def _write(paths: list[str], out: str | None, *, open_browser: bool) -> int:
    # Here, so that the other commands do not wait for plotting libraries.
    from tfc_fast.report import write_comparison, write_report

    if len(paths) == 1:
        page = write_report(paths[0], open_browser=open_browser)
        print(f"report: {page}")
        print(f"figures: {page.parent / 'figures'}")
        return 0
    page = full_path(paths[0]).parent / _COMPARISON if out is None else Path(out)
    print(f"report: {write_comparison(paths, page, open_browser=open_browser)}")
    return 0


def _serve(paths: list[str], port: int, *, open_browser: bool) -> int:
    from tfc_fast.report import PageServer

    with PageServer(paths, port=port) as server:
        try:
            print(f"report: {server.url} (Ctrl-C stops)", flush=True)
            if open_browser:
                webbrowser.open(server.url)
            server.serve()
        except KeyboardInterrupt:
            # It is how this is meant to end.
            print("stopped")
    return 0


COMMAND = Command(
    name="report",
    help="figures and a self-contained page of a run, or of several side by side",
    description=(
        "Draws the figures of a run as PNG files, and one HTML page that shows its curves with\n"
        "the settings and the verdict: zoom, choose sites and statistics, read values off. The\n"
        "page needs no network and no other file. Several runs are compared on one page. A run\n"
        "that was killed, or still trains, is shown as far as it is on disk; with --serve, as it\n"
        "goes on."
    ),
    examples=(
        "tfc-fast report runs/digits",
        "tfc-fast report runs/digits --open",
        "tfc-fast report runs/depth5 runs/depth7 --out depths.html",
        "tfc-fast report runs/digits --serve --port 8000",
    ),
    configure=_configure,
    run=_run,
)
