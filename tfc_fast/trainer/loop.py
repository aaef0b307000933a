"""One step of training: the order of things, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tfc_fast.trainer.batches import Batches
from tfc_fast.trainer.objective import Loss

if TYPE_CHECKING:
    from tfc_fast.probe import Probe
    from tfc_fast.trainer.config import TrainConfig

__all__ = ["TrainingLoop", "make_optimizer"]


def make_optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """Return the optimizer that the settings name.

    Args:
        config: Its `optimizer`, `lr`, `momentum` and `weight_decay`.
        model: Its parameters that need a gradient are trained.

    Raises:
        ValueError: No parameter of the model needs a gradient.
    """
    parameters = [weight for weight in model.parameters() if weight.requires_grad]
    if not parameters:
        raise ValueError("model: no parameter has requires_grad=True, so there is nothing to train")
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay)
    return torch.optim.SGD(
        parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
    )


class TrainingLoop:
    """Trains a model step by step; with or without a probe it computes the same bits.

    Args:
        forward: The model, or what `torch.compile` made of it: inputs to outputs
            `[n, num_classes]`.
        optimizer: Of the parameters of the model.
        batches: The batch of every step.
        loss: Outputs and labels to a scalar.
        num_classes: Number of classes.
        probe: What measures, attached to the model; None for nothing.
    """

    def __init__(
        self,
        forward: Callable[[torch.Tensor], Any],
        optimizer: torch.optim.Optimizer,
        batches: Batches,
        loss: Loss,
        *,
        num_classes: int,
        probe: Probe | None,
    ) -> None:
        self._forward = forward
        self._optimizer = optimizer
        self._batches = batches
        self._loss = loss
        self._num_classes = num_classes
        self._probe = probe

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self._optimizer.param_groups[0]["lr"])

    def run(self, step: int) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Do one step: forward, backward, update.

        Args:
            step: Number of the step, from 1.

        Returns:
            Loss before the update (of a part of a batch times its weight) and number of samples
            classified rightly, both on the device and without a graph; number of samples.

        Raises:
            TypeError, ValueError: The model returns something else than `[n, num_classes]`.
        """
        inputs, labels = self._batches.at(step)
        self._optimizer.zero_grad(set_to_none=True)
        if self._probe is not None:
            self._probe.batch(labels=labels)
        output = self._forward(inputs)
        self._check(output, len(labels))
        loss = self._loss(output, labels)
        if self._batches.weight != 1:
            loss = loss * self._batches.weight
        loss.backward()  # type: ignore[no-untyped-call]
        loss = loss.detach()
        if self._probe is not None:
            self._probe.step(loss=loss)
        self._optimizer.step()
        correct = (output.detach().argmax(dim=1) == labels).sum()
        return loss, correct, len(labels)

    def _check(self, output: object, rows: int) -> None:
        wanted = f"a tensor [n, num_classes] = [{rows}, {self._num_classes}] is wanted"
        if not isinstance(output, torch.Tensor):
            raise TypeError(f"model: its output is a {type(output).__name__}, {wanted}")
        if output.shape != (rows, self._num_classes):
            raise ValueError(
                f"model: its output has shape {list(output.shape)}, {wanted}; change its last "
                "layer or num_classes"
            )
