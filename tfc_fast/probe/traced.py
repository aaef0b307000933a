"""What torch.compile makes of a watched place: the nodes of csrc/ops/probe_ops.cpp, once more.

A compiled graph keeps what its backward needs as saved tensors, and refuses to go on if one of them
was changed since. The probe's tensors are changed by the backward of each graph, and a model may
have several: blocks that are compiled one by one, or graph breaks. Only what an autograd function
in Python keeps on its `ctx`, not by `save_for_backward`, is exempt from that check.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Traced(torch.autograd.Function):
    """Keeps the tensors of the probe; the feature is saved as ever."""

    @staticmethod
    def keep(ctx: Any, feature: Tensor, *recorder: Any) -> None:
        """What backward will need."""
        ctx.save_for_backward(feature)
        ctx.sites, ctx.units, ctx.order, ctx.class_ptr, ctx.class_sums, ctx.mask = recorder[:6]
        ctx.row, ctx.reduction = recorder[6:]

    @staticmethod
    def recorder(ctx: Any) -> tuple[Any, ...]:
        """The tensors of the probe, as the backward ops want them."""
        return (
            *(ctx.order, ctx.class_ptr, ctx.sites, ctx.units),
            *(ctx.row, ctx.reduction, ctx.class_sums, ctx.mask),
        )


class TracedReLU(_Traced):
    """`relu_probe`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *recorder: Any) -> Tensor:
        """ReLU."""
        result = torch.relu(x)
        _Traced.keep(ctx, result, *recorder)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """That of ReLU, which records."""
        (result,) = ctx.saved_tensors
        grad_in = torch.ops.tfc_fast.relu_probe_backward.default(
            grad, result, *_Traced.recorder(ctx)
        )
        return (grad_in, *[None] * 8)


class TracedTap(_Traced):
    """`tap`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *recorder: Any) -> Tensor:
        """The identity."""
        _Traced.keep(ctx, x, *recorder)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient, once it is recorded."""
        (feature,) = ctx.saved_tensors
        torch.ops.tfc_fast.tap_backward.default(grad, feature, *_Traced.recorder(ctx))
        return (grad, *[None] * 8)
