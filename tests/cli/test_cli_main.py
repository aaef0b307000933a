from __future__ import annotations

import io
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest

from tfc_fast import __version__
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
