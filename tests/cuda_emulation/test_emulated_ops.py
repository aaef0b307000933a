"""Tests of the CPU's ops, once more through the ops for CUDA.

A process of its own for each file, since the emulated extension stands in the place of tfc_fast._C.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_emulation import emulated_extension

ROOT = Path(__file__).parents[2]

# File, and what is left out of it: what is about the CPU's own loops, or too much for fibers.
FILES = {
    "tests/similarity/test_means.py": "",
    "tests/gating/test_stats.py": "",
}


@pytest.fixture(scope="session")
def extension() -> Path:
    if shutil.which("g++") is None:
        pytest.skip("the emulated extension is built with g++, which is not installed")
    return emulated_extension.build()


@pytest.mark.parametrize("file", FILES)
def test_on_emulated_cuda(extension: Path, file: str) -> None:
    plugin = "cuda_emulation.use_emulated_extension"
    command = [sys.executable, "-m", "pytest", "-q", "-p", plugin, file]
    if FILES[file]:
        command += ["-k", f"not ({FILES[file]})"]
    environment = os.environ | {
        "PYTHONPATH": str(ROOT / "tests"),
        emulated_extension.VARIABLE: str(extension),
    }
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
