"""Recurrent networks that read an image row by row."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

__all__ = ["RowNetwork"]

_KINDS = ("rnn", "lstm")


class RowNetwork(nn.Module):
    """Recurrent layers that read the rows of an image from top to bottom, and a linear output.

    The logits are a linear function of the state of the last layer after the last row. Module paths
    are `recurrent.0`, `recurrent.1`, … and `output`; each recurrent layer returns its states at all
    rows, `[n, rows, width]`.

    Args:
        shape: Of an image, `(channels, height, width)`: it has `channels * height` rows. Samples
            may be flat: `[n, d]`.
        num_classes: Numbers per output.
        depth: Number of layers, the output included.
        width: Units of each recurrent layer.
        kind: `"rnn"`: Elman's layers with ReLU; `"lstm"`: long short-term memory.
        bias: Whether the layers have a bias.

    Raises:
        ValueError: `shape` is not that of an image, `kind` is unknown, or `depth` is below 2.

    Example:
        >>> RowNetwork((1, 8, 8), 10, depth=3, width=4)(torch.zeros(5, 64)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        num_classes: int,
        depth: int,
        width: int,
        *,
        kind: Literal["rnn", "lstm"] = "rnn",
        bias: bool = True,
    ) -> None:
        super().__init__()
        if len(shape) != 3:
            raise ValueError(
                f"shape: {shape} given, (channels, height, width) of an image is wanted"
            )
        if kind not in _KINDS:
            raise ValueError(f"kind: {kind!r} given, one of {', '.join(_KINDS)} is wanted")
        if depth < 2:
            raise ValueError(
                f"depth: {depth} given, at least 2 is wanted: a recurrent layer and the output"
            )
        self._rows, self._columns = math.prod(shape[:2]), shape[2]
        sizes = [self._columns] + [width] * (depth - 2)
        self.recurrent = nn.ModuleList(
            nn.LSTM(size, width, bias=bias, batch_first=True)
            if kind == "lstm"
            else nn.RNN(size, width, nonlinearity="relu", bias=bias, batch_first=True)
            for size in sizes
        )
        self.output = nn.Linear(width, num_classes, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits `[n, num_classes]` of a batch `[n, ...]`."""
        states = x.reshape(len(x), self._rows, self._columns)
        for layer in self.recurrent:
            states, _ = layer(states)
        logits: torch.Tensor = self.output(states[:, -1])
        return logits
