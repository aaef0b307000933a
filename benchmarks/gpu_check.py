"""All that is to be known from a machine with a GPU, by one command and without a network.

    python benchmarks/gpu_check.py --out DIR [--work DIR] [--only build,test,sanitize,bench]

- build: builds the package for this machine's GPU; needs a CUDA build of torch, nvcc of the same
  major version, g++, cmake
- test: tests/cuda, where a GPU that is missing is a failure; needs pytest and numpy
- sanitize: compute-sanitizer's memcheck and racecheck on tests of small inputs, if it is there
- bench: what kernels and training steps take (gpu_bench.py)

Each stage ends within nine minutes and can be run alone, all but build on what was built before; a
stage that fails leaves the others. --out gets gpu_check.json (device, versions, outcome of each
stage, times), tests.xml and a log per stage; --work what is built (default: below --out).

The exit status is 0 if no stage that was run failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gpu_build
from gpu_build import ROOT

STAGE_SECONDS = 530.0
# racecheck cannot bear the library's products on Hopper ("failed to handle a hardware exception").
CHECKS = {
    "memcheck": "test_results_are_the_cpus or rows_of_all_sorts or test_records_",
    "racecheck": (
        "(rows_of_all_sorts or without_products or test_results_are_the_cpus)"
        " and not (matrix or spread or cross or gradient or histogram)"
    ),
}
_LOOK = """
import json, platform, torch
gpu = torch.cuda.is_available()
try:
    from tfc_fast import _C
    build = _C.build_info()
except ImportError as error:
    build = {"error": str(error)}
