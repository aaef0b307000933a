"""What is timed of the functions that look at all pairs of rows; `workloads.py` has the others.

Peers that are libraries are imported when a workload is built: an ImportError tells that one is
missing. Inputs are those of `workloads.py`. Whoever builds a workload gets the proof with it that
ours and peers compute the same values; `triangular_gram` merely sets the scale.
"""

from __future__ import annotations

import functools
import importlib
import timeit
from collections.abc import Callable
from typing import Any

import baselines
import numpy as np
import torch
from peer_arrays import NumKong
from torch import Tensor
from workloads import NUM_CLASSES, Case, Workload, cases, feature_rows, labels_of

from tfc_fast import gating, similarity

__all__ = [
    "AGREEMENT_CASES",
    "HISTOGRAM_CASES",
    "MATRIX_CASES",
    "MEAN_CASES",
    "SPREAD_CASES",
    "agreement_matrix",
    "cosine_histogram",
    "cosine_matrix",
    "cosine_spread",
    "mean_of_all_cosines",
]

MATRIX_CASES = cases(
    ("128x64", "512x128", "1024x256", "4096x2048", "8192x512", "2048x2048", "8192x2048"),
    torch.float32,
)
HISTOGRAM_CASES = cases(("16384x512",), torch.float32)
SPREAD_CASES = cases(("16384x256", "8192x512", "4096x2048", "2048x4096"), torch.float32)
AGREEMENT_CASES = cases(("8192x4096",), torch.float32)
MEAN_CASES = cases(("8192x512",), torch.float32)

_BLOCKS = (64, 128, 256, 512)
_COMPARED = 500
_TOLERANCE = 1e-5


def cosine_matrix(case: Case) -> Workload:
    """`similarity.cosine_matrix`, `F.normalize` and a product in eager PyTorch, torchmetrics."""
    x = _x(case)
    pairwise = _torchmetrics()
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: similarity.cosine_matrix(x),
        "eager": lambda: baselines.cosine_matrix(x),
        "torchmetrics": lambda: pairwise(x, zero_diagonal=False),
    }
    name = f"cosine_matrix {case}"
    _require_close(name, calls, lambda cosines: cosines[:_COMPARED, -_COMPARED:])
    return Workload(name, calls, case)


def mean_of_all_cosines(case: Case) -> Workload:
    """`similarity.mean_cosine` without labels, and the mean of torchmetrics' matrix."""
    x = _x(case)
    pairwise = _torchmetrics()
    n = len(x)
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: similarity.mean_cosine(x).all,
        # Its diagonal is 0.
        "torchmetrics": lambda: pairwise(x).mean() * (n / (n - 1)),
    }
    name = f"mean_cosine of all pairs {case}"
    _require_close(name, calls, lambda mean: mean.double().reshape(1))
    return Workload(name, calls, case)


def cosine_histogram(case: Case) -> Workload:
    """`similarity.cosine_histogram` with labels, and half a Gram matrix for scale."""
    x = _x(case)
    labels = labels_of(len(x), torch.Generator().manual_seed(1))

    def ours() -> object:
        return similarity.cosine_histogram(x, labels, num_classes=NUM_CLASSES)

    return Workload(f"cosine_histogram {case}", {"ours": ours, "gram": _gram(x)}, case)


def cosine_spread(case: Case) -> Workload:
    """`similarity.cosine_spread` with labels, and half a Gram matrix of the smaller side."""
    x = _x(case)
    labels = labels_of(len(x), torch.Generator().manual_seed(1))
    smaller = x if len(x) <= x.shape[1] else x.T.contiguous()

    def ours() -> object:
        return similarity.cosine_spread(x, labels)

    return Workload(f"cosine_spread {case}", {"ours": ours, "gram": _gram(smaller)}, case)


def agreement_matrix(case: Case) -> Workload:
    """`gating.agreement_matrix` of features, the same as a product of floats, and NumKong.

    NumKong gives numbers of differing bits, and the upper triangle of them only.
    """
    x = _x(case)
    numkong = NumKong(x, torch.get_num_threads())
    calls: dict[str, Callable[[], Any]] = {
        "ours": lambda: gating.agreement_matrix(x),
        "floats": lambda: baselines.gate_agreement(x),
    }
    name = f"agreement_matrix {case}"
    _require_close(name, calls, lambda agreement: agreement[:_COMPARED, -_COMPARED:])
    rows = np.arange(0, len(x), max(1, len(x) // _COMPARED))
    theirs = numkong.read("agreement", numkong.agreement(), rows)
    ours = calls["ours"]().numpy()[np.ix_(rows, rows)]
    if not np.allclose(ours, theirs, rtol=0, atol=_TOLERANCE):
        raise RuntimeError(f"{name}: ours and numkong disagree")
    return Workload(name, {**calls, "numkong": numkong.agreement}, case)


def _x(case: Case) -> Tensor:
    return feature_rows(case, torch.Generator().manual_seed(0))


def _torchmetrics() -> Callable[..., Tensor]:
    module = importlib.import_module("torchmetrics.functional.pairwise")
    pairwise: Callable[..., Tensor] = module.pairwise_cosine_similarity
    return pairwise


def _gram(x: Tensor) -> Callable[[], None]:
    """Half the Gram matrix, in blocks of as many rows as take the least time."""
    out = torch.empty(min(max(_BLOCKS), len(x)) * len(x), dtype=x.dtype)
    calls = [functools.partial(baselines.triangular_gram, x, out, block) for block in _BLOCKS]
    return min(calls, key=lambda call: min(timeit.repeat(call, number=1, repeat=3)))


def _require_close(
    name: str, calls: dict[str, Callable[[], Any]], part: Callable[[Any], Tensor]
) -> None:
    expected = part(calls["ours"]())
    for provider, call in calls.items():
        if not torch.allclose(part(call()), expected, rtol=0, atol=_TOLERANCE):
            raise RuntimeError(f"{name}: ours and {provider} give different values")
