"""What libraries offer for all pairs of rows, each used as its users would, one class per library.

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

import importlib
import importlib.metadata
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

import baselines
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tfc_fast import gating, similarity

__all__ = ["BINS", "PROVIDERS", "TASKS", "Provider", "versions"]

BINS = 256
TASKS = ("mean", "matrix", "spread", "histogram", "agreement")

Floats = npt.NDArray[np.float64]
_EVERY_DTYPE = (torch.float32, torch.bfloat16)
_CHUNKS_PER_THREAD = 8
_MODULES = {
    "torchmetrics": "torchmetrics.functional.pairwise",
    "scikit-learn": "sklearn.metrics.pairwise",
    "faiss-cpu": "faiss",
}


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


class _NumpyProvider(Provider):
    """A library of numpy arrays, which have no bfloat16."""

    dtypes = (torch.float32,)
    bytes_per_pair: ClassVar = {"mean": 4, "matrix": 4, "spread": 12, "histogram": 28}

    def __init__(self, x: Tensor, threads: int) -> None:
        super().__init__(x, threads)
        self.array: npt.NDArray[np.float32] = x.numpy()

    def matrix(self) -> npt.NDArray[Any]:
        raise NotImplementedError

    def mean(self) -> Any:
        return _off_diagonal(self.matrix()).mean(dtype=np.float64)

    def spread(self) -> Any:
        return _off_diagonal(self.matrix()).std(dtype=np.float64)

    def histogram(self) -> Any:
        return np.histogram(_off_diagonal(self.matrix()), BINS, (-1, 1))[0] // 2

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


def _off_diagonal(square: Any) -> Any:
    """All entries but the diagonal, without a copy, `[n - 1, n]`."""
    n = len(square)
    return square.reshape(-1)[1:].reshape(n - 1, n + 1)[:, :-1]


def _mean(cosines: Tensor) -> Tensor:
    mean: Tensor = _off_diagonal(cosines).mean(dtype=torch.float32)
    return mean


def _spread(cosines: Tensor) -> Tensor:
    spread: Tensor = _off_diagonal(cosines.float()).std(correction=0)
    return spread


def _histogram(cosines: Tensor) -> Tensor:
    counts: Tensor = torch.histc(_off_diagonal(cosines.float()), BINS, -1, 1)
    return counts / 2
