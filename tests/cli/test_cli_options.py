from __future__ import annotations

import pytest

from tfc_fast.cli.options import OptionError, errors_in_options, flag, in_options

OPTIONS = {name: flag(name) for name in ("steps", "lr", "batch_size", "probe", "sites")}


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("steps, lr: 3 and 2 given", "--steps, --lr: 3 and 2 given"),
        ("steps, loss: 3 and 2 given", "steps, loss: 3 and 2 given"),
        ("raise batch_size, or steps", "raise --batch-size, or steps"),
        ("set lr=0.5 or probe=False", "give --lr 0.5 or --no-probe"),
        ('for sites="a b".', "for --sites a b."),
        ("loss=0.5 (batch_size=3)", "loss=0.5 (--batch-size 3)"),
        # What belongs to a path or a value of the user stays.
        ("/runs/lr=0.5/batch_size is damaged", "/runs/lr=0.5/batch_size is damaged"),
        ("lr=0.5/batch_size.json is missing", "lr=0.5/batch_size.json is missing"),
        ("'batch_size' given, batch_size.npz wanted", "'batch_size' given, batch_size.npz wanted"),
        ("there are collapse, dead_units", "there are collapse, dead_units"),
    ],
)
def test_arguments_become_options(message: str, told: str) -> None:
    assert in_options(message, OPTIONS) == told


def test_the_error_of_the_library_is_kept_as_the_cause() -> None:
    error = FileNotFoundError(2, "No such file", "x")
    with pytest.raises(OptionError, match="No such file: 'x'") as caught, errors_in_options({}):
        raise error
    assert caught.value.__cause__ is error


def test_an_error_of_the_program_passes() -> None:
    with pytest.raises(KeyError), errors_in_options(OPTIONS):
        raise KeyError("lr: 1")
