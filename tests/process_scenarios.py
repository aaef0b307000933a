"""Training steps of several processes, which one process can take as well with the rows of all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from tfc_fast import Probe, tap
from tfc_fast.records import Records

CLASSES = 4
STEPS = 4


@contextlib.contextmanager
def group_of_one(folder: Path, backend: str = "gloo") -> Iterator[distributed.ProcessGroup]:
    """A process group of this process alone."""
    distributed.init_process_group(
        backend, init_method=f"file://{folder}/store", rank=0, world_size=1
    )
    try:
        assert distributed.group.WORLD is not None
        yield distributed.group.WORLD
    finally:
        distributed.destroy_process_group()


def mlp(width: int = 24) -> nn.Sequential:
    torch.manual_seed(11)
    layers: list[nn.Module] = []
    for inputs in (7, width, width):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES)).double()


def wide() -> nn.Sequential:
    """More units than a probe has room for at first."""
    torch.manual_seed(13)
    return nn.Sequential(nn.Linear(7, 9000), nn.ReLU(), nn.Linear(9000, CLASSES)).double()


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(12)
        self.conv = nn.Conv2d(1, 5, 3)
        self.relu = nn.ReLU()
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        images = x.repeat(1, 6)[:, :36].view(-1, 1, 6, 6)
        maps = self.relu(self.conv(images))
        out: Tensor = self.head(tap(maps.mean((2, 3)), "mean"))
        return out


class DeadUnits(nn.Module):
    """Unit 0 is open in no row, unit 1 in every row, unit 2 in the rows of one process."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(14)
        self.head = nn.Linear(3, CLASSES, dtype=torch.float64)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        sign = torch.stack([-x[:, 0].abs() - 1, x[:, 0].abs() + 1, x[:, 6]], 1)
        out: Tensor = self.head(self.relu(sign * self.head.weight.abs().sum(0)))
        return out


def _even(step: int, micro: int, rank: int) -> int:
    return 12


def _uneven(step: int, micro: int, rank: int) -> int:
    return 1 + (3 * step + 5 * rank + micro) % 9


def _last_is_short(step: int, micro: int, rank: int) -> int:
    return 12 if step < STEPS - 1 else 5 - rank


@dataclass(frozen=True)
class Scenario:
    build: Callable[[], nn.Module] = mlp
    classes: int | None = CLASSES
    rows: Callable[[int, int, int], int] = _even
    micro_batches: Callable[[int], int] = lambda rank: 1
    wrap: str = "ddp"
    compiled: bool = False
    evaluates: bool = False
    mask: Callable[[Tensor], Tensor] | None = None
    refused: bool = False  # the first process gives labels that there are not, and goes on
    probe: tuple[tuple[str, Any], ...] = ()


SCENARIOS = {
    "ddp": Scenario(),
    "fsdp2": Scenario(wrap="fsdp2"),
    "not wrapped": Scenario(wrap="none"),
    "no labels": Scenario(classes=None),
    "uneven": Scenario(rows=_uneven),
    "short last batch": Scenario(rows=_last_is_short),
    "accumulation": Scenario(micro_batches=lambda rank: 3, rows=_uneven),
    "accumulation without labels": Scenario(micro_batches=lambda rank: 2, classes=None),
    "uneven accumulation": Scenario(micro_batches=lambda rank: 1 + rank % 2, wrap="none"),
    "every second step": Scenario(probe=(("every", 2),)),
    "wide": Scenario(build=wide),
    "pool": Scenario(build=lambda: Convolution().double(), probe=(("reduction", "pool"),)),
    "tokens": Scenario(build=lambda: Convolution().double(), probe=(("reduction", "tokens"),)),
    "refused labels": Scenario(micro_batches=lambda rank: 3, rows=_uneven, refused=True),
    "masked tokens": Scenario(
        build=lambda: Convolution().double(),
        mask=lambda x: x.repeat(1, 3)[:, :20].view(-1, 5, 4) > 0.3,
        rows=_uneven,
        probe=(("reduction", "tokens"),),
    ),
    "dead units": Scenario(build=DeadUnits, probe=(("window", 2),)),
    "compiled": Scenario(compiled=True),
    "compiled, no labels": Scenario(compiled=True, classes=None),
    "evaluation": Scenario(evaluates=True, rows=_uneven),
}


