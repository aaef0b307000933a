"""Checks of what a probe is given."""

from __future__ import annotations

from collections.abc import Iterable
from typing import SupportsFloat

import numpy as np
import torch
from torch import Tensor, nn

from tfc_fast.records import Sink


def check_model(model: object) -> None:
    """Throw unless its modules can be watched."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model: wanted a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "model: a scripted one, whose modules cannot be watched; give the model that "
            "torch.jit.script was called with, or train that"
        )


def device_of(model: nn.Module) -> torch.device:
    """Where the model's first parameter or buffer lies; the CPU for a model without any."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.device.type not in ("cpu", "cuda"):
            raise ValueError(
                f"model: on {tensor.device}; a probe records on the CPU or a CUDA device"
            )
        return tensor.device
    return torch.device("cpu")


def checked_sinks(name: str, sinks: Iterable[Sink]) -> tuple[Sink, ...]:
    """Those that were given, if all of them are sinks."""
    if not isinstance(sinks, Iterable):
        raise TypeError(f"{name}: wanted a list of sinks, got {type(sinks).__name__}")
    sinks = tuple(sinks)
    for sink in sinks:
        if not isinstance(sink, Sink):
            raise TypeError(
                f"{name}: {type(sink).__name__} lacks one of write, flush, close "
                "(tfc_fast.records.Sink)"
            )
    return sinks


def tensor_of(name: str, value: Tensor | np.ndarray | None) -> Tensor | None:
    """What a user gives for each batch, as a tensor."""
    if value is None or isinstance(value, Tensor):
        return value
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: wanted a tensor or array, got {type(value).__name__}")
    return torch.as_tensor(value)


def checked_loss(loss: object) -> Tensor | float | None:
    """The loss of a step as something that can be stored as one number."""
    if loss is None or isinstance(loss, float):
        return loss
    if isinstance(loss, Tensor):
        _check_loss_tensor(loss)
        return loss
    if isinstance(loss, np.ndarray) and loss.size != 1:
        raise ValueError(f"loss: wanted one number, got shape {list(loss.shape)}; give its mean")
    # numpy would make a number of a str, and a real one of a complex one.
    value = loss.item() if isinstance(loss, np.ndarray | np.generic) else loss
    if not isinstance(value, SupportsFloat):
        raise TypeError(
            f"loss: wanted a tensor of one element, a number or None, got {type(value).__name__}"
        )
    try:
        return float(value)
    except Exception as error:
        raise ValueError(
            f"loss: wanted a number, got {type(value).__name__} of which float() says: {error}"
        ) from error


def _check_loss_tensor(loss: Tensor) -> None:
    """Throw unless it is one real number; what the number is only its device knows."""
    if loss.numel() != 1:
        raise ValueError(f"loss: wanted one number, got shape {list(loss.shape)}; give its mean")
    if loss.is_complex():
        raise TypeError(f"loss: wanted a real number, got a tensor of {loss.dtype}")


def at_least_one(name: str, value: object) -> int:
    """The value, if it is a whole number from 1 on."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: wanted an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name}: wanted at least 1, got {value}")
    return value
