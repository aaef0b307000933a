from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from cuda_emulation import emulation

# A plugin and a program, which pytest would import to look for doctests.
collect_ignore = ["use_emulated_extension.py", "emulated_worker.py"]


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest):
    """The kernels of csrc/kernels/cuda, compiled for the processor."""
    if shutil.which("g++") is None:
        pytest.skip("the emulation of CUDA kernels is built with g++, which is not installed")
    cache = request.config.cache
    folder = Path(cache.mkdir("emulated_kernels")) if cache else tmp_path_factory.mktemp("emulated")
    return emulation.Library(emulation.build(folder))
