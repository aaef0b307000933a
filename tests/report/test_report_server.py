from __future__ import annotations

import html
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tfc_fast.records import Records, select
from tfc_fast.report import PageServer
from tfc_fast.run_directory import RunDirectory
from tfc_fast.sinks import ParquetSink

MakeRun = Callable[..., RunDirectory]


@pytest.fixture
def run(make_run: MakeRun, records: Records) -> RunDirectory:
    first = records["step"] <= 200
    return make_run(select(records, first), records["loss"][first][::3])


@pytest.fixture
def server(run: RunDirectory, serve: Callable[[RunDirectory], PageServer]) -> PageServer:
    return serve(run)


def ask(
    server: PageServer, path: str = "/", *, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, dict(answer.headers), body


def go_on(run: RunDirectory, records: Records) -> None:
    with_more = ParquetSink(run.metrics_folder, append=True)
    with_more.write(select(records, records["step"] > 200))
    with_more.close()


def is_open(server: PageServer) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", server.port)) == 0


def test_serves_the_page_and_lets_it_ask_its_server_only(server: PageServer) -> None:
    status, headers, page = ask(server)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.startswith("<!doctype html>")
    assert "connect-src 'self'" in html.unescape(page)
    assert "data-live" in page
    assert server.url == f"http://127.0.0.1:{server.port}/"


def test_writes_nothing(server: PageServer, run: RunDirectory) -> None:
    ask(server)
    assert not run.report_path.exists()
    assert not run.figures_folder.exists()


def test_unchanged_runs_are_not_sent_again(
    server: PageServer, run: RunDirectory, records: Records
) -> None:
    tag = ask(server)[1]["ETag"]
    status, headers, body = ask(server, If_None_Match=tag)
    assert (status, headers["ETag"], body) == (304, tag, "")
    go_on(run, records)
    status, headers, body = ask(server, If_None_Match=tag)
    assert status == 200
    assert headers["ETag"] != tag
    assert '"peak"' in body


def test_head(server: PageServer) -> None:
    status, headers, body = ask(server, method="HEAD")
    assert (status, body) == (200, "")
    assert int(headers["Content-Length"]) > 10_000


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", ""])
def test_other_hosts_are_refused(server: PageServer, host: str) -> None:
    status, _, body = ask(server, Host=host.format(port=server.port))
    assert status == 403
    assert "hidden" not in body


def test_localhost_is_this_machine(server: PageServer) -> None:
    assert ask(server, Host=f"localhost:{server.port}")[0] == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "localhost:80"])
def test_browsers_leave_out_port_80(
    server: PageServer, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    monkeypatch.setattr(server._server, "server_address", ("127.0.0.1", 80))
    connection.request("HEAD", "/", headers={"Host": host})
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize("path", ["/config.json", "/../config.json", "//etc/passwd"])
def test_there_is_only_the_page(server: PageServer, path: str) -> None:
    assert ask(server, path)[0] == 404


def test_nothing_can_be_changed(server: PageServer) -> None:
    assert ask(server, method="POST")[0] == 501


def test_only_this_machine_can_connect(server: PageServer) -> None:
    assert server._server.socket.getsockname()[0] == "127.0.0.1"


def test_a_run_that_cannot_be_read_now_is_told_and_asked_for_again(
    server: PageServer, run: RunDirectory
) -> None:
    (part,) = run.metrics_folder.iterdir()
    whole = part.read_bytes()
    part.write_bytes(whole[:100])
    status, _, body = ask(server)
    assert status == 503
    assert part.name in body
    part.write_bytes(whole)
    assert ask(server)[0] == 200


def test_a_file_where_the_run_was_is_told(server: PageServer, run: RunDirectory) -> None:
    elsewhere = run.path.rename(run.path.with_name("elsewhere"))
    run.path.write_text("no folder")
    status, _, body = ask(server)
    assert status == 503
    assert str(run.path) in body
    run.path.unlink()
    elsewhere.rename(run.path)
    assert ask(server)[0] == 200


def test_several_runs(make_run: MakeRun, run: RunDirectory) -> None:
    with PageServer([run.path, make_run(name="other").path]) as server:
        page = server._pages.newest()[0].decode()
    assert "2 runs compared" in page


def test_only_runs_that_changed_are_read_again(
    make_run: MakeRun, run: RunDirectory, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    read_metrics = RunDirectory.read_metrics

    def counted(directory: RunDirectory) -> Records:
        read.append(directory.path.name)
        return read_metrics(directory)

    monkeypatch.setattr(RunDirectory, "read_metrics", counted)
    other = make_run(records, name="other")
    with PageServer([run.path, other.path]) as server:
        assert read == ["run", "other"]
        before = server._pages.newest()
        assert server._pages.newest() == before
        go_on(run, records)
        after = server._pages.newest()
        assert after != before
        assert read == ["run", "other", "run"]
    # The same page as one that was made from all of them just now.
    with PageServer([run.path, other.path]) as server:
        assert server._pages.newest() == after


def test_it_can_be_closed_at_any_time(run: RunDirectory) -> None:
    with PageServer([run.path]) as server:
        assert is_open(server)
    assert not is_open(server)
    server.close()
    server.serve()  # ends at once
    with PageServer([run.path]) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        assert ask(server)[0] == 200
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert not is_open(server)


def test_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a run directory"):
        PageServer([tmp_path])


def test_ports(run: RunDirectory) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"port: cannot listen on {port}: .*in use"):
            PageServer([run.path], port=port)
    with pytest.raises(ValueError, match="port: 65536 given, 0 to 65535 is wanted"):
        PageServer([run.path], port=65536)


def test_ctrl_c_stops_it(run: RunDirectory) -> None:
    environment: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": "1"}
    # Where tests are started in the background of a shell, Ctrl-C is ignored in all processes.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from tfc_fast.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "report", str(run.path), "--serve"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "http://127.0.0.1:" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        try:
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, output, errors) == (0, "stopped\n", "")
