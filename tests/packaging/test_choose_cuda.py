"""Whether CUDA is built, and what is said if it is not: cmake/ChooseCuda.cmake on its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHOOSE = Path(__file__).parents[2] / "cmake" / "ChooseCuda.cmake"
CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

pytestmark = pytest.mark.skipif(
    CMAKE is None or not CHOOSE.exists(),
    reason="the build is tested in the source tree, with cmake",
)

NVCC = """#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release 12.8, V12.8.93" ;;
--list-gpu-arch) echo compute_75; echo compute_80; echo compute_90 ;;
esac
"""


@pytest.fixture
def nvcc(tmp_path: Path) -> Path:
    path = tmp_path / "nvcc"
    path.write_text(NVCC)
    path.chmod(0o755)
    return path


def choose(nvcc: Path, **settings: str) -> tuple[int, str]:
    """Exit status and output of the choice."""
    define = [f"-D{name}={value}" for name, value in settings.items()]
    done = subprocess.run(
        [str(CMAKE), *define, "-DTFC_TORCH_VERSION=2.14.1", "-P", str(CHOOSE)],
        env=os.environ | {"CUDACXX": str(nvcc)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, " ".join((done.stdout + done.stderr).split())


REASONS = {
    "torch without CUDA": ({"TFC_TORCH_CUDA": ""}, "torch 2.14.1 is a build without CUDA"),
    "other major version": (
        {"TFC_TORCH_CUDA": "13.0"},
        "torch 2.14.1 is built with CUDA 13.0, but {nvcc} is of CUDA 12.8: the major versions must",
    ),
}


@pytest.mark.parametrize("case", REASONS)
def test_auto_says_why_not_and_on_refuses(nvcc: Path, case: str) -> None:
    settings, reason = REASONS[case]
    reason = reason.format(nvcc=nvcc)
    status, told = choose(nvcc, **settings)
    assert status == 0
    assert f"CPU only: {reason}" in told
    status, told = choose(nvcc, TFC_CUDA="ON", **settings)
    assert status == 1
    assert f"TFC_CUDA=ON, but {reason}" in told
    assert "Needed are a CUDA build of torch" in told


def test_a_missing_nvcc_is_named(tmp_path: Path) -> None:
    status, told = choose(tmp_path / "none", TFC_TORCH_CUDA="13.0")
    assert status == 0
    assert "built with CUDA 13.0, but no nvcc was found (CUDACXX, PATH" in told


def test_off_looks_for_nothing(tmp_path: Path) -> None:
    assert choose(tmp_path / "none", TFC_CUDA="OFF", TFC_TORCH_CUDA="12.8") == (
        0,
        "-- CPU only: left out by TFC_CUDA=OFF",
    )


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"TFC_CUDA": "MAYBE"}, "TFC_CUDA: MAYBE given, AUTO, ON or OFF is wanted"),
        ({"TFC_CUDA_ARCHITECTURES": "8.0,9.9"}, "TFC_CUDA_ARCHITECTURES: 9.9 given, but"),
        ({"TFC_CUDA_ARCHITECTURES": "sm_80"}, "TFC_CUDA_ARCHITECTURES: sm_80 given, but"),
    ],
)
def test_wrong_settings_are_errors(nvcc: Path, settings: dict[str, str], error: str) -> None:
    status, told = choose(nvcc, TFC_TORCH_CUDA="12.6", **settings)
    assert status == 1
    assert error in told


def test_any_minor_version_and_any_spelling_of_architectures(nvcc: Path) -> None:
    """As far as a script goes, in which CUDA cannot be enabled."""
    for architectures in ("", "8.0,9.0", "80 90", "90;75"):
        status, told = choose(
            nvcc, TFC_TORCH_CUDA="12.6", TFC_CUDA="ON", TFC_CUDA_ARCHITECTURES=architectures
        )
        assert status == 1
        assert "enable_language" in told
