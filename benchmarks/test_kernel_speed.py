"""Times of the kernels beside their peers, one table per kernel and size.

Rows of a table are measured one after the other, so a machine that changes its speed in between
shifts them against each other; `kernel_ratios.py` measures the same calls interleaved.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import workloads
from workloads import Workload

Measure = Callable[[Workload, str], None]


# Of module scope, so that both providers get the same inputs, which take up to 768 MiB.
@pytest.fixture(scope="module", params=workloads.RELU_BACKWARD_CASES, ids=str)
def relu_backward(request: pytest.FixtureRequest) -> Workload:
    return workloads.relu_backward(request.param)


@pytest.fixture(scope="module", params=workloads.MEAN_COSINE_CASES, ids=str)
def mean_cosine(request: pytest.FixtureRequest) -> Workload:
    return workloads.mean_cosine(request.param)


@pytest.fixture(scope="module", params=workloads.GATE_STATS_CASES, ids=str)
def gate_stats(request: pytest.FixtureRequest) -> Workload:
    return workloads.gate_stats(request.param)


@pytest.mark.parametrize("provider", ["ours", "torch"])
def test_relu_backward(relu_backward: Workload, provider: str, measure: Measure) -> None:
    measure(relu_backward, provider)


@pytest.mark.parametrize("provider", ["ours", "sum", "eager"])
def test_mean_cosine(mean_cosine: Workload, provider: str, measure: Measure) -> None:
    measure(mean_cosine, provider)


@pytest.mark.parametrize("provider", ["ours", "eager"])
def test_gate_stats(gate_stats: Workload, provider: str, measure: Measure) -> None:
    measure(gate_stats, provider)
