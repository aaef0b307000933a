"""The page of runs that go on, served to a browser on this machine and made anew as they do."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Sequence
from http import HTTPStatus
from http.client import HTTP_PORT
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeAlias

from tfc_fast.analyzed_run import AnalyzedRun, read_run, read_runs
from tfc_fast.report.page import render
from tfc_fast.run_directory import RunDirectory

__all__ = ["PageServer"]

_HOST = "127.0.0.1"

# Name, size and time of each file of a run.
_Stamp: TypeAlias = list[tuple[str, int, int]]


class PageServer:
    """Serves the page of runs, to this machine only; it shows what is on disk when it is asked.

    Only requests that name this machine as their host are answered, so that no page of a foreign
    site can read it through a name that leads here.

    Close it when done, or use it in a `with` statement: the port is its own from the start.

    Args:
        run_dirs: Folders of the runs.
        port: Port to listen on; 0 takes one that is free.

    Raises:
        OSError: The port is taken.
        ValueError: The port is out of range.
        Exception: As `tfc_fast.analyzed_run.read_runs`: the runs are read once, to tell early.

    Example:
        >>> PageServer(["nowhere"])
        Traceback (most recent call last):
        ...
        FileNotFoundError: .../nowhere is not a run directory: config.json is missing; ...
    """

    def __init__(self, run_dirs: Sequence[str | os.PathLike[str]], *, port: int = 0) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"port: {port} given, 0 to 65535 is wanted")
        self._pages = _Pages(run_dirs)
        try:
            self._server = _Server((_HOST, port), _Handler)
        except OSError as error:
            raise OSError(
                f"port: cannot listen on {port}: {error.strerror}; give another one, or 0 for one "
                "that is free"
            ) from error
        self._server.pages = self._pages
        self._lock = threading.Lock()
        self._serving = self._closed = False

    def __enter__(self) -> PageServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def port(self) -> int:
        """The port."""
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{_HOST}:{self.port}/"

    def serve(self) -> None:
        """Answer requests until `close` elsewhere, or an exception such as that of Ctrl-C."""
        with self._lock:
            if self._closed:
                return
            self._serving = True
        try:
            self._server.serve_forever(poll_interval=0.2)
        finally:
            self._serving = False
            self.close()

    def close(self) -> None:
        """End `serve`, if it runs, and give the port back; may be called again."""
        with self._lock:
            self._closed = True
            serving = self._serving
        if serving:
            self._server.shutdown()
        self._server.server_close()


class _Pages:
    """The page as it is now: made anew only if a file has changed, from what changed."""

    def __init__(self, run_dirs: Sequence[str | os.PathLike[str]]) -> None:
        self._directories = [RunDirectory(path) for path in run_dirs]
        self._lock = threading.Lock()
        # Taken before reading: what comes meanwhile makes the next page.
        self._stamps = self._stamps_now()
        runs = read_runs([directory.path for directory in self._directories])
        self._names = [run.name for run in runs]
        self._kept = dict(enumerate(zip(self._stamps, runs, strict=True)))
        self._make(runs)

    def newest(self) -> tuple[bytes, str]:
        """The page and its tag, which differs if the page does."""
        with self._lock:
            stamps = self._stamps_now()
            if stamps != self._stamps:
                self._make([self._run(at, stamp) for at, stamp in enumerate(stamps)])
                self._stamps = stamps
            return self._page, self._tag

    def _run(self, at: int, stamp: _Stamp) -> AnalyzedRun:
        if at not in self._kept or self._kept[at][0] != stamp:
            # First, so that it is not in memory twice.
            self._kept.pop(at, None)
            self._kept[at] = stamp, read_run(self._directories[at].path, self._names[at])
        return self._kept[at][1]

    def _make(self, runs: Sequence[AnalyzedRun]) -> None:
        self._page = render(runs, live=True).encode()
        self._tag = f'"{hashlib.sha256(self._page).hexdigest()[:32]}"'
        if len(runs) == 1:
            # A new page of it is never made from the same records.
            self._kept.clear()

    def _stamps_now(self) -> list[_Stamp]:
        return [_stamp(directory) for directory in self._directories]


def _stamp(run: RunDirectory) -> _Stamp:
    """What changes when a file of the run does: names, sizes and times."""
    single = (run.config_path, run.train_path, run.summary_path)
    found = []
    for path in (*single, *sorted(run.metrics_folder.glob("part-*.parquet"))):
        try:
            state = path.stat()
        except OSError:
            # Not there yet, say. What is wrong is told by who reads it.
            continue
        found.append((path.name, state.st_size, state.st_mtime_ns))
    return found


def _hosts(port: int) -> list[str]:
    """What browsers call this machine: they leave out the port that HTTP has by itself."""
    names = [_HOST, "localhost"]
    return [f"{name}:{port}" for name in names] + (names if port == HTTP_PORT else [])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    pages: _Pages

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A browser that goes away in the middle of an answer is no error.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        port = int(self.server.server_address[1])
        if self.headers.get("Host") not in _hosts(port):
            self._answer(HTTPStatus.FORBIDDEN, b"This page is for this machine only.\n")
        elif self.path.partition("?")[0] != "/":
            self._answer(HTTPStatus.NOT_FOUND, b"There is only the page itself: /\n")
        else:
            self._answer_page()

    do_HEAD = do_GET  # noqa: N815  (the base class wants this name)

    def _answer_page(self) -> None:
        try:
            page, tag = self.server.pages.newest()
        except (OSError, ValueError) as error:
            # A run that is being started anew, say: the page in the browser asks again.
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{error}\n".encode())
            return
        if self.headers.get("If-None-Match") == tag:
            self._answer(HTTPStatus.NOT_MODIFIED, b"", tag=tag)
        else:
            self._answer(HTTPStatus.OK, page, tag=tag, kind="text/html")

    def _answer(
        self, status: HTTPStatus, content: bytes, *, tag: str = "", kind: str = "text/plain"
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: a line for each request would bury what the user wants to read."""
