"""The ops for CUDA, emulated: builds them and loads them in the place of tfc_fast._C."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from filelock import FileLock

ROOT = Path(__file__).parents[2]
VARIABLE = "TFC_FAST_EMULATED_EXTENSION"  # path of one that is built already


def build() -> Path:
    """The emulated extension, built where `make setup` built the package."""
    caches = sorted((ROOT / "build").glob("*/CMakeCache.txt"))
    if not caches:
        raise RuntimeError("the emulated extension is built by CMake in build/: run `make setup`")
    folder = max(caches, key=lambda path: path.stat().st_mtime).parent
    cmake = Path(sys.executable).with_name("cmake")
    command = [str(cmake) if cmake.exists() else "cmake", "--build", str(folder)]
    command += ["--target", "emulated_extension"]
    with FileLock(folder / "emulated_extension.lock"):  # of several test processes one builds
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{done.stdout}\n{done.stderr}")
    return folder / "tests" / "cuda_emulation" / "emulated_extension.so"


def use(library: Path) -> None:
    """Load it as tfc_fast._C, which must not be loaded yet."""
    if "tfc_fast._C" in sys.modules:
        raise RuntimeError("tfc_fast._C is loaded already: the emulation comes too late")
    # Each op is registered a second time, which torch remarks on.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    spec = importlib.util.spec_from_file_location("tfc_fast._C", library)
    assert spec is not None
    assert spec.loader is not None
    import torch  # noqa: F401  (its libraries must be loaded first)

    module = importlib.util.module_from_spec(spec)
    sys.modules["tfc_fast._C"] = module
    spec.loader.exec_module(module)
