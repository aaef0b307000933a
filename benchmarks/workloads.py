"""What is timed: for each kernel the inputs of one size, our call, and the calls of its peers.

Here are the kernels that pass over the rows once; `pair_workloads.py` has those of all pairs.

The pytest suites and `kernel_ratios.py` take their workloads from here, so that both time the same
calls. Whoever builds a workload gets the proof with it that ours and peers compute the same values
from these inputs; what merely sets the scale (`x.sum()`) is not compared.

Inputs are standard normal (features: their ReLU, so that half of the gates are open), in 10 classes
of about equal size in random order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import baselines
import torch
from torch import Tensor

from tfc_fast import _C, gating, similarity
from tfc_fast.bench.overhead import Shape

__all__ = [
    "GATE_STATS_CASES",
    "MEAN_COSINE_CASES",
    "NUM_CLASSES",
    "RELU_BACKWARD_CASES",
    "Case",
    "Workload",
    "cases",
    "feature_rows",
    "gate_stats",
    "labels_of",
    "mean_cosine",
    "nothing",
    "relu_backward",
]

NUM_CLASSES = 10

_TOLERANCE = 1e-5
"""Between our means and those of the eager peers, which sum up to 65536 unit rows in float32."""


def nothing() -> None:
    """Do nothing: what most workloads need before a call."""


class Case(NamedTuple):
    """Size and dtype of a tensor."""

    shape: Shape
    dtype: torch.dtype

    @property
    def bytes_per_tensor(self) -> int:
        """Size of one tensor in bytes."""
        return self.shape.batch * self.shape.width * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.shape.batch}x{self.shape.width}-{str(self.dtype).removeprefix('torch.')}"


class Workload(NamedTuple):
    """One kernel at one size."""

    name: str
    """Of kernel and case; ours and peers share it."""
    calls: dict[str, Callable[[], object]]
    """What is timed, by provider: "ours" and the peers."""
    case: Case
    prepare: Callable[[], None] = nothing
    """Called before each call of each provider, outside of the time that is taken."""


def cases(shapes: Sequence[str], dtype: torch.dtype) -> tuple[Case, ...]:
    """One case per shape, as "256x512"."""
    return tuple(Case(Shape.parse(shape), dtype) for shape in shapes)


RELU_BACKWARD_CASES = (
    *cases(
        ("128x256", "256x512", "1024x512", "1024x1024", "16384x1024", "65536x1024"), torch.float32
    ),
    *cases(("256x512", "1024x1024", "16384x1024"), torch.bfloat16),
)
MEAN_COSINE_CASES = cases(("1024x512", "65536x1024"), torch.float32)
GATE_STATS_CASES = MEAN_COSINE_CASES


def relu_backward(case: Case) -> Workload:
    """Backward of ReLU: with all statistics of a labelled batch (ours), and without (torch).

    Both are called from Python through torch's dispatcher, and both allocate the gradient that they
    return, as in training (`heap.py` has more on that). The recorder refuses a second backward of a
    site in one micro-batch: `prepare` begins a new one, with the same labels, before every call of
    either side. That is not part of the kernel; the suite of the probe measures it.
    """
    (rows, width), dtype = case
    generator = torch.Generator().manual_seed(0)
    grad = torch.randn(rows, width, generator=generator).to(dtype)
    feature = feature_rows(case, generator)
    labels = labels_of(rows, generator)
    recorder = _C.Recorder(
        num_sites=1, num_classes=NUM_CLASSES, capacity=1, window=100, every=1, units=width
    )

    def prepare() -> None:
        recorder.begin_batch(labels)

    prepare()  # also makes room for the labels: the tensors below stay the same from here on
    state = (recorder.order, recorder.class_ptr, recorder.sites, recorder.units, 0)
    fused = torch.ops.tfc_fast.relu_probe_backward.default

    def ours() -> Tensor:
        grad_in: Tensor = fused(grad, feature, *state)
        return grad_in

    def own() -> Tensor:
        return baselines.relu_backward(grad, feature)

    if not torch.equal(ours(), own()):
        raise RuntimeError(f"relu_backward {case}: ours and torch's own give different gradients")
    return Workload(f"relu_backward {case}", {"ours": ours, "torch": own}, case, prepare)


def mean_cosine(case: Case) -> Workload:
    """`similarity.mean_cosine` with labels (ours), in eager PyTorch, and `x.sum()` for scale."""
    generator = torch.Generator().manual_seed(0)
    x = feature_rows(case, generator)
    labels = labels_of(case.shape.batch, generator)

    def ours() -> similarity.CosineMeans:
        return similarity.mean_cosine(x, labels, num_classes=NUM_CLASSES)

    def eager() -> tuple[Tensor, ...]:
        return baselines.mean_cosine(x, labels, NUM_CLASSES)

    def total() -> Tensor:
        return baselines.sum_of_all(x)

    name = f"mean_cosine {case}"
    _require_close(name, ours()[:3], eager())
    return Workload(name, {"ours": ours, "sum": total, "eager": eager}, case)


def gate_stats(case: Case) -> Workload:
    """`gating.gate_stats` with labels (ours), and in eager PyTorch."""
    generator = torch.Generator().manual_seed(0)
    x = feature_rows(case, generator)
    labels = labels_of(case.shape.batch, generator)

    def ours() -> gating.GateStats:
        return gating.gate_stats(x, labels, num_classes=NUM_CLASSES)

    def eager() -> tuple[Tensor, ...]:
        return baselines.gate_stats(x, labels, NUM_CLASSES)

    name = f"gate_stats {case}"
    _require_close(name, ours()[:6], eager())
    return Workload(name, {"ours": ours, "eager": eager}, case)


def feature_rows(case: Case, generator: torch.Generator) -> Tensor:
    """ReLU of standard normal numbers."""
    return torch.randn(*case.shape, generator=generator).relu_().to(case.dtype)


def labels_of(rows: int, generator: torch.Generator) -> Tensor:
    """Classes of about equal size in random order."""
    return torch.randint(NUM_CLASSES, (rows,), generator=generator)


def _require_close(name: str, ours: Sequence[object], eager: Sequence[Tensor]) -> None:
    for mine, theirs in zip(ours, eager, strict=True):
        if not torch.allclose(torch.as_tensor(mine), theirs, rtol=0, atol=_TOLERANCE):
            raise RuntimeError(f"{name}: ours gives {ours}, eager {eager}; they should agree")
