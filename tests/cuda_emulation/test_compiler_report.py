"""`make cuda-check` reads what ptxas tells, and a spilled register does not pass it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "packaging"

REPORT = """
ptxas info    : Compiling entry function '{name}' for 'sm_90'
ptxas info    : Function properties for {name}
    8 bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 8 bytes cumulative stack size
"""
SPACE = "_ZN3tfc4cuda12_GLOBAL__N_1"
ROW_PASS = SPACE + "8row_passINS0_8BFloat16ELNS_3JobE3ELb1ELi1ELi4ELi512EEEvNS0_16RowPassArgumentsE"


@pytest.fixture
def check_cuda(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import check_cuda

    yield check_cuda
    sys.modules.pop("check_cuda")


def test_names_and_spills(check_cuda) -> None:
    output = REPORT.format(name=ROW_PASS, stores=12, loads=32)
    output += REPORT.format(
        name=SPACE + "11column_passENS0_19ColumnPassArgumentsE", stores=0, loads=0
    )
    output += REPORT.format(
        name=SPACE + "10row_scalesIfEEvNS1_18RowScalesArgumentsE", stores=0, loads=0
    )
    assert check_cuda.kernels_of(output) == [
        ("column_pass", 64, 0, 8),
        ("row_pass<BFloat16, pair, fused, 1 x 16 bytes, 4 rows, 512 threads>", 64, 44, 8),
        ("row_scales<float32>", 64, 0, 8),
    ]


@pytest.mark.parametrize(("spilled", "status"), [(0, 0), (4, 1)])
def test_a_spill_fails_the_check(
    check_cuda,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    spilled: int,
    status: int,
) -> None:
    report = REPORT.format(name=ROW_PASS, stores=spilled, loads=0)
    monkeypatch.setattr(check_cuda.shutil, "which", lambda _: "nvcc")
    monkeypatch.setattr(check_cuda, "compile_file", lambda source, architecture: report)
    monkeypatch.setattr(check_cuda, "wide_loads", lambda: 1)
    monkeypatch.setattr(sys, "argv", ["check_cuda.py"])
    assert check_cuda.main() == status
    assert ("FAILED" in capsys.readouterr().out) == bool(status)


def test_without_nvcc_the_reason_is_told(
    check_cuda, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_cuda.shutil, "which", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["check_cuda.py"])
    assert check_cuda.main() == 0
    assert "nvcc is not installed" in capsys.readouterr().out
