"""Libraries of numpy arrays, or of arrays of their own: scikit-learn, faiss and NumKong."""

from __future__ import annotations

import importlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from peer_base import BINS, Floats, Provider, off_diagonal
from torch import Tensor

__all__ = ["Faiss", "NumKong", "ScikitLearn"]

_CHUNKS_PER_THREAD = 8


class _NumpyProvider(Provider, ABC):
    """A library of numpy arrays, which have no bfloat16."""

    dtypes = (torch.float32,)
    bytes_per_pair: ClassVar = {"mean": 4, "matrix": 4, "spread": 12, "histogram": 28}

    def __init__(self, x: Tensor, threads: int) -> None:
        super().__init__(x, threads)
        self.array: npt.NDArray[np.float32] = x.numpy()

    @abstractmethod
    def matrix(self) -> npt.NDArray[Any]: ...

    def mean(self) -> Any:
        return off_diagonal(self.matrix()).mean(dtype=np.float64)

    def spread(self) -> Any:
        return off_diagonal(self.matrix()).std(dtype=np.float64)

    def histogram(self) -> Any:
        return np.histogram(off_diagonal(self.matrix()), BINS, (-1, 1))[0] // 2

    def gates(self) -> npt.NDArray[np.uint8]:
        return np.packbits(self.array > 0, axis=1)


class ScikitLearn(_NumpyProvider):
    name = "scikit-learn"
    package = "scikit-learn"
    bytes_per_pair: ClassVar = {**_NumpyProvider.bytes_per_pair, "agreement": 8}
    notes: ClassVar = {"agreement": "as distances, in float64"}

    def __init__(self, x: Tensor, threads: int) -> None:
        super().__init__(x, threads)
        self._pairwise = importlib.import_module("sklearn.metrics.pairwise")

    def matrix(self) -> npt.NDArray[Any]:
        cosines: npt.NDArray[Any] = self._pairwise.cosine_similarity(self.array)
        return cosines

    def agreement(self) -> Any:
        return self._pairwise.pairwise_distances(self.array > 0, metric="hamming")

    def read(self, task: str, result: Any, rows: npt.NDArray[np.int64]) -> Floats:
        values = super().read(task, result, rows)
        return 1 - values if task == "agreement" else values


class Faiss(_NumpyProvider):
    name = "faiss"
    package = "faiss-cpu"
    bytes_per_pair: ClassVar = {**_NumpyProvider.bytes_per_pair, "agreement": 4}
    notes: ClassVar = {"agreement": "as numbers of differing bits"}

    def __init__(self, x: Tensor, threads: int) -> None:
        super().__init__(x, threads)
        self._faiss = importlib.import_module("faiss")
        self._faiss.omp_set_num_threads(threads)

    def matrix(self) -> npt.NDArray[Any]:
        units = self.array.copy()
        self._faiss.normalize_L2(units)
        cosines: npt.NDArray[Any] = self._faiss.pairwise_distances(
            units, units, self._faiss.METRIC_INNER_PRODUCT
        )
        return cosines

    def agreement(self) -> Any:
        codes = self.gates()
        (n, length), pointer = codes.shape, self._faiss.swig_ptr
        out = np.empty((n, n), np.int32)
        self._faiss.hammings(pointer(codes), pointer(codes), n, n, length, pointer(out))
        return out

    def read(self, task: str, result: Any, rows: npt.NDArray[np.int64]) -> Floats:
        values = super().read(task, result, rows)
        return 1 - values / self.array.shape[1] if task == "agreement" else values


class NumKong(Provider):
    """Computes distances, 1 - cos, for the upper triangle only; its rows are shared by threads."""

    name = "numkong"
    package = "numkong"
    bytes_per_pair: ClassVar = {
        "mean": 16, "matrix": 8, "spread": 24, "histogram": 32, "agreement": 4
    }  # fmt: skip
    notes: ClassVar = {
        "matrix": "upper triangle of the distances, in float64 (for bfloat16 in float32)",
        "agreement": "upper triangle, as numbers of differing bits",
    }

    def __init__(self, x: Tensor, threads: int) -> None:
        super().__init__(x, threads)
        self._numkong = importlib.import_module("numkong")
        self._rows = self._numkong.from_dlpack(x)
        self._pool = ThreadPoolExecutor(threads)

    def matrix(self) -> Any:
        n = len(self.x)
        dtype = "float64" if self.x.dtype == torch.float32 else "float32"
        out = self._numkong.empty((n, n), dtype=dtype)
        self._share(self._numkong.angulars_symmetric, self._rows, out)
        return out

    def mean(self) -> Any:
        return 1 - self._distances().mean(dtype=np.float64)

    def spread(self) -> Any:
        return self._distances().std(dtype=np.float64)

    def histogram(self) -> Any:
        return np.histogram(1 - self._distances(), BINS, (-1, 1))[0]

    def agreement(self) -> Any:
        n = len(self.x)
        gates = (self.x > 0).numpy()
        out = self._numkong.empty((n, n), dtype="uint32")
        self._share(
            self._numkong.hammings_symmetric, np.packbits(gates, axis=1), out, dtype="uint1"
        )
        return out

    def read(self, task: str, result: Any, rows: npt.NDArray[np.int64]) -> Floats:
        if task not in ("matrix", "agreement"):
            return super().read(task, result, rows)
        # What is below the diagonal was never written.
        upper = super().read(task, np.triu(np.asarray(result), 1), rows)
        values = 1 - upper / (self.x.shape[1] if task == "agreement" else 1)
        return np.where(np.triu(np.ones_like(values, bool)), values, values.T)

    def _distances(self) -> npt.NDArray[Any]:
        """Those of the pairs `i < j`, row after row."""
        n = len(self.x)
        distances: npt.NDArray[Any] = np.asarray(self.matrix())[np.triu(np.ones((n, n), bool), 1)]
        return distances

    def _share(self, compute: Callable[..., Any], rows: Any, out: Any, **options: Any) -> None:
        # Cuts at which the triangle falls into parts of equal area.
        parts = self.threads * _CHUNKS_PER_THREAD
        cuts = (len(self.x) * (1 - np.sqrt(1 - np.arange(parts + 1) / parts))).round().astype(int)
        runs = [(int(a), int(b)) for a, b in itertools.pairwise(cuts) if a < b]

        def run(part: tuple[int, int]) -> None:
            compute(rows, out=out, start_row=part[0], end_row=part[1], **options)

        list(self._pool.map(run, runs))
