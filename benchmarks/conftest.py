"""How the suites of this folder take times, and what they say of the machine.

Every benchmark goes through the fixture `measure`, ours and peers alike: one call per round, each
after the workload's `prepare`, and as many rounds as fit into `--benchmark-max-time`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import pytest
import torch

# `python benchmarks/kernel_ratios.py` finds the modules of this folder by itself; pytest does not.
sys.path.insert(0, str(Path(__file__).parent))

from workloads import Workload

from tfc_fast import _C
from tfc_fast.bench import heap
from tfc_fast.environment import versions

_WARM_UP_ROUNDS = 3
_MAX_ROUNDS = 20_000


class _Benchmark(Protocol):
    """What is used here of pytest-benchmark's fixture, which is not annotated."""

    group: str | None
    extra_info: dict[str, Any]

    def pedantic(
        self,
        target: Callable[[], object],
        *,
        setup: Callable[[], None],
        rounds: int,
        warmup_rounds: int,
    ) -> object: ...


@pytest.fixture
def measure(benchmark: _Benchmark, pytestconfig: pytest.Config) -> Callable[[Workload, str], None]:
    """Time one provider of a workload; all providers of one workload share a table."""
    max_time = float(pytestconfig.getoption("benchmark_max_time"))
    min_rounds = int(pytestconfig.getoption("benchmark_min_rounds"))

    def measure(workload: Workload, provider: str) -> None:
        call = workload.calls[provider]
        benchmark.group = workload.name
        benchmark.extra_info["bytes_per_tensor"] = workload.case.bytes_per_tensor
        seconds = _seconds_per_round(workload.prepare, call)
        benchmark.pedantic(
            call,
            setup=workload.prepare,
            rounds=max(min_rounds, min(_MAX_ROUNDS, int(max_time / seconds))),
            warmup_rounds=_WARM_UP_ROUNDS,
        )

    return measure


def _seconds_per_round(prepare: Callable[[], None], call: Callable[[], object]) -> float:
    """From the second round: the first one pays for lazy initialisation."""
    for _ in range(2):
        began = time.perf_counter()
        prepare()
        call()
        seconds = time.perf_counter() - began
    return seconds


def _machine() -> dict[str, str]:
    return {
        **versions(),
        "threads": str(torch.get_num_threads()),
        "instruction_set": _C.build_info()["instruction_set"],
    }


def pytest_sessionstart() -> None:
    heap.keep_memory()


def pytest_report_header() -> str:
    return ", ".join(f"{name} {value}" for name, value in _machine().items())


def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    machine_info.update(_machine())
