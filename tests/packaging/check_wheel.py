"""Check a wheel and an sdist as a user meets them: away from the source tree, torch and no more.

    python tests/packaging/check_wheel.py DIST_DIR [--quick]

Makes an empty virtual environment in a temporary folder, installs torch and then the wheel, and
looks at what the package does there: what it imports, the functions, the probe, the command line.
Then, unless --quick is given, installs the extras and runs tests against the installed wheel.

The environment gets the release of torch that runs this script, for which the wheel was built; set
TFC_TORCH to another requirement, such as `torch==2.14.1`, or to the address of a wheel.

One line per check; the exit status is 1 if one fails. This is a script, not a test of pytest's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Those that need the compiled part, the command line or an extra; the rest of the suite is pure
# Python and gains nothing from running twice.
TESTS = (
    "tests/csrc",
    "tests/similarity/test_means.py",
    "tests/similarity/test_published_cases.py",
    "tests/gating/test_stats.py",
    "tests/gating/test_packed.py",
    "tests/test_inputs.py",
    "tests/probe/test_probe_records.py",
    "tests/probe/test_probe_errors.py",
    "tests/sinks",
    "tests/cli",
)

IN_WHEEL = (
    *("tfc_fast/__init__.py", "tfc_fast/_built_with.py", "tfc_fast/py.typed", "licenses/LICENSE"),
    # What the page is made of, and the licence of what is not ours.
    *("tfc_fast/report/templates/page.html", "tfc_fast/report/static/page.js"),
    *("tfc_fast/report/static/page.css", "tfc_fast/report/static/uplot/uPlot.iife.min.js"),
    *("tfc_fast/report/static/uplot/uPlot.min.css", "tfc_fast/report/static/uplot/LICENSE"),
)
IN_SDIST = ("CMakeLists.txt", "LICENSE", "README.md", "pyproject.toml")
# All files of these are in the sdist, or it could not be built.
SOURCE_FOLDERS = ("cmake", "csrc", "tests", "tfc_fast")
NOT_IN_WHEEL = ("csrc/", "tests/", "benchmarks/", "cmake/")

IMPORTS = """
import sys
import numpy, torch
before = set(sys.modules)
import tfc_fast, tfc_fast.similarity
new = {name.partition(".")[0] for name in set(sys.modules) - before}
foreign = new - set(sys.stdlib_module_names) - {"tfc_fast", "torch", "numpy"}
if foreign:
    sys.exit(f"import tfc_fast pulled in {sorted(foreign)}")
print(tfc_fast.__file__)
"""

# A cosine known by heart, and three steps of training with every statistic looked at.
USE = """
import math
import torch
from tfc_fast import Probe, similarity

rows = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 3.0], [0.0, 0.0]])
means = similarity.mean_cosine(rows, torch.tensor([0, 0, 1, 1]))
assert math.isclose(means.all.item(), 1 / 3), means
assert (means.within.item(), means.between.item()) == (1.0, 0.0), means
assert (int(means.n_rows), int(means.n_zero)) == (3, 1), means

model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with Probe(model, num_classes=2) as probe:
    for _ in range(3):
        x, y = torch.randn(16, 4), torch.arange(16) % 2
        probe.batch(labels=y)
        loss = torch.nn.functional.cross_entropy(model(x), y)
        loss.backward()
        probe.step(loss=loss)
        optimizer.step()
        optimizer.zero_grad()
history = probe.history()
assert history["step"].tolist() == [1, 2, 3], history["step"]
assert history["site"].tolist() == ["1", "1", "1"], history["site"]
assert (abs(history["feature_cos_between"]) <= 1).all(), history["feature_cos_between"]
"""


class CheckFailed(Exception):  # noqa: N818  (not an error of this program)
    """A check failed; the message says which and why."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dist", type=Path, metavar="DIST_DIR", help="folder of wheel and sdist")
    parser.add_argument("--quick", action="store_true", help="do not run the tests")
    arguments = parser.parse_args()
    try:
        wheel, sdist = find_distributions(arguments.dist)
        check_contents(wheel, sdist)
        # Resolved, since paths are compared with what Python reports.
        with tempfile.TemporaryDirectory(prefix="check-wheel-") as folder:
            check_installed(wheel, Path(folder).resolve(), quick=arguments.quick)
    except CheckFailed as failure:
        print(f"FAILED  {failure}")
        return 1
    return 0


def find_distributions(folder: Path) -> tuple[Path, Path]:
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1:
        raise CheckFailed(
            f"{folder}: wanted one wheel and one sdist, found "
            f"{[path.name for path in (*wheels, *sdists)]}; empty it and build again"
        )
    passed(f"one wheel and one sdist: {wheels[0].name}, {sdists[0].name}")
    return wheels[0].resolve(), sdists[0].resolve()


