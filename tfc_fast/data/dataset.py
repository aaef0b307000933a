"""What a loader returns (`RawData`, as read) and what a training run gets (`Dataset`)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tfc_fast.data.arguments import checked_integer
from tfc_fast.data.standardize import Standardization

_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class RawData:
    """Samples and labels as a loader read them, checked, not yet standardised.

    Kept in the type of the file, so that standardisation starts from all its digits
    and a large set of bytes is not held twice as floats.

    Args:
        inputs: real or integer numbers, `[n, ...]`; flattened to `[n, d]`.
        labels: integers, `[n]`, from 0 to `num_classes - 1`.
        num_classes: number of classes; classes without a sample are allowed.
        description: one line for people.
        source: where it came from, a path for a file; errors name it.

    Raises:
        TypeError: if inputs are not numbers or labels are not integers.
        ValueError: if shapes or lengths do not fit, an input is not finite or too large for
            float32, or a label is out of range.

    Example:
        >>> raw = RawData(np.zeros((2, 8, 8)), np.array([0, 1]), 2, "blank", "an example")
        >>> raw.inputs.shape, raw.shape
        ((2, 64), (8, 8))
    """

    inputs: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    num_classes: int
    description: str
    source: str
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        checked_integer("num_classes", self.num_classes, minimum=1)
        inputs, labels = np.asarray(self.inputs), np.asarray(self.labels)
        self._check_inputs(inputs)
        self._check_labels(labels, rows=len(inputs))
        object.__setattr__(self, "shape", self.shape or inputs.shape[1:])
        object.__setattr__(self, "inputs", inputs.reshape(len(inputs), -1))
        object.__setattr__(self, "labels", labels.astype(np.int64))

    def _check_inputs(self, inputs: npt.NDArray[Any]) -> None:
        where = f"inputs of {self.source}"
        if inputs.dtype.kind not in "fiub":
            raise TypeError(f"{where} must be real or integer numbers, got dtype {inputs.dtype}")
        if inputs.ndim < 2 or inputs.size == 0:
            raise ValueError(
                f"{where} must have shape [n, ...] with at least one sample and one feature, "
                f"got {list(inputs.shape)}"
            )
        if inputs.dtype.kind != "f":
            return
        finite = np.isfinite(inputs).reshape(len(inputs), -1).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"{where} hold NaN or infinite values in {np.count_nonzero(~finite)} of "
                f"{len(inputs)} samples (the first is sample {np.argmin(finite)}); "
                "remove those samples or fill the values in"
            )
        largest = max(float(inputs.max()), -float(inputs.min()))
        if largest > _FLOAT32_MAX:
            raise ValueError(
                f"{where} hold a value of size {largest:g}, too large for float32; rescale them"
            )

    def _check_labels(self, labels: npt.NDArray[Any], rows: int) -> None:
        where = f"labels of {self.source}"
        if labels.dtype.kind not in "iu":
            raise TypeError(
                f"{where} must be integers, got dtype {labels.dtype}; "
                "convert them with labels.astype(numpy.int64)"
            )
        if labels.shape != (rows,):
            raise ValueError(
                f"{where} must have shape [{rows}], one per sample, got {list(labels.shape)}"
            )
        low, high = int(labels.min()), int(labels.max())
        if low < 0:
            raise ValueError(
                f"{where} must not be negative, got {low} to {high}; number classes from 0"
            )
        if high >= self.num_classes:
            raise ValueError(
                f"{where} must lie from 0 to {self.num_classes - 1} for num_classes="
                f"{self.num_classes}, got {low} to {high}"
            )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples and labels, ready for training.

    Args:
        inputs: float32 tensor `[n, d]`, finite.
        labels: int64 tensor `[n]`, from 0 to `num_classes - 1`.
        num_classes: number of classes.
        name: short name, for settings and titles.
        description: one line for people: what it is and what was done to it.
        shape: shape of one sample before it was flattened, e.g. `(1, 8, 8)`; `(d,)` if not given.
        standardization: what was applied to the inputs; give it to `load_dataset` to treat
            another split in the same way.

    Raises:
        TypeError: if a tensor has another type.
        ValueError: if shapes or lengths do not fit, an input is not finite, or a label is out of
            range.

    Example:
        >>> data = Dataset(torch.randn(6, 4), torch.arange(6) % 3, num_classes=3)
        >>> len(data), data.num_features, data.shape
        (6, 4, (4,))
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    num_classes: int
    name: str = "custom"
    description: str = ""
    shape: tuple[int, ...] = ()
    standardization: Standardization | None = None

    def __post_init__(self) -> None:
        checked_integer("num_classes", self.num_classes, minimum=1)
        for name, value, dtype, dimensions in (
            ("inputs", self.inputs, torch.float32, 2),
            ("labels", self.labels, torch.int64, 1),
        ):
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
            if value.dtype != dtype:
                raise TypeError(f"{name} must be {dtype}, got {value.dtype}; use .to({dtype})")
            if value.dim() != dimensions or value.numel() == 0:
                wanted = "[n, d]" if dimensions == 2 else "[n]"
                raise ValueError(
                    f"{name} must have shape {wanted} and not be empty, got {list(value.shape)}"
                )
        if len(self.inputs) != len(self.labels):
            raise ValueError(
                f"inputs and labels must be equally long, got {len(self.inputs)} and "
                f"{len(self.labels)}"
            )
        if not bool(torch.isfinite(self.inputs).all()):
            raise ValueError("inputs hold NaN or infinite values; remove or replace them")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0:
            raise ValueError(
                f"labels must not be negative, got {low} to {high}; number classes from 0"
            )
        if high >= self.num_classes:
            raise ValueError(
                f"labels must lie from 0 to {self.num_classes - 1} for num_classes="
                f"{self.num_classes}, got {low} to {high}"
            )
        shape = tuple(self.shape) or (self.num_features,)
        if math.prod(shape) != self.num_features:
            raise ValueError(
                f"shape must have {self.num_features} elements, as many as inputs have "
                f"features, got {shape}"
            )
        object.__setattr__(self, "shape", shape)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_features(self) -> int:
        """Number of features d of a sample."""
        return self.inputs.shape[1]
