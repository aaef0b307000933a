"""What a training loop pays for `Probe` besides the backward kernels.

`batch` and `step` stand beside a whole training step of the same network without a probe, and the
forward of a watched ReLU beside that of a plain one. What all of it adds to a step, kernels
included, is measured interleaved by `tfc-fast bench overhead`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from workloads import NUM_CLASSES, Case, Workload, nothing

from tfc_fast import Probe
from tfc_fast.bench.contenders import Plain
from tfc_fast.bench.overhead import Shape
from tfc_fast.models import MLP

Measure = Callable[[Workload, str], None]

_CASE = Case(Shape(256, 512), torch.float32)
_DEPTH = 9


@pytest.fixture
def training() -> Iterator[Workload]:
    """Of 8 sites; `prepare` does the forward and backward whose sums `step` has to finish.

    Every 128th `step` also brings the records to the history: that shows in the mean of many
    rounds, not in their median.
    """
    rows, width = _CASE.shape
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(rows, width, generator=generator)
    labels = torch.randint(NUM_CLASSES, (rows,), generator=generator)
    plain = Plain(MLP(width, NUM_CLASSES, _DEPTH, width, generator=generator), NUM_CLASSES)
    model = MLP(width, NUM_CLASSES, _DEPTH, width, generator=generator)
    probe = Probe(model, num_classes=NUM_CLASSES).attach()
    loss = torch.tensor(0.0)

    def prepare() -> None:
        probe.batch(labels=labels)
        F.cross_entropy(model(inputs), labels).backward()  # type: ignore[no-untyped-call]

    calls: dict[str, Callable[[], object]] = {
        "batch": lambda: probe.batch(labels=labels),
        "step": lambda: probe.step(loss=loss),
        "plain training step": lambda: plain.step(inputs, labels),
    }
    yield Workload(f"probe, 8 sites, {_CASE}", calls, _CASE, prepare)
    probe.close()


@pytest.fixture
def relu_forward() -> Iterator[Workload]:
    x = torch.randn(*_CASE.shape).requires_grad_()
    plain, watched = nn.ReLU(), nn.ReLU()
    probe = Probe(watched).attach()
    calls: dict[str, Callable[[], object]] = {
        "watched": lambda: watched(x),
        "plain": lambda: plain(x),
    }
    # A new micro-batch each time, else every call would be one more site.
    yield Workload(f"forward of ReLU, {_CASE}", calls, _CASE, probe.batch)
    probe.close()


def test_step(training: Workload, measure: Measure) -> None:
    measure(training, "step")


@pytest.mark.parametrize("call", ["batch", "plain training step"])
def test_beside_step(training: Workload, call: str, measure: Measure) -> None:
    measure(training._replace(prepare=nothing), call)


@pytest.mark.parametrize("module", ["watched", "plain"])
def test_relu_forward(relu_forward: Workload, module: str, measure: Measure) -> None:
    measure(relu_forward, module)
