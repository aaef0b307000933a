"""The losses of a run, and the loss of a network that knows no more than the class frequencies."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

__all__ = ["LOSSES", "chance_loss", "loss_function"]

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _cross_entropy(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output, labels)


def _mse(output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.mse_loss(output, F.one_hot(labels, output.shape[1]).to(output.dtype))


LOSSES: dict[str, Loss] = {"cross_entropy": _cross_entropy, "mse": _mse}
"""Name to function of outputs `[n, num_classes]` and labels int64 `[n]`; a scalar, averaged."""


def loss_function(name: str) -> Loss:
    """Return a loss by name.

    Args:
        name: "cross_entropy", or "mse" for `mean_ij (output_ij - [j = label_i])^2`.

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> loss_function("mse")(torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
        tensor(0.)
    """
    if name not in LOSSES:
        raise ValueError(f"loss: {name!r} given, one of {', '.join(LOSSES)} is wanted")
    return LOSSES[name]


def chance_loss(name: str, labels: torch.Tensor, num_classes: int) -> float:
    """Return the smallest loss of an output that is the same for all samples.

    With class frequencies p_c: the entropy `-sum_c p_c log p_c` for cross-entropy; the mean
    variance of a one-hot entry, `sum_c p_c (1 - p_c) / num_classes`, for mse. A stuck network
    stays there.

    Args:
        name: A name of `LOSSES`.
        labels: int64 `[n]`.
        num_classes: Number of classes C.

    Returns:
        The loss, in float64.

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> round(chance_loss("cross_entropy", torch.arange(10), 10), 4)
        2.3026
    """
    loss_function(name)
    frequency = torch.bincount(labels, minlength=num_classes).double() / len(labels)
    if name == "mse":
        return float((frequency * (1 - frequency)).mean())
    return float(-torch.xlogy(frequency, frequency).sum())
