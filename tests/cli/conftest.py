from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tfc_fast.cli import main

# A run of milliseconds that stays on its first plateau.
_FLAGS = (
    "--dataset=gaussian --samples=200 --dim=8 --num-classes=4 --depth=3 --width=12 --batch-size=20 "
    "--threads=1 --gain=0.1 --lr=0.001"
)

Tfc = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TFC_FAST_TRACEBACK", raising=False)
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.fixture
def tfc(capsys: pytest.CaptureFixture[str]) -> Tfc:
    """Runs the command line; gives exit status, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            status = main(arguments)
        except SystemExit as stop:  # argparse's own end
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def train(tfc: Tfc) -> Tfc:
    """Runs `tfc-fast train` with small settings; flags given later win."""

    def run(*flags: str) -> tuple[int, str, str]:
        return tfc("train", *_FLAGS.split(), *flags)

    return run
