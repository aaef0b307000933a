"""A small MLP, a batch for it, and one step with a probe: what tests of the probe share."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfc_fast import Probe
from tfc_fast.records import Records

CLASSES = 3


def build(*, inplace: bool = False) -> nn.Sequential:
    """Sites "1" and "3"; the same weights every time."""
    torch.manual_seed(3)
    return nn.Sequential(
        *(nn.Linear(6, 16), nn.ReLU(inplace), nn.Linear(16, 16), nn.ReLU(inplace)),
        nn.Linear(16, CLASSES),
    )


def batch(rows: int = 24) -> tuple[Tensor, Tensor]:
    """The same numbers every time."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(rows, 6, generator=generator), torch.arange(rows) % CLASSES


def random_batch(rng: np.random.Generator, rows: int = 24) -> tuple[Tensor, Tensor]:
    """Other numbers every time."""
    x = torch.from_numpy(rng.standard_normal((rows, 6)).astype(np.float32))
    return x, torch.from_numpy(rng.integers(0, CLASSES, rows))


def one_step(model: nn.Module, x: Tensor, y: Tensor, *, classes: int | None = CLASSES) -> Records:
    """The records of a step of one batch."""
    with Probe(model, num_classes=classes) as probe:
        probe.batch(labels=None if classes is None else y)
        F.cross_entropy(model(x), y).backward()
        probe.step()
    return probe.history()


def assert_same_records(actual: Records, expected: Records) -> None:
    """Bit for bit."""
    for name, column in expected.items():
        np.testing.assert_array_equal(actual[name], column, err_msg=name)
