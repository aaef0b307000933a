"""What a careful user would write in eager PyTorch in the place of our kernels.

The one home of these peers: the pytest suites and `kernel_ratios.py` both measure against them.
They use the same formulas as we do (sums of unit rows, counts per class; no matrix of pairs) and
sum in float32, which is as fast as eager code gets without losing the result in half precision.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "cosine_matrix",
    "gate_agreement",
    "gate_stats",
    "mean_cosine",
    "mean_of_all_cosines",
    "relu_backward",
    "sum_of_all",
    "triangular_gram",
]


def relu_backward(grad: Tensor, feature: Tensor) -> Tensor:
    """ReLU's own backward, without statistics: one pass over two tensors, a third one written.

    Args:
        grad: Gradient with respect to ReLU's output, `[n, d]`.
        feature: That output, `[n, d]`.
    """
    grad_in: Tensor = torch.ops.aten.threshold_backward.default(grad, feature, 0)
    return grad_in


def sum_of_all(x: Tensor) -> Tensor:
    """`x.sum()`: the least that reading a tensor once can cost in PyTorch."""
    return x.sum()


def mean_cosine(x: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean cosine over all pairs of rows, within and between classes: float64, no dimension.

    Args:
        x: Rows `[n, d]`, any float dtype; none may be zero.
        labels: int64 `[n]`.
        num_classes: Number of classes.
    """
    units = F.normalize(x.float(), dim=1)
    sums = units.new_zeros(num_classes, x.shape[1]).index_add_(0, labels, units).double()
    rows = torch.bincount(labels, minlength=num_classes).double()
    n = rows.sum()
    everything = sums.sum(0).square().sum()
    within = sums.square().sum()
    same = rows.square().sum()
    return (
        (everything - n) / (n * (n - 1)),
        (within - n) / (same - n),
        (everything - within) / (n * n - same),
    )


def mean_of_all_cosines(x: Tensor) -> Tensor:
    """Mean cosine over all pairs of rows: float64, no dimension.

    Args:
        x: Rows `[n, d]`, any float dtype; none may be zero.
    """
    total = F.normalize(x.float(), dim=1).sum(0).double()
    n = len(x)
    return (total @ total - n) / (n * (n - 1))


def cosine_matrix(x: Tensor) -> Tensor:
    """Cosine of every row with every row, `[n, n]`, of the dtype of `x`.

    Args:
        x: Rows `[n, d]`, any float dtype; none may be zero.
    """
    units = F.normalize(x, dim=1)
    return units @ units.T


def triangular_gram(x: Tensor, out: Tensor, block: int = 512) -> None:
    """Products of every row with itself and all later ones, in blocks of rows, and nothing else.

    The least that looking at all pairs can cost with torch's own matrix product: half a Gram
    matrix, forgotten block by block.

    Args:
        x: Rows `[n, d]`.
        out: Room for the products of one block, `[block * n]` of the dtype of `x`.
        block: Rows per block.
    """
    n = len(x)
    for begin in range(0, n, block):
        rows = x[begin : begin + block]
        products = out[: len(rows) * (n - begin)].view(len(rows), n - begin)
        torch.mm(rows, x[begin:].T, out=products)


def gate_agreement(features: Tensor) -> Tensor:
    """Share of the units in the same state, for every pair of rows: float32 `[n, n]`.

    Args:
        features: Outputs of a ReLU, `[n, d]`, any float dtype.
    """
    signs = (features > 0).float() * 2 - 1
    return (signs @ signs.T / features.shape[1] + 1) / 2


def gate_stats(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, ...]:
    """Active rate, dead and always-on fraction, gate agreement over all pairs, within, between.

    Args:
        features: Outputs of a ReLU, `[n, d]`, any float dtype, n below 2^24.
        labels: int64 `[n]`.
        num_classes: Number of classes.

    Returns:
        Six float64 tensors of no dimension.
    """
    gates = (features > 0).float()
    width = features.shape[1]
    opened = gates.new_zeros(num_classes, width).index_add_(0, labels, gates).double()
    rows = torch.bincount(labels, minlength=num_classes).double()
    opened_in_all, n = opened.sum(0), rows.sum()
    agreeing, pairs = _agreeing(opened_in_all, n), n * (n - 1) * width
    agreeing_within = _agreeing(opened, rows[:, None])
    pairs_within = (rows * (rows - 1)).sum() * width
    return (
        opened_in_all.sum() / (n * width),
        (opened_in_all == 0).double().mean(),
        (opened_in_all == n).double().mean(),
        agreeing / pairs,
        agreeing_within / pairs_within,
        (agreeing - agreeing_within) / (pairs - pairs_within),
    )


def _agreeing(opened: Tensor, rows: Tensor) -> Tensor:
    """Units in the same state, over ordered pairs of rows, where `opened` of `rows` are open."""
    closed = rows - opened
    return (opened * (opened - 1) + closed * (closed - 1)).sum()
