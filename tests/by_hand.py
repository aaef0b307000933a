"""What a probe records of a model, done by hand: features and gradients seen by hooks."""

from __future__ import annotations

import numpy as np
from checks import COSINE_TOLERANCE
from torch import Tensor, nn

from tfc_fast.records import COLUMNS, Records


def watch_by_hand(model: nn.Module) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Features and gradients of every ReLU, per backward, by hooks: the slow way."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}

    def remember(name: str) -> object:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            feature = output.detach().clone()
            output.register_hook(
                lambda grad: seen.setdefault(name, []).append((feature, grad.clone()))
            )

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(remember(name))
    return seen


def features_by_hand(model: nn.Module) -> dict[str, list[Tensor]]:
    """Features of every ReLU, per forward, by hooks."""
    seen: dict[str, list[Tensor]] = {}

    def remember(name: str) -> object:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            seen.setdefault(name, []).append(output.detach().clone())

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_hook(remember(name))
    return seen


def row(records: Records, index: int) -> dict[str, object]:
    return {name: records[name][index] for name in COLUMNS}


def assert_record(
    actual: dict[str, object], expected: dict[str, float], dtype: str = "float32"
) -> None:
    for name, wanted in expected.items():
        tolerance = COSINE_TOLERANCE[dtype] if "_cos_" in name else 0.0
        np.testing.assert_allclose(
            actual[name],
            wanted,
            rtol=1e-6 if "norm" in name else 0,
            atol=tolerance,
            equal_nan=True,
            err_msg=name,
        )
