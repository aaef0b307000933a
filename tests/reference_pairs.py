"""What the twins of all statistics share: rows as float64, pairs of rows, and means over them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Array: TypeAlias = "torch.Tensor | npt.NDArray[Any]"
Floats: TypeAlias = "npt.NDArray[np.float64]"
Mask: TypeAlias = "npt.NDArray[np.bool_]"

KINDS = ("all", "within", "between")


def as_float64(x: Array) -> Floats:
    if isinstance(x, torch.Tensor):
        x = x.detach().to(torch.float64).resolve_neg().numpy()
    return np.asarray(x, np.float64).reshape(len(x), math.prod(x.shape[1:]))


def pairs_by_kind(labels: Array | None, chosen: Mask) -> dict[str, Mask]:
    """The pairs of different chosen rows, each once, as masks over the matrix of pairs."""
    rows = int(chosen.sum())
    pairs = np.triu(np.ones((rows, rows), np.bool_), k=1)
    if labels is None:
        return {"all": pairs, "within": pairs & False, "between": pairs & False}
    y = np.asarray(labels)[chosen]
    same = y[:, None] == y[None, :]
    return {"all": pairs, "within": pairs & same, "between": pairs & ~same}


@dataclass
class Total:
    sum: float = 0.0
    count: int = 0

    def add(self, sum: float, count: int) -> None:
        self.sum += sum
        self.count += count


def mean(total: Total) -> float:
    return total.sum / total.count if total.count else math.nan


def fraction(numerator: int, denominator: int) -> Fraction | float:
    return Fraction(numerator, denominator) if denominator else math.nan
