"""Which kernel is compared with which peer, at which sizes: the tables of `kernel_ratios.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import pair_workloads
import torch
import workloads
from workloads import Case, Workload

from tfc_fast.bench.overhead import Shape

__all__ = ["FRESH_MEMORY", "KEPT_MEMORY", "Comparison"]

_CALL = Case(Shape(1, 1), torch.float32)
_ALWAYS_FRESH_BYTES = 32 * 2**20


class Comparison(NamedTuple):
    """One kernel against one peer, over several sizes; a table."""

    kernel: str
    peer: str
    build: Callable[[Case], Workload]
    cases: tuple[Case, ...]
    tensors: int
    """How many tensors of the given size have to be read and written."""
    title: str
    shown: Literal["ours_by_peer", "peer_by_ours"]
    """Which ratio the table shows; JSON has both."""


_RELU_BACKWARD = Comparison(
    "relu_backward",
    "torch",
    workloads.relu_backward,
    (_CALL, *workloads.RELU_BACKWARD_CASES),
    3,
    "ReLU backward with statistics: time / time of aten.threshold_backward without\n"
    "(lower is better; 1x1 is the price of a call from Python)",
    "ours_by_peer",
)
FRESH_MEMORY = (
    _RELU_BACKWARD._replace(
        cases=tuple(
            case
            for case in workloads.RELU_BACKWARD_CASES
            if case.bytes_per_tensor >= _ALWAYS_FRESH_BYTES
        ),
        title="ReLU backward with statistics: time / time of aten.threshold_backward without\n"
        "(as below, but results lie in memory fresh from the system: malloc's default)",
    ),
)
KEPT_MEMORY = (
    _RELU_BACKWARD,
    Comparison(
        "mean_cosine",
        "sum",
        workloads.mean_cosine,
        workloads.MEAN_COSINE_CASES,
        1,
        "mean_cosine: fraction of the bandwidth of x.sum() (higher is better)",
        "peer_by_ours",
    ),
    Comparison(
        "mean_cosine",
        "eager",
        workloads.mean_cosine,
        workloads.MEAN_COSINE_CASES,
        1,
        "mean_cosine: times as fast as F.normalize and index_add_ (higher is better)",
        "peer_by_ours",
    ),
    Comparison(
        "gate_stats",
        "eager",
        workloads.gate_stats,
        workloads.GATE_STATS_CASES,
        1,
        "gate_stats: times as fast as comparison and index_add_ (higher is better)",
        "peer_by_ours",
    ),
    Comparison(
        "cosine_matrix",
        "eager",
        pair_workloads.cosine_matrix,
        pair_workloads.MATRIX_CASES,
        1,
        "cosine_matrix: time / time of F.normalize and a matrix product (lower is better)",
        "ours_by_peer",
    ),
    Comparison(
        "cosine_matrix",
        "torchmetrics",
        pair_workloads.cosine_matrix,
        pair_workloads.MATRIX_CASES,
        1,
        "cosine_matrix: time / time of torchmetrics' pairwise_cosine_similarity (lower is better)",
        "ours_by_peer",
    ),
    Comparison(
        "cosine_histogram",
        "gram",
        pair_workloads.cosine_histogram,
        pair_workloads.HISTOGRAM_CASES,
        1,
        "cosine_histogram: time / time of half the Gram matrix, by torch.mm (lower is better)",
        "ours_by_peer",
    ),
    Comparison(
        "cosine_spread",
        "gram",
        pair_workloads.cosine_spread,
        pair_workloads.SPREAD_CASES,
        1,
        "cosine_spread with classes: time / time of half the Gram matrix of the smaller side, by\n"
        "torch.mm (lower is better)",
        "ours_by_peer",
    ),
    Comparison(
        "mean_of_all_cosines",
        "torchmetrics",
        pair_workloads.mean_of_all_cosines,
        pair_workloads.MEAN_CASES,
        1,
        "mean_cosine of all pairs: times as fast as the mean of torchmetrics' matrix\n"
        "(higher is better)",
        "peer_by_ours",
    ),
    Comparison(
        "agreement_matrix",
        "floats",
        pair_workloads.agreement_matrix,
        pair_workloads.AGREEMENT_CASES,
        1,
        "agreement_matrix: times as fast as a product of signs as floats (higher is better)",
        "peer_by_ours",
    ),
    Comparison(
        "agreement_matrix",
        "numkong",
        pair_workloads.agreement_matrix,
        pair_workloads.AGREEMENT_CASES,
        1,
        "agreement_matrix: times as fast as NumKong's Hamming distances, upper triangle\n"
        "(higher is better)",
        "peer_by_ours",
    ),
)
