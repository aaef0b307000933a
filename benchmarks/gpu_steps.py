"""A training step on a GPU without and with measuring: eager, and captured in a graph."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from gpu_timing import host_times, summary
from torch import Tensor, nn
from torch.nn import functional as F

from tfc_fast.bench.contenders import CONTENDERS, Contender
from tfc_fast.bench.overhead import Shape
from tfc_fast.models import MLP

__all__ = ["CASES", "Composed", "measure_steps", "waits"]

NUM_CLASSES = 10
DEPTH = 9
CASES = ((Shape(4096, 4096), torch.bfloat16), (Shape(256, 512), torch.float32))
_REPEAT = {Shape(4096, 4096): 3, Shape(256, 512): 20}
_WARM_UP_STEPS = 5


class Composed(Contender):
    """The probe's statistics as a careful user composes them: sums of unit rows, torch.compile."""

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        super().__init__(model, num_classes)
        self.results: dict[str, tuple[Tensor, ...]] = {}
        self._one_hot = torch.empty(0)
        self._measure: Callable[..., tuple[Tensor, ...]] = torch.compile(_statistics, dynamic=False)
        self._hooks = [
            module.register_forward_hook(functools.partial(self._forward, name))
            for name, module in model.named_modules()
            if isinstance(module, nn.ReLU)
        ]

    def step(self, inputs: Tensor, labels: Tensor) -> None:
        """Do one training step."""
        self.optimizer.zero_grad()
        self._one_hot = F.one_hot(labels, self.num_classes).float()
        F.cross_entropy(self.model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _forward(self, name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
        feature = output.detach()

        def backward(gradient: Tensor) -> None:
            self.results[name] = self._measure(feature, gradient, self._one_hot)

        output.register_hook(backward)  # type: ignore[no-untyped-call]


def _statistics(feature: Tensor, gradient: Tensor, one_hot: Tensor) -> tuple[Tensor, ...]:
    """Means of cosines within and between classes of both, and the gates' rates and agreement."""
    count = one_hot.sum(0)
    n, same = count.sum(), count.square().sum()
    results = []
    for x in (feature.float(), gradient.float()):
        norms = torch.linalg.vector_norm(x, dim=1, keepdim=True)
        sums = one_hot.T @ (x / norms)
        all_pairs, within = sums.sum(0).square().sum(), sums.square().sum()
        results += [(all_pairs - n) / (n * (n - 1)), (within - n) / (same - n)]
        results += [(all_pairs - within) / (n * n - same), norms.mean()]
    is_open = one_hot.T @ (feature > 0).float()
    of_unit = is_open.sum(0)
    pairs = of_unit * (of_unit - 1) + (n - of_unit) * (n - of_unit - 1)
    shut = count[:, None] - is_open
    within = is_open * (is_open - 1) + shut * (shut - 1)
    results += [of_unit.mean() / n, (of_unit == 0).float().mean(), (of_unit == n).float().mean()]
    results += [pairs.mean() / (n * (n - 1)), within.sum(0).mean() / (same - n)]
    return tuple(results)


def contenders() -> dict[str, type[Contender]]:
    """All by name."""
    return {**CONTENDERS, "composed": Composed}


def measure_steps(
    shape: Shape, dtype: torch.dtype, *, graphs: bool, seconds: float
) -> dict[str, Any]:
    """Steps of all contenders in turn; one that fails is named with its error, and left out."""
    device = torch.device("cuda")
    generator = torch.Generator().manual_seed(0)
    model = MLP(shape.width, NUM_CLASSES, DEPTH, shape.width, generator=generator).to(device, dtype)
    x = torch.randn(shape.batch, shape.width, device=device, dtype=dtype)
    y = torch.randint(NUM_CLASSES, (shape.batch,), device=device)
    made: dict[str, Contender] = {}
    calls: dict[str, Callable[[], object]] = {}
    errors: dict[str, str] = {}
    for name, kind in contenders().items():
        try:
            made[name] = kind(copy.deepcopy(model), NUM_CLASSES)
            step = functools.partial(made[name].step, x, y)
            calls[name] = _captured(step) if graphs else _warmed_up(step)
        except Exception as error:  # noqa: PERF203  (the others are measured all the same)
            errors[name] = f"{type(error).__name__}: {error}"[:2000]
            torch.cuda.synchronize()
    try:
        if "plain" not in calls:
            raise RuntimeError(f"the step without measuring failed: {errors['plain']}")
        times = host_times(calls, seconds, _REPEAT.get(shape, 10))
    finally:
        for contender in made.values():
            contender.close()
    return {
        **shape._asdict(),
        "dtype": str(dtype).removeprefix("torch."),
        "depth": DEPTH,
        "graphs": graphs,
        "steps": summary(times, "plain"),
        "errors": errors,
    }


def waits(steps: int = 20) -> dict[str, Any]:
    """How often a probed step waits for the device, and a plain one; by torch's own account."""
    device = torch.device("cuda")
    found: dict[str, Any] = {}
    for name in ("plain", "probed"):
        model = MLP(64, NUM_CLASSES, DEPTH, 128).to(device)
        contender = contenders()[name](model, NUM_CLASSES)
        x = torch.randn(96, 64, device=device)
        y = torch.randint(NUM_CLASSES, (96,), device=device)
        _warmed_up(functools.partial(contender.step, x, y))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                for _ in range(steps):
                    contender.step(x, y)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        contender.close()
        told = [str(w.message) for w in caught if "synchroniz" in str(w.message)]
        found[name] = {"steps": steps, "waits": len(told), "first": told[:1]}
    return found


def _warmed_up(step: Callable[[], object]) -> Callable[[], object]:
    for _ in range(_WARM_UP_STEPS):
        step()
    torch.cuda.synchronize()
    return step


def _captured(step: Callable[[], object]) -> Callable[[], object]:
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        _warmed_up(step)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