print(json.dumps({
    "device": torch.cuda.get_device_name() if gpu else None,
    "capability": list(torch.cuda.get_device_capability()) if gpu else None,
    "torch": torch.__version__, "cuda": torch.version.cuda,
    "python": platform.python_version(), "platform": platform.platform(), "build": build,
}))
"""


class StageError(Exception):
    """A stage failed; the message says why."""


class LeftOut(Exception):  # noqa: N818  (not an error)
    """A stage cannot be run here; the message says why."""


class Stage:
    """A stage that is running: its folder, its log, and its time.

    Args:
        name: Of `STAGES`.
        out: Folder of the results.
        work: Folder of what is built.
        architectures: As TFC_CUDA_ARCHITECTURES.
    """

    def __init__(self, name: str, out: Path, work: Path, architectures: str) -> None:
        self.out = out
        self.work = work
        self.site = work / "site"
        self.architectures = architectures
        self._log = out / f"{name}.log"
        self._log.write_text("")
        self._until = time.monotonic() + STAGE_SECONDS

    def run(
        self, command: Sequence[str], *, folder: Path | None = None, log: Path | None = None
    ) -> None:
        """Run a command, its output going to stdout and the log, or another one.

        Raises:
            StageError: It failed, or took too long and was ended.
        """
        left = self._until - time.monotonic()
        log = log or self._log
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "TFC_FAST_REQUIRE_GPU": "1"}
        environment["PYTHONPATH"] = str(self.site)
        print(f"$ {' '.join(command)}", flush=True)
        process = subprocess.Popen(
            command,
            cwd=folder or self.work,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        ended = threading.Event()

        def end() -> None:
            ended.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(max(left, 0.1), end)
        timer.start()
        told: list[str] = []
        try:
            assert process.stdout is not None
            with log.open("a") as file:
                for line in process.stdout:
                    print(line, end="", flush=True)
                    file.write(line)
                    told.append(line.rstrip())
            status = process.wait()
        finally:
            timer.cancel()
        if ended.is_set():
            raise StageError(f"ended after {left:.0f} s: {' '.join(command[:4])} ...")
        if status != 0:
            raise StageError(f"exit status {status}, see {log.name}: {_reason(told)}")


def _reason(lines: Sequence[str]) -> str:
    """The lines of an output that tell most."""
    wrong = [i for i, line in enumerate(lines) if re.search(r"CMake Error|\berror:|Error: ", line)]
    first = [i for i in wrong if "subprocess-exited-with-error" not in lines[i]]
    shown = lines[first[0] : first[0] + 6] if first else lines[-6:]
    return " ".join(" ".join(shown).split())


def build(stage: Stage) -> dict[str, Any]:
    try:
        way = gpu_build.build(stage.site, stage.work / "build", stage.architectures, stage.run)
    except gpu_build.BuildError as error:
        raise StageError(str(error)) from error
    return {"built_by": way}


def test(stage: Stage) -> dict[str, Any]:
    report = stage.out / "tests.xml"
    report.unlink(missing_ok=True)
    folder = _away(stage)
    command = [sys.executable, "-m", "pytest", "tests/cuda", "-q", "-p", "no:cacheprovider"]
    try:
        stage.run([*command, "--junitxml", str(report)], folder=folder)
    except StageError as error:
        if not report.exists():
            raise
        names = [
            case.get("name")
            for case in ElementTree.parse(report).iter("testcase")
            if case.find("failure") is not None or case.find("error") is not None
        ]
        raise StageError(f"{_counts(report)}; {', '.join(map(str, names[:40]))}") from error
    return {"tests": _counts(report)}


def sanitize(stage: Stage) -> dict[str, Any]:
    beside_nvcc = Path("/usr/local/cuda/bin/compute-sanitizer")
    tool = shutil.which("compute-sanitizer") or (beside_nvcc.exists() and str(beside_nvcc))
    if not tool:
        raise LeftOut("compute-sanitizer was not found (PATH, /usr/local/cuda/bin)")
    folder = _away(stage)

    def outcome(check: str, chosen: str) -> str:
        command = [str(tool), "--tool", check, "--kernel-name", "kns=tfc4cuda"]
        command += ["--error-exitcode", "99", sys.executable, "-m", "pytest", "tests/cuda", "-q"]
        command += ["-p", "no:cacheprovider", "-x", "-k", chosen]
        try:
            stage.run(command, folder=folder, log=stage.out / f"{check}.log")
        except StageError as error:
            return f"failed: {error}"
        return "passed"

    # Each tensor in an allocation of its own, so that memcheck sees where it ends.
    os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    with ThreadPoolExecutor() as pool:
        running = {check: pool.submit(outcome, check, chosen) for check, chosen in CHECKS.items()}
    del os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"]
    outcomes = {check: found.result() for check, found in running.items()}
    if any(found != "passed" for found in outcomes.values()):
        raise StageError("; ".join(f"{check}: {told}" for check, told in outcomes.items()))
    return outcomes


def bench(stage: Stage) -> dict[str, Any]:
    _require_build(stage)
    file = stage.out / "bench.json"
    file.unlink(missing_ok=True)
    script = str(ROOT / "benchmarks" / "gpu_bench.py")
    stage.run([sys.executable, script, "--json", str(file)])
    return {"results": file.name}


def _is_built(site: Path) -> bool:
    return any((site / "tfc_fast").glob("_C.*.so"))


def _require_build(stage: Stage) -> None:
    if not _is_built(stage.site):
        raise StageError(f"nothing was built in {stage.site}: run the stage build")


def _away(stage: Stage) -> Path:
    """A copy of the tests that has no package beside it but the one that was built."""
    _require_build(stage)
    folder = stage.work / "away"
    shutil.rmtree(folder, ignore_errors=True)
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def _counts(report: Path) -> str:
    suite = next(ElementTree.parse(report).iter("testsuite"))
    count = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    return ", ".join(f"{number} {name}" for name, number in count.items())


STAGES: dict[str, Callable[[Stage], dict[str, Any]]] = {
    "build": build,
    "test": test,
    "sanitize": sanitize,
    "bench": bench,
}


def run_stage(name: str, out: Path, work: Path, architectures: str) -> dict[str, Any]:
    """Run a stage; what came of it."""
    print(f"\n=== {name} ===", flush=True)
    began = time.monotonic()
    try:
        found = {"outcome": "passed", **STAGES[name](Stage(name, out, work, architectures))}
    except LeftOut as reason:
        found = {"outcome": "left out", "reason": str(reason)}
    except (StageError, OSError) as error:
        found = {"outcome": "failed", "reason": str(error)}
    found["seconds"] = round(time.monotonic() - began, 1)
    return found


def look(work: Path) -> dict[str, Any]:
    """Device and versions, as a process sees them that imports what was built."""
    environment = os.environ | {"PYTHONPATH": str(work / "site")}
    command = [sys.executable, "-c", _LOOK]
    done = subprocess.run(
        command, cwd=work, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        return {"error": done.stderr[-2000:]}
    found: dict[str, Any] = json.loads(done.stdout)
    if not _is_built(work / "site"):
        found["build"] = None  # of another installation
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; see `--help`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for the results")
    parser.add_argument("--work", type=Path, metavar="DIR", help="for what is built")
    parser.add_argument("--only", default=",".join(STAGES), help="stages, separated by commas")
    parser.add_argument(
        "--architectures", default="native", help="to build for, as 9.0 (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    chosen = options.only.split(",")
    unknown = [name for name in chosen if name not in STAGES]
    if unknown:
        parser.error(f"--only: {unknown[0]!r} given, known are {', '.join(STAGES)}")
    out = options.out.resolve()
    work = options.work.resolve() if options.work else out / "work"
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    file = out / "gpu_check.json"
    results: dict[str, Any] = {"benchmark": "gpu_check", "machine": None, "stages": {}}
    if file.exists():  # stages that were run before
        results = json.loads(file.read_text())
    for name in [name for name in STAGES if name in chosen]:
        results["stages"][name] = run_stage(name, out, work, options.architectures)
        if name == "bench" and (out / "bench.json").exists():
            results["bench"] = json.loads((out / "bench.json").read_text())
        results["machine"] = look(work)
        file.write_text(json.dumps(results, indent=2) + "\n")
    print(f"\n{results['machine']}")
    failed = False
    for name in chosen:
        found = results["stages"][name]
        failed |= found["outcome"] == "failed"
        reason = f": {found['reason']}" if "reason" in found else ""
        print(f"{name:9} {found['outcome']:9} {found['seconds']:7.1f} s{reason}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
