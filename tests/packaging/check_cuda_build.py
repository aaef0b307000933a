"""Build the extension for CUDA in an environment of its own, and check it: `make cuda-build-check`.

    python tests/packaging/check_cuda_build.py [--torch REQUIREMENT] [--architectures LIST|all]
                                               [--venv FOLDER] [--build FOLDER]

Makes a virtual environment in a temporary folder, installs a CUDA build of torch (about 5 GB),
builds the package with TFC_CUDA=ON and warnings as errors, and checks, with or without a GPU:

- the compiled part names no folder of a CUDA toolkit, and one CUDA runtime is loaded, torch's;
- it says that it has ops for CUDA;
- each op of the CPU has one for CUDA;
- tests of the CPU's ops pass in that build.

With --venv and --build, the environment and what was compiled are kept there and used again.

One line per check; the exit status is 1 if one fails. This is a script, not a test of pytest's.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from check_wheel import ROOT, CheckFailed, passed, pip_install, run

TESTS = ("tests/similarity", "tests/gating", "tests/probe")

LOOK = """
import json, re
import torch, tfc_fast
from tfc_fast import _C
names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("tfc_fast::")]
has = torch._C._dispatch_has_kernel_for_dispatch_key
print(json.dumps({
    "file": _C.__file__,
    "build": _C.build_info(),
    "gpu": torch.cuda.is_available(),
    "runtimes": sorted(set(re.findall(r"/\\S*libcudart\\S*", open("/proc/self/maps").read()))),
    "on_cpu": sorted(name for name in names if has(name, "CPU")),
    "on_cuda": sorted(name for name in names if has(name, "CUDA")),
}))
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torch", default="torch==2.14.1", help="a CUDA build of it")
    parser.add_argument(
        "--architectures", default="9.0", help="to compile for; all: as the package by default"
    )
    parser.add_argument("--venv", type=Path, help="environment to keep, and to use if it is there")
    parser.add_argument("--build", type=Path, help="build folder, likewise")
    parser.add_argument("--no-tests", action="store_true", help="do not run the tests")
    options = parser.parse_args()
    wanted = "" if options.architectures == "all" else options.architectures
    os.environ |= {"TFC_CUDA": "ON", "TFC_WERROR": "ON", "TFC_CUDA_ARCHITECTURES": wanted}
    try:
        with tempfile.TemporaryDirectory(prefix="check-cuda-build-") as name:
            folder = Path(name).resolve()
            python = make_environment((options.venv or folder / "venv").absolute(), options.torch)
            build(python, (options.build or folder / "build").absolute())
            # An empty folder: nothing can be imported from where the commands run.
            work = folder / "work"
            work.mkdir()
            found = json.loads(run([python, "-c", LOOK], work).stdout)
            check_what_is_loaded(found)
            check_linked(Path(found["file"]))
            check_ops(found)
            if not options.no_tests:
                run_tests(python, folder / "away")
    except CheckFailed as failure:
        print(f"FAILED  {failure}")
        return 1
    return 0


def make_environment(folder: Path, torch: str) -> Path:
    """Return the Python of the environment in `folder`, made if it is not there."""
    began = time.monotonic()
    python = folder / "bin" / "python"
    if not python.exists():
        run([sys.executable, "-m", "venv", folder], folder.parent)
    # pip 25.1 is the first that installs dependency groups.
    pip_install(python, "--upgrade", "pip>=25.1")
    pip_install(python, torch, "numpy")
    groups = [f"{ROOT / 'pyproject.toml'}:{group}" for group in ("build", "test")]
    pip_install(python, "--group", groups[0], "--group", groups[1])
    passed(f"environment with {torch}: {time.monotonic() - began:.0f} s")
    return python


def build(python: Path, folder: Path) -> None:
    began = time.monotonic()
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    os.environ["PATH"] = path  # its cmake and ninja
    pip_install(
        python,
        *("--no-build-isolation", "--no-deps", "--force-reinstall"),
        *("-C", f"build-dir={folder}", ROOT),
    )
    passed(f"built with TFC_CUDA=ON and TFC_WERROR=ON: {time.monotonic() - began:.0f} s")


def check_what_is_loaded(found: dict[str, object]) -> None:
    build, runtimes = found["build"], found["runtimes"]
    if build["cuda"] != "yes":
        raise CheckFailed(f"build_info says cuda: {build['cuda']} ({build['cuda_reason']})")
    where = "with" if found["gpu"] else "without"
    passed(f"imported on a machine {where} a GPU; build_info says: {build['cuda_reason']}")
    if len(runtimes) != 1:
        raise CheckFailed(f"one libcudart is wanted in the process, there are {runtimes}")
    passed(f"one CUDA runtime in the process: {runtimes[0]}")


def check_linked(library: Path) -> None:
    text = run(["readelf", "-d", library], library.parent).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.+)\]", text)
    paths = ":".join(re.findall(r"\((?:RUNPATH|RPATH)\).*\[(.+)\]", text)).split(":")
    foreign = [path for path in paths if not path.startswith("$ORIGIN/")]
    if foreign or not any(name.startswith("libcudart.so.") for name in needed):
        raise CheckFailed(f"{library.name}: needs {needed}, looks for them in {paths}")
    passed(f"{library.name} looks for libraries in {':'.join(paths)} only")


def check_ops(found: dict[str, object]) -> None:
    missing = sorted(set(found["on_cpu"]) - set(found["on_cuda"]))
    names = " ".join(name.partition("::")[2] for name in missing)
    text = f"{len(found['on_cuda'])} ops have CUDA"
    if not found["on_cuda"] or missing:
        raise CheckFailed(f"{text}; without: {names}")
    passed(f"{text}, each that the CPU has")


def run_tests(python: Path, folder: Path) -> None:
    """Run tests against the installed package, from a copy that has no package beside it."""
    folder.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "packaging")
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for tests in TESTS:
        result = run([python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", tests], folder)
        passed(f"{tests}: {result.stdout.strip().splitlines()[-1].strip('= ')}")


if __name__ == "__main__":
    sys.exit(main())
