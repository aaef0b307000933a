"""Models that only tests train."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tfc_fast import tap


class Recurrent(nn.Module):
    """LSTM, GRU or RNN over a sequence; they return a tuple."""

    def __init__(self, kind: type[nn.RNNBase], width: int = 12, num_classes: int = 10) -> None:
        super().__init__()
        self.cells = kind(6, width, batch_first=True)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.cells(x)
        return self.head(out[:, -1] + out.mean(1))


class Functional(nn.Module):
    """`F.relu` in the forward, seen by taps."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.linears = nn.ModuleList(nn.Linear(20, 20) for _ in range(3))
        self.head = nn.Linear(20, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for i, linear in enumerate(self.linears):
            x = tap(F.relu(linear(x)), f"hidden.{i}")
        return self.head(x)
