"""The multi-layer perceptron of the collapse experiments."""

from __future__ import annotations

import math
import operator
from collections import OrderedDict
from typing import SupportsFloat, SupportsIndex

import torch
from torch import nn


class MLP(nn.Module):
    """Multi-layer perceptron with ReLU: `depth` linear layers, `depth - 1` of them hidden.

    `h_0 = x`, `h_l = relu(norm(W_l h_(l-1) + b_l))`, `logits = W_depth h_(depth-1) + b_depth`, with
    `W_l ~ N(0, gain^2 * 2 / fan_in)` (He et al., 2015, for gain 1) and `b_l = 0`. Module paths are
    `hidden.0.linear`, `hidden.0.norm`, `hidden.0.relu`, `hidden.1.linear`, …, `output`. The model
    is made on the CPU; move it with `.to(device)`.

    Args:
        in_features: numbers per sample.
        num_classes: numbers per output.
        depth: number of linear layers, the output layer included.
        width: units of each hidden layer; without effect at depth 1.
        bias: whether the linear layers have a bias.
        batch_norm: whether a batch normalisation stands before each ReLU.
        gain: factor on the standard deviation of the initial weights; below 1 the first phase of
            a deep network grows longer.
        inplace: whether each ReLU overwrites its input.
        generator: source of the initial weights (on the CPU); torch's global one if not given. The
            global one is not touched if it is given.

    Raises:
        TypeError: if an argument has a wrong type.
        ValueError: if a count is below 1, or `gain` not a finite number above 0.

    Example:
        >>> model = MLP(64, 10, depth=3, width=32)
        >>> model(torch.zeros(5, 1, 8, 8)).shape
        torch.Size([5, 10])
        >>> model.sites
        ('hidden.0.relu', 'hidden.1.relu')
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        depth: int,
        width: int,
        *,
        bias: bool = True,
        batch_norm: bool = False,
        gain: float = 1.0,
        inplace: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_features = _positive_integer("in_features", in_features)
        num_classes = _positive_integer("num_classes", num_classes)
        depth = _positive_integer("depth", depth)
        width = _positive_integer("width", width)
        gain = _positive_number("gain", gain)
        sizes = [self.in_features] + [width] * (depth - 1)
        hidden = []
        for fan_in in sizes[:-1]:
            block: OrderedDict[str, nn.Module] = OrderedDict()
            block["linear"] = _linear(fan_in, width, bias, gain, generator)
            if batch_norm:
                block["norm"] = nn.BatchNorm1d(width, device="cpu")
            block["relu"] = nn.ReLU(inplace=inplace)
            hidden.append(nn.Sequential(block))
        self.hidden = nn.Sequential(*hidden)
        self.output = _linear(sizes[-1], num_classes, bias, gain, generator)

    @property
    def sites(self) -> tuple[str, ...]:
        """Module paths of the ReLUs, from the input to the output."""
        return tuple(name for name, module in self.named_modules() if isinstance(module, nn.ReLU))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[n, num_classes]` of a batch.

        Args:
            x: floating point `[n, ...]`, flattened to `[n, in_features]`.

        Raises:
            ValueError: if a sample does not have `in_features` numbers.
            TypeError: if `x` is not floating point.
        """
        if not x.is_floating_point():
            raise TypeError(f"x must be floating point, got {x.dtype}; use x.float()")
        if x.dim() < 2 or math.prod(x.shape[1:]) != self.in_features:
            raise ValueError(
                f"x must have shape [n, ...] with {self.in_features} numbers per sample, "
                f"got {list(x.shape)}"
            )
        logits: torch.Tensor = self.output(self.hidden(x.flatten(1)))
        return logits


def _linear(
    fan_in: int, fan_out: int, bias: bool, gain: float, generator: torch.Generator | None
) -> nn.Linear:
    # By way of "meta": nn.Linear would draw initial weights of its own from the global generator.
    layer = nn.Linear(fan_in, fan_out, bias=bias, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        # Drawn first and scaled after, so that one seed gives the same directions for every gain.
        layer.weight.normal_(generator=generator).mul_(gain * math.sqrt(2 / fan_in))
        if bias:
            layer.bias.zero_()
    return layer


def _positive_integer(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number


def _positive_number(name: str, value: object) -> float:
    if isinstance(value, (bool, str)) or not isinstance(value, SupportsFloat):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return number
