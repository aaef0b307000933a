"""What a provider of `peers.py` has to be: the tasks, and what all providers share.

A provider gets the rows once (`__init__`: conversion to the library's own arrays, which shares the
memory and is not timed) and has a method per task that it can do. The methods are what is timed.
`read` brings a result into the common form in which results are compared; it is not timed.

    mean       mean cosine over all pairs of different rows                  a number
    matrix     cosine of every row with every row                            [n, n]
    spread     standard deviation of the cosines of all pairs                a number
    histogram  how many pairs fall into each of 256 bins from -1 to 1        [256]
    agreement  share of the units whose gates agree, for every pair of rows  [n, n]

Libraries that offer the matrix only get their other results from it, with the diagonal left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["BINS", "TASKS", "Floats", "Provider", "off_diagonal"]

BINS = 256
TASKS = ("mean", "matrix", "spread", "histogram", "agreement")

Floats = npt.NDArray[np.float64]
_EVERY_DTYPE = (torch.float32, torch.bfloat16)


class Provider:
    """One library on one input.

    Args:
        x: Rows, `[n, d]`, of one of `dtypes`.
        threads: CPU threads to use.
    """

    name: ClassVar[str]
    package: ClassVar[str] = "torch"
    """What has to be installed."""
    dtypes: ClassVar[tuple[torch.dtype, ...]] = _EVERY_DTYPE
    bytes_per_pair: ClassVar[dict[str, int]] = {}
    """By task: memory that a call needs for each of the n^2 pairs, where it needs any."""
    compiles: ClassVar[bool] = False
    """Whether the first call of a task takes seconds for that."""
    notes: ClassVar[dict[str, str]] = {}
    """By task: what is not obvious."""

    def __init__(self, x: Tensor, threads: int) -> None:
        self.x = x
        self.threads = threads

    @classmethod
    def can(cls, task: str) -> bool:
        """Whether the library can do a task."""
        return hasattr(cls, task)

    @classmethod
    def cost(cls, task: str, n: int, d: int) -> float:
        """Up to a constant, the time of a call, by which larger inputs are judged beforehand."""
        return float(n) * n * d

    def call(self, task: str) -> Callable[[], Any]:
        """What is timed."""
        call: Callable[[], Any] = getattr(self, task)
        return call

    def read(self, task: str, result: Any, rows: npt.NDArray[np.int64]) -> Floats:
        """A result as float64: a number `[1]`, counts `[256]`, or the pairs of the given rows."""
        if isinstance(result, Tensor):
            result = result.float() if result.dtype == torch.bfloat16 else result
        values = np.asarray(result)
        if task in ("matrix", "agreement"):
            values = values[np.ix_(rows, rows)]
        return values.reshape(-1 if values.ndim < 2 else values.shape).astype(np.float64)


def off_diagonal(square: Any) -> Any:
    """All entries but the diagonal, without a copy, `[n - 1, n]`."""
    n = len(square)
    return square.reshape(-1)[1:].reshape(n - 1, n + 1)[:, :-1]
