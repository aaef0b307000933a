"""Three ways to train the same network: plain, with the probe, with hooks as written by hand."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from tfc_fast.probe import Probe, Sites
from tfc_fast.probe.reductions import Reduction

__all__ = ["CONTENDERS", "Contender", "Naive", "Plain", "Probed"]

_LEARNING_RATE = 0.01


class Contender(ABC):
    """A model and its optimizer; `step` is what is timed.

    Args:
        model: Classifier of `num_classes` classes; trained in place by SGD.
        num_classes: Number of classes.
        sites: What is watched.
        reduction: What the rows are.
    """

    probe: Probe | None = None

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        sites: Sites = "relu",
        reduction: Reduction = "flatten",
    ) -> None:
        self.model = model
        self.num_classes = num_classes
        self.sites = sites
        self.reduction = reduction
        self.optimizer = torch.optim.SGD(model.parameters(), lr=_LEARNING_RATE)

    @abstractmethod
    def step(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        """Do one training step.

        Args:
            inputs: float32 `[n, d]`.
            labels: int64 `[n]`.
        """

    @abstractmethod
    def close(self) -> None:
        """Give the model back as it was."""


class Plain(Contender):
    """Training and nothing else."""

    def step(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        """Do one training step."""
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def close(self) -> None:
        """Nothing was done to the model."""


class Probed(Contender):
    """Training with `Probe`, at every step."""

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        sites: Sites = "relu",
        reduction: Reduction = "flatten",
    ) -> None:
        super().__init__(model, num_classes, sites, reduction)
        self.probe: Probe = Probe(
            model, sites, num_classes=num_classes, reduction=reduction
        ).attach()

    def step(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        """Do one training step."""
        self.optimizer.zero_grad()
        self.probe.batch(labels=labels)
        loss = F.cross_entropy(self.model(inputs), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.probe.step(loss=loss)
        self.optimizer.step()

    def close(self) -> None:
        """Detach the probe."""
        self.probe.close()


class Naive(Contender):
    """Training of an MLP with hooks on all ReLUs that do what comes to mind first.

    Rows are normalised, all their cosines formed (X X^T), and averaged over the pairs of one class
    and of different classes: for the features in a forward hook, for their gradients in a tensor
    hook; besides, the rate of open gates. The class masks are made once per step.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        sites: Sites = "relu",
        reduction: Reduction = "flatten",
    ) -> None:
        super().__init__(model, num_classes, sites, reduction)
        if sites != "relu" or reduction != "flatten":
            raise ValueError("providers: naive hooks are for MLPs; leave them out")
        self.results: dict[str, tuple[torch.Tensor, ...]] = {}
        self._masks: tuple[torch.Tensor, ...] = ()
        self._hooks = [
            module.register_forward_hook(self._hook(name))
            for name, module in model.named_modules()
            if isinstance(module, nn.ReLU)
        ]

    def step(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        """Do one training step."""
        self.optimizer.zero_grad()
        same = labels[:, None] == labels[None, :]
        same_row = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        within = (same & ~same_row).float()
        between = (~same).float()
        self._masks = (within, between, within.sum(), between.sum())
        F.cross_entropy(self.model(inputs), labels).backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def close(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[torch.Tensor], torch.Tensor], None]:
        def forward(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            features = output.detach()
            self.results[f"{name}.features"] = self._means(features)
            self.results[f"{name}.gates"] = ((features > 0).float().mean(),)
            output.register_hook(backward)  # type: ignore[no-untyped-call]

        def backward(gradient: torch.Tensor) -> None:
            self.results[f"{name}.gradients"] = self._means(gradient)

        return forward

    def _means(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        within, between, num_within, num_between = self._masks
        unit = F.normalize(rows, dim=1)
        cosine = unit @ unit.T
        return (cosine * within).sum() / num_within, (cosine * between).sum() / num_between


CONTENDERS: dict[str, type[Contender]] = {"plain": Plain, "probed": Probed, "naive": Naive}
"""Name to class; "plain" is what the others are compared with."""
