"""Fewer classes: the knob that makes a task easier without touching its samples."""

from __future__ import annotations

import dataclasses

from tfc_fast.data.arguments import checked_integer
from tfc_fast.data.dataset import RawData


def first_classes(raw: RawData, count: int) -> RawData:
    """Return the samples of the first classes, in their order.

    Args:
        raw: The samples, left as they are.
        count: How many classes stay: those with labels from 0 to `count - 1`.

    Raises:
        TypeError: if `count` is no integer.
        ValueError: if `count` is below 2 or above `raw.num_classes`, or no sample is left.

    Example:
        >>> import numpy as np
        >>> raw = RawData(np.eye(4), np.array([0, 2, 1, 0]), 3, "corners", "an example")
        >>> first_classes(raw, 2).labels
        array([0, 1, 0])
    """
    count = checked_integer("classes", count, minimum=2)
    if count > raw.num_classes:
        raise ValueError(
            f"classes must be at most {raw.num_classes}, as many as {raw.source} has, got {count}"
        )
    kept = raw.labels < count
    if not kept.any():
        raise ValueError(f"{raw.source} has no sample of the first {count} classes; raise classes")
    return dataclasses.replace(
        raw,
        inputs=raw.inputs[kept],
        labels=raw.labels[kept],
        num_classes=count,
        description=f"{raw.description}; the first {count} classes",
    )
