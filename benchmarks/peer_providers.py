"""What libraries offer for all pairs of rows, each used as its users would, one class per library.

The tasks, and what a provider is, stand in `peer_base.py`. Here are ours and those of torch
tensors, in `peer_arrays.py` the others.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any, ClassVar

import baselines
import numpy as np
import numpy.typing as npt
import torch
from peer_arrays import Faiss, NumKong, ScikitLearn
from peer_base import BINS, Floats, Provider, off_diagonal
from torch import Tensor

from tfc_fast import gating, similarity

__all__ = ["PROVIDERS", "Ours", "versions"]

_MODULES = {
    "torchmetrics": "torchmetrics.functional.pairwise",
    "scikit-learn": "sklearn.metrics.pairwise",
    "faiss-cpu": "faiss",
}


class Ours(Provider):
    name = "tfc_fast"
    package = "tfc_fast"
    bytes_per_pair: ClassVar = {"matrix": 4, "agreement": 4}

    @classmethod
    def cost(cls, task: str, n: int, d: int) -> float:
        return float(n) * d * {"mean": 1, "spread": min(n, d)}.get(task, n)

    def mean(self) -> Any:
        return similarity.mean_cosine(self.x).all

    def matrix(self) -> Any:
        return similarity.cosine_matrix(self.x)

    def spread(self) -> Any:
        return similarity.cosine_spread(self.x).all

    def histogram(self) -> Any:
        return similarity.cosine_histogram(self.x, bins=BINS).all

    def agreement(self) -> Any:
        return gating.agreement_matrix(self.x)


class TorchEager(Provider):
    """What comes to mind first: the matrix of cosines, then reductions of it."""

    name = "torch"
    bytes_per_pair: ClassVar = {
        "mean": 4, "matrix": 4, "spread": 8, "histogram": 8, "agreement": 8
    }  # fmt: skip

    def matrix(self) -> Tensor:
        return baselines.cosine_matrix(self.x)

    def mean(self) -> Tensor:
        return _mean(self.matrix())

    def spread(self) -> Tensor:
        return _spread(self.matrix())

    def histogram(self) -> Tensor:
        return _histogram(self.matrix())

    def agreement(self) -> Tensor:
        return baselines.gate_agreement(self.x)


class TorchSums(Provider):
    """Who knows the formula needs no matrix for the mean."""

    name = "torch (sums)"

    @classmethod
    def cost(cls, task: str, n: int, d: int) -> float:
        return float(n) * d

    def mean(self) -> Tensor:
        return baselines.mean_of_all_cosines(self.x)


class TorchCompiled(Provider):
    """The eager code through the compiler, once for all sizes."""

    name = "torch.compile"
    compiles = True
    bytes_per_pair: ClassVar = TorchEager.bytes_per_pair
    _compiled: ClassVar[dict[str, Callable[[Tensor], Any]]] = {}
    _EAGER: ClassVar[dict[str, Callable[[Tensor], Any]]] = {
        "mean": lambda x: _mean(baselines.cosine_matrix(x)),
        "matrix": baselines.cosine_matrix,
        "spread": lambda x: _spread(baselines.cosine_matrix(x)),
        "histogram": lambda x: _histogram(baselines.cosine_matrix(x)),
        "agreement": baselines.gate_agreement,
    }

    @classmethod
    def can(cls, task: str) -> bool:
        return task in cls._EAGER

    def call(self, task: str) -> Callable[[], Any]:
        if task not in self._compiled:
            self._compiled[task] = torch.compile(self._EAGER[task], dynamic=True)
        compiled, x = self._compiled[task], self.x
        return lambda: compiled(x)


class TorchMetrics(Provider):
    name = "torchmetrics"
    package = "torchmetrics"
    bytes_per_pair: ClassVar = {"mean": 4, "matrix": 4, "spread": 8, "histogram": 8}
    notes: ClassVar = {"matrix": "puts 0 on the diagonal"}

    def __init__(self, x: Tensor, threads: int) -> None:
        super().__init__(x, threads)
        module = importlib.import_module("torchmetrics.functional.pairwise")
        self._cosines = module.pairwise_cosine_similarity

    def matrix(self) -> Any:
        return self._cosines(self.x)

    def mean(self) -> Any:
        return _mean(self.matrix())

    def spread(self) -> Any:
        return _spread(self.matrix())

    def histogram(self) -> Any:
        return _histogram(self.matrix())

    def read(self, task: str, result: Any, rows: npt.NDArray[np.int64]) -> Floats:
        if task == "matrix":
            result.fill_diagonal_(1)
        return super().read(task, result, rows)


PROVIDERS: tuple[type[Provider], ...] = (
    Ours,
    TorchEager,
    TorchSums,
    TorchCompiled,
    TorchMetrics,
    ScikitLearn,
    Faiss,
    NumKong,
)


def versions() -> tuple[dict[str, str], dict[str, str]]:
    """Versions of the packages that can be used, and for the others the reason why not."""
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    for package in dict.fromkeys(provider.package for provider in PROVIDERS):
        reason = _import_error(_MODULES.get(package, package))
        if reason:
            missing[package] = reason
        else:
            found[package] = importlib.metadata.version(package)
    return found, missing


def _import_error(module: str) -> str:
    try:
        importlib.import_module(module)
    except (ImportError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _mean(cosines: Tensor) -> Tensor:
    mean: Tensor = off_diagonal(cosines).mean(dtype=torch.float32)
    return mean


def _spread(cosines: Tensor) -> Tensor:
    spread: Tensor = off_diagonal(cosines.float()).std(correction=0)
    return spread


def _histogram(cosines: Tensor) -> Tensor:
    counts: Tensor = torch.histc(off_diagonal(cosines.float()), BINS, -1, 1)
    return counts / 2
