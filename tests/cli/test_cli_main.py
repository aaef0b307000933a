from __future__ import annotations

import dataclasses
import io
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tfc_fast import __version__, _startup
from tfc_fast.cli import advise, reproduce
from tfc_fast.cli import main as program
from tfc_fast.cli.command import Command
from tfc_fast.cli.main import COMMANDS, main

Tfc = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    "path", [(), ("train",), ("report",), ("bench",), ("bench", "overhead"), ("info",)]
)
def test_every_help_tells_what_and_shows_examples(tfc: Tfc, path: tuple[str, ...]) -> None:
    status, output, _ = tfc(*path, "--help")
    assert status == 0
    assert output.startswith("usage: tfc-fast")
    assert f"examples:\n  {' '.join(('tfc-fast', *path))}" in output


def test_the_list_of_commands_is_complete(tfc: Tfc) -> None:
    words = tfc("--help")[1].split()
    for command in COMMANDS:
        assert command.name in words
    assert {"train", "report", "reproduce", "bench", "info"} <= {
        command.name for command in COMMANDS
    }


def test_the_version_is_told(tfc: Tfc) -> None:
    assert tfc("--version") == (0, f"tfc-fast {__version__}\n", "")


@pytest.mark.parametrize("arguments", [(), ("dance",), ("bench",), ("train", "--dep", "3")])
def test_what_is_not_understood_ends_with_status_2(tfc: Tfc, arguments: tuple[str, ...]) -> None:
    status, output, errors = tfc(*arguments)
    assert status == 2
    assert output == ""
    assert errors.startswith("usage: ")


def _command(run: Callable[..., int]) -> Command:
    return Command("try", "help", "text", ("tfc-fast try",), lambda parser: None, run)


def _raising(error: BaseException) -> Callable[..., int]:
    def run(arguments: object) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    "error", [ValueError("a\n  b"), TypeError("a b"), OSError("a b"), ImportError("a b")]
)
def test_an_error_of_the_user_is_one_line_unless_the_traceback_is_wanted(
    tfc: Tfc, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(sys.modules[main.__module__], "COMMANDS", (_command(_raising(error)),))
    assert tfc("try") == (2, "", "tfc-fast: error: a b\n")
    monkeypatch.setenv("TFC_FAST_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(["try"])


def test_an_error_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    command = _command(_raising(KeyError("internal")))
    monkeypatch.setattr(sys.modules[main.__module__], "COMMANDS", (command,))
    with pytest.raises(KeyError):
        main(["try"])


def test_ctrl_c_outside_of_training_is_told_without_a_traceback(
    tfc: Tfc, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = _command(_raising(KeyboardInterrupt()))
    monkeypatch.setattr(sys.modules[main.__module__], "COMMANDS", (command,))
    assert tfc("try") == (130, "", "tfc-fast: interrupted\n")


@pytest.mark.parametrize(
    ("call", "goes_on"),
    [
        (("reproduce", "depth"), True),
        (("advise", "run", "--try"), True),
        (("advise", "run"), False),
    ],
)
def test_ctrl_c_tells_that_the_same_call_goes_on(
    tfc: Tfc, monkeypatch: pytest.MonkeyPatch, call: tuple[str, ...], goes_on: bool
) -> None:
    commands = []
    for module in (advise, reproduce):
        command = dataclasses.replace(module.COMMAND, run=_raising(KeyboardInterrupt()))
        monkeypatch.setattr(module, "COMMAND", command)
        commands.append(command)
    monkeypatch.setattr(sys.modules[main.__module__], "COMMANDS", tuple(commands))
    status, _, errors = tfc(*call)
    assert status == 130
    assert errors.startswith("tfc-fast: interrupted")
    assert ("the same call, made again, goes on" in errors) is goes_on


# Ends as Ctrl-C does, at the first import of torch.
_INTERRUPTED_IMPORT = """
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
"""


@pytest.mark.parametrize("script", ["tfc-fast", "another"])
def test_ctrl_c_within_the_imports_ends_the_program_without_a_word(
    tmp_path: Path, script: str
) -> None:
    path = tmp_path / script
    path.write_text(_INTERRUPTED_IMPORT + "from tfc_fast.cli import main; sys.exit(main())")
    done = subprocess.run([sys.executable, path, "info"], capture_output=True, text=True)
    if script == "tfc-fast":
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    else:
        assert "KeyboardInterrupt" in done.stderr, "signals of other programs are their own"


def test_ctrl_c_after_the_imports_is_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "tfc-fast"
    path.write_text(
        "import signal, sys\n"
        "from tfc_fast.cli import main\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "main(['info'])\n"
        "print(before.__name__, signal.getsignal(signal.SIGINT).__name__, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert done.stderr == "_leave default_int_handler\n"


@pytest.mark.parametrize(
    ("arguments", "command_line", "wanted"),
    [
        (["/bin/tfc-fast", "info"], ["python", "/bin/tfc-fast", "info"], True),
        (["-m", "info"], ["python", "-u", "-m", "tfc_fast", "info"], True),
        (["-m", "info"], ["python", "-m", "tfc_fast.cli", "info"], True),
        (["-m", "tfc_fast"], ["python", "-m", "pytest", "tfc_fast"], False),
        (["/bin/tfc-fast", "info"], ["python", "-c", "from multiprocessing"], False),
        (["/bin/pytest", "tfc-fast"], ["python", "/bin/pytest", "tfc-fast"], False),
        ([""], ["python"], False),
        ([], [], False),
    ],
)
def test_which_process_is_the_program(
    arguments: list[str], command_line: list[str], wanted: bool
) -> None:
    assert _startup._is_program(arguments, command_line) is wanted


def test_a_warning_is_one_line(tfc: Tfc, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(arguments: object) -> int:
        warnings.warn("take\ncare", stacklevel=1)
        return 0

    monkeypatch.setattr(sys.modules[main.__module__], "COMMANDS", (_command(warn),))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert tfc("try") == (0, "", "tfc-fast: warning: take care\n")


def test_a_warning_that_nobody_can_see_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(5, "Input/output error")

    def warn(arguments: object) -> int:
        warnings.warn("take care", stacklevel=1)
        return 0

    monkeypatch.setattr(sys.modules[main.__module__], "COMMANDS", (_command(warn),))
    monkeypatch.setattr(sys, "stderr", Gone())
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["try"]) == 0


def test_a_reader_that_has_gone_is_no_error() -> None:
    # `true` is over long before the first line is written.
    script = f"{sys.executable} -m tfc_fast.cli info | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
    assert done.stderr == ""


def test_the_package_gives_the_entry_point() -> None:
    assert program is main
