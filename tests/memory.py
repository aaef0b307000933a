"""How much memory a call takes at its peak; Linux tells, and forgets an earlier peak when asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

_CLEAR = Path("/proc/self/clear_refs")


def peak_mib(call: Callable[[], object]) -> float:
    """Peak of the memory that a call takes in this process, its result included, in MiB."""
    # The peak so far becomes what is in use now.
    _CLEAR.write_text("5")
    before = _status_kib("VmRSS")
    result = call()
    peak = _status_kib("VmHWM")
    del result
    return (peak - before) / 1024


def peak_mib_of(program: str, call: str) -> float:
    """The same of an expression, in a process of its own, with two threads, after a program.

    Skips the test where the system does not let a peak be forgotten.
    """
    try:
        _CLEAR.write_text("5")
    except OSError as error:
        pytest.skip(f"peaks of memory cannot be told apart: {error}")
    measured = f"{program}\nfrom memory import peak_mib\nprint(peak_mib(lambda: {call}))"
    run = subprocess.run(
        [sys.executable, "-c", measured],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "2",
            "PYTHONPATH": str(Path(__file__).parent),
            # What was freed before the call is given back, so that the call cannot hide in it.
            "MALLOC_MMAP_THRESHOLD_": "65536",
            "MALLOC_TRIM_THRESHOLD_": "0",
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return float(run.stdout)


def _status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{field}:")).split()[1])