def check_contents(wheel: Path, sdist: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    missing = [name for name in IN_WHEEL if not any(entry.endswith(name) for entry in names)]
    if not any(name.startswith("tfc_fast/_C.") and name.endswith(".so") for name in names):
        missing.append("tfc_fast/_C.*.so")
    surplus = [name for name in names if name.startswith(NOT_IN_WHEEL) or "__pycache__" in name]
    if missing or surplus:
        raise CheckFailed(f"{wheel.name}: lacks {missing}, should not hold {surplus[:5]}")
    passed(f"the wheel holds the package and its compiled part, {len(names)} files")

    with tarfile.open(sdist) as archive:
        # Below a folder that is named after the version.
        names = [name.partition("/")[2] for name in archive.getnames()]
    missing = sorted({*IN_SDIST, *sources()} - set(names))
    built = [name for name in names if name.endswith((".so", ".pyc")) or name.startswith("build/")]
    if missing or built:
        raise CheckFailed(f"{sdist.name}: lacks {missing[:5]}, should not hold {built[:5]}")
    passed(f"the sdist holds the sources, {len(names)} entries")


def sources() -> list[str]:
    """All files below SOURCE_FOLDERS but what running the package leaves there."""
    files = [path for folder in SOURCE_FOLDERS for path in (ROOT / folder).rglob("*")]
    return [
        str(path.relative_to(ROOT))
        for path in files
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    ]


def check_installed(wheel: Path, folder: Path, *, quick: bool) -> None:
    python = make_environment(folder / "venv", wheel)
    # An empty folder: nothing can be imported from where the commands run.
    work = folder / "work"
    work.mkdir()

    place = run([python, "-c", IMPORTS], work).stdout.strip()
    if not Path(place).is_relative_to(folder):
        raise CheckFailed(f"tfc_fast was imported from {place}, not from the environment")
    passed("import tfc_fast, tfc_fast.similarity pulls in torch, numpy and nothing else")
    run([python, "-c", USE], work)
    passed("mean_cosine is right, and three steps are recorded")
    check_command_line(python.parent / "tfc-fast", work)
    if not quick:
        run_tests(python, wheel, folder / "away")


def make_environment(folder: Path, wheel: Path) -> Path:
    """Return the Python of a new environment that has torch, numpy and the wheel."""
    began = time.monotonic()
    torch = os.environ.get("TFC_TORCH") or f"torch=={metadata.version('torch').partition('+')[0]}"
    run([sys.executable, "-m", "venv", folder], folder.parent)
    python = folder / "bin" / "python"
    # pip 25.1 is the first that installs dependency groups.
    pip_install(python, "--upgrade", "pip>=25.1")
    pip_install(python, torch, "numpy")
    # Without dependencies: what torch and numpy do not bring must not be needed.
    pip_install(python, "--no-deps", wheel)
    passed(f"bare environment: {torch}, numpy and the wheel, {time.monotonic() - began:.0f} s")
    return python


def check_command_line(program: Path, work: Path) -> None:
    information = run([program, "info"], work).stdout
    for word in ("instruction set", "CUDA", "pip install 'tfc_fast[train]'"):
        if word not in information:
            raise CheckFailed(f"`tfc-fast info` does not say {word!r}:\n{information}")
    passed("tfc-fast info tells the instruction set, CUDA and the missing extras")

    train = run([program, "train", "--steps", "2", "--out", "run"], work, status=2)
    lines = train.stderr.splitlines()
    if len(lines) != 1 or "pip install 'tfc_fast[train]'" not in lines[0]:
        raise CheckFailed(f"`tfc-fast train` without its extra should say so in one line:\n{lines}")
    passed(f"tfc-fast train without its extra: {lines[0]}")


def run_tests(python: Path, wheel: Path, folder: Path) -> None:
    """Run tests against the installed wheel, from a copy that has no package beside it."""
    pip_install(python, f"{wheel}[all]")
    pip_install(python, "--group", f"{ROOT / 'pyproject.toml'}:test")
    folder.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "packaging")
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    result = run([python, "-m", "pytest", "-q", "-n", "auto", *TESTS], folder)
    passed(f"tests away from the source tree: {result.stdout.strip().splitlines()[-1].strip('= ')}")


def pip_install(python: Path, *arguments: str | Path) -> None:
    quiet = ("--quiet", "--disable-pip-version-check")
    run([python, "-m", "pip", "install", *quiet, *arguments], python.parent)


def run(
    command: Sequence[str | Path], folder: Path, *, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder; any other exit status than `status` is a failure."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TFC_FAST"))}
    environment["PYTHONNOUSERSITE"] = "1"
    with contextlib.suppress(KeyError):
        environment["TFC_FAST_TEST_SEED"] = os.environ["TFC_FAST_TEST_SEED"]
    text = [str(part) for part in command]
    result = subprocess.run(text, cwd=folder, env=environment, capture_output=True, text=True)
    if result.returncode != status:
        output = (result.stdout + result.stderr).splitlines()
        shown = " ".join(part if "\n" not in part else "..." for part in text)
        raise CheckFailed("\n".join([f"{shown}: exit status {result.returncode}", *output[-80:]]))
    return result


def passed(text: str) -> None:
    print(f"ok      {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
