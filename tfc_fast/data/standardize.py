"""Standardisation of inputs: measured and applied in float64, block by block, stored as float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc_fast.data.arguments import checked_choice

METHODS = ("none", "feature", "global")

# Elements turned into float64 at a time (32 MiB), so that a large set of bytes is never
# held in memory eight times over.
_BLOCK_ELEMENTS = 1 << 22

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Standardization:
    """`(x - mean) / scale` per feature, and 0 where `scale` is 0 (the feature is constant).

    Args:
        method: "none", "feature" or "global".
        mean: float64 `[d]`.
        scale: float64 `[d]`, population standard deviation or 0.

    Example:
        >>> x = np.array([[1.0, 5.0], [3.0, 5.0]])
        >>> measure(x, "feature").apply(x)
        array([[-1.,  0.],
               [ 1.,  0.]], dtype=float32)
    """

    method: str
    mean: npt.NDArray[np.float64]
    scale: npt.NDArray[np.float64]

    def apply(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Standardise `inputs`, real or integer numbers `[n, d]`, into a new float32 array.

        Raises:
            ValueError: if the number of features is not the one that was measured.
        """
        if inputs.ndim != 2 or inputs.shape[1] != len(self.mean):
            raise ValueError(
                f"standardize was measured on {len(self.mean)} features, "
                f"inputs have shape {list(inputs.shape)}"
            )
        result = np.empty(inputs.shape, dtype=np.float32)
        varies = self.scale > 0
        scale = np.where(varies, self.scale, 1.0)
        for rows in _blocks(inputs):
            # where() and not a product with 0: another split may be far off a constant feature,
            # and the untrained direction must stay silent there too.
            values = np.where(varies, (inputs[rows] - self.mean) / scale, 0.0)
            if np.abs(values).max(initial=0.0) > _FLOAT32_MAX:
                raise ValueError(
                    "standardised inputs are too large for float32: they lie too far from the "
                    "data that standardize was measured on"
                )
            result[rows] = values
        return result


def measure(inputs: npt.NDArray[Any], method: str) -> Standardization:
    """Measure the standardisation `method` on `inputs`.

    "feature": `mean_j = sum_i x_ij / n`, `scale_j^2 = sum_i (x_ij - mean_j)^2 / n`.
    "global": the same over all elements, one number for every feature. "none": mean 0, scale 1.

    Args:
        inputs: finite real or integer numbers, `[n, d]`.
        method: "none", "feature" or "global".

    Returns:
        Standardization, with scale 0 for a constant feature.

    Raises:
        ValueError: if `method` is unknown.

    Example:
        >>> measure(np.array([[0, 2], [2, 4]], dtype=np.uint8), "global").mean
        array([2., 2.])
    """
    checked_choice("standardize", method, METHODS)
    features = inputs.shape[1]
    if method == "none":
        return Standardization(method, np.zeros(features), np.ones(features))
    columns = inputs if method == "feature" else inputs.reshape(-1, 1)
    low = columns.min(axis=0).astype(np.float64)
    span = columns.max(axis=0).astype(np.float64) - low
    # Measured from the smallest value: a constant feature then has variance 0 exactly, where a
    # rounded mean would leave it a tiny one, and dividing by that turns rounding errors into
    # inputs of size 1. In units of the span, the squares of very small numbers stay above zero.
    unit = np.where(span > 0, span, 1.0)
    mean = low + unit * _column_mean(columns, lambda block: (block - low) / unit)
    variance = _column_mean(columns, lambda block: ((block - mean) / unit) ** 2)
    scale = unit * np.sqrt(variance)
    return Standardization(
        method, np.broadcast_to(mean, features).copy(), np.broadcast_to(scale, features).copy()
    )


def _column_mean(
    inputs: npt.NDArray[Any], function: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
) -> npt.NDArray[np.float64]:
    total = np.zeros(inputs.shape[1])
    for rows in _blocks(inputs):
        total += function(inputs[rows]).sum(axis=0)
    return total / len(inputs)


def _blocks(inputs: npt.NDArray[Any]) -> Iterator[slice]:
    rows = max(1, _BLOCK_ELEMENTS // inputs.shape[1])
    for start in range(0, len(inputs), rows):
        yield slice(start, start + rows)
