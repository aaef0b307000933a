"""The loop by which tests train a model, with a probe and without."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from tfc_fast import Probe


def train_steps(
    run: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    batches: Iterable[tuple[Tensor, Tensor]],
    probe: Probe | None,
    *,
    labelled: bool = True,
) -> list[Tensor]:
    """The loss of each step. `batches` is asked for one after the other: it may draw them."""
    losses = []
    for x, y in batches:
        if probe is not None:
            probe.batch(labels=y if labelled else None)
        loss = nn.functional.cross_entropy(run(x), y)
        loss.backward()
        if probe is not None:
            probe.step(loss=loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return losses
