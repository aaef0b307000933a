"""Builds the package for the GPU of this machine into a folder, without a network."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["ROOT", "BuildError", "build", "commands"]

ROOT = Path(__file__).resolve().parent.parent

_CMAKE = "cmake 3.25.2 or newer (pip install cmake ninja)"


class BuildError(Exception):
    """Something that the build needs is not there; the message says what."""


def commands(site: Path, folder: Path, architectures: str) -> list[list[str]]:
    """Commands that build in `folder` and install into `site`.

    By pip where scikit-build-core is installed, else by CMake, with the headers of pybind11 that
    torch ships; then the Python files are still to be copied.

    Raises:
        BuildError: torch, Python's headers or CMake are missing.
    """
    if importlib.util.find_spec("torch") is None:
        raise BuildError(f"{sys.executable} has no torch: a CUDA build of it is needed")
    if not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        raise BuildError(
            f"Python.h of {sys.executable} is missing (python3-dev, or another Python)"
        )
    if shutil.which("cmake") is None and importlib.util.find_spec("cmake") is None:
        raise BuildError(f"needed is {_CMAKE}")
    settings = {"TFC_CUDA": "ON", "TFC_CUDA_ARCHITECTURES": architectures}
    settings["TFC_WERROR"] = os.environ.get("TFC_WERROR", "OFF")
    if _has_backend():
        define = [f"-Ccmake.define.{name}={value}" for name, value in settings.items()]
        pip = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-index"]
        pip += ["--no-build-isolation", "--no-deps", "--upgrade", "--target", str(site)]
        return [[*pip, *define, f"-Cbuild-dir={folder}", str(ROOT)]]
    if shutil.which("cmake") is None:
        raise BuildError(f"scikit-build-core is not installed, and cmake not on PATH: {_CMAKE}")
    found = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert found is not None
    settings |= {
        "SKBUILD_PROJECT_VERSION": found[1],
        "SKBUILD_PROJECT_VERSION_FULL": found[1],
        "CMAKE_BUILD_TYPE": "Release",
        "Python_EXECUTABLE": sys.executable,
    }
    configure = ["cmake", "-S", str(ROOT), "-B", str(folder)]
    configure += [f"-D{name}={value}" for name, value in settings.items()]
    if shutil.which("ninja") is not None:
        configure += ["-G", "Ninja"]
    return [
        configure,
        ["cmake", "--build", str(folder), "--parallel"],
        ["cmake", "--install", str(folder), "--prefix", str(site)],
    ]


def build(
    site: Path, folder: Path, architectures: str, run: Callable[[Sequence[str]], None]
) -> str:
    """Build into `site`.

    Args:
        site: Folder that gets the package; what it held goes.
        folder: Build folder, used again if it is there.
        architectures: As TFC_CUDA_ARCHITECTURES.
        run: Runs a command and raises if it fails.

    Returns:
        In words, by what.

    Raises:
        BuildError: What is needed is missing.
    """
    steps = commands(site, folder, architectures)
    shutil.rmtree(site, ignore_errors=True)
    if len(steps) > 1:
        # First, so that what CMake installs stands beside it.
        ignore = shutil.ignore_patterns("__pycache__", "*.so", "_built_with.py")
        shutil.copytree(ROOT / "tfc_fast", site / "tfc_fast", ignore=ignore)
    for step in steps:
        run(step)
    return "CMake alone" if len(steps) > 1 else "pip and scikit-build-core"


def _has_backend() -> bool:
    return all(importlib.util.find_spec(name) for name in ("scikit_build_core", "pybind11", "pip"))