OF_FOUR = ("ddp", "fsdp2", "uneven", "accumulation", "uneven accumulation", "dead units")
"""Those that four processes take, too."""


def rows_of(scenario: Scenario, step: int, micro: int, rank: int) -> tuple[Tensor, Tensor]:
    """The rows of one process; the same each time."""
    n = scenario.rows(step, micro, rank)
    generator = torch.Generator().manual_seed(1000 * step + 100 * micro + rank)
    x = torch.randn(n, 7, generator=generator, dtype=torch.float64)
    x[:, 6] = x[:, 6].abs() * (1 if rank == 0 else -1)
    x[n // 2 :: 5] = 0  # rows alike
    return x, torch.randint(0, CLASSES, (n,), generator=generator)


def wrapped(scenario: Scenario) -> nn.Module:
    """The model as it is trained by several processes."""
    model = scenario.build()
    if scenario.wrap == "ddp":
        return DistributedDataParallel(model)
    if scenario.wrap == "fsdp2":
        mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
        for layer in model.children():
            if isinstance(layer, nn.Linear):
                fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
    return model


def take_steps(
    scenario: Scenario, model: nn.Module, ranks: Sequence[int], processes: int, **shared: Any
) -> tuple[Probe, Records]:
    """STEPS steps on the rows of the processes `ranks`; the weights stay.

    Returns:
        The probe, and its records: those of evaluations if the scenario has any.
    """
    torch.compiler.reset()
    run = torch.compile(model, backend="aot_eager") if scenario.compiled else model
    probe = Probe(model, num_classes=scenario.classes, **(dict(scenario.probe) | shared))
    with probe:
        for step in range(STEPS):
            _one_step(scenario, run, probe, step, ranks, processes)
    split = "eval" if scenario.evaluates else "train"
    return probe, probe.history(split=split)


def _one_step(
    scenario: Scenario,
    run: Callable[[Tensor], Tensor],
    probe: Probe,
    step: int,
    ranks: Sequence[int],
    processes: int,
) -> None:
    loss: Tensor | None = None
    most = max(scenario.micro_batches(rank) for rank in ranks)
    for micro in range(most):
        chunks = [
            rows_of(scenario, step, micro, rank)
            for rank in ranks
            if micro < scenario.micro_batches(rank)
        ]
        x, y = (torch.cat(parts) for parts in zip(*chunks, strict=True))
        last = micro == most - 1
        with _no_sync(run, last), torch.set_grad_enabled(not scenario.evaluates):
            if scenario.refused and 0 in ranks:
                with contextlib.suppress(ValueError):
                    probe.batch(labels=y + CLASSES)
            probe.batch(
                labels=None if scenario.classes is None else y,
                mask=None if scenario.mask is None else scenario.mask(x),
            )
            outs = run(x).split([len(labels) for _, labels in chunks])
            losses = [
                nn.functional.cross_entropy(out, labels)
                for out, (_, labels) in zip(outs, chunks, strict=True)
            ]
            # Each process has the loss of its own rows; one process has their mean.
            loss = torch.stack(losses).sum() / (1 if len(ranks) == 1 else processes)
            if not scenario.evaluates:
                loss.backward()
    uneven = len({scenario.micro_batches(rank) for rank in range(processes)}) > 1
    probe.step(loss=None if uneven else loss, split="eval" if scenario.evaluates else "train")


def _no_sync(run: Any, last: bool) -> contextlib.AbstractContextManager[None]:
    if last or not isinstance(run, DistributedDataParallel):
        return contextlib.nullcontext()
    without: contextlib.AbstractContextManager[None] = run.no_sync()
    return without
