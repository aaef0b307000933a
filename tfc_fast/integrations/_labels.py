"""Where labels and mask of a batch are, when a framework hands over the batch as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

LabelRule: TypeAlias = Callable[[Any], Tensor]

MaskRule: TypeAlias = Callable[[Any], Tensor | None]

NAMES = ("labels", "label", "targets", "target", "y")


def find_labels(batch: Any) -> Tensor:
    """The labels of a batch by rule: a mapping's entry of a usual name, or a pair's second part.

    Raises:
        ValueError: There are no whole-number labels `[n]` where the rule looks.
    """
    found: Any = None
    place = f"a mapping with one of {', '.join(NAMES)}, or a pair (x, labels)"
    if isinstance(batch, Mapping):
        for name in NAMES:
            if batch.get(name) is not None:
                found, place = batch[name], f"batch[{name!r}]"
                break
    elif isinstance(batch, Sequence) and not isinstance(batch, str) and len(batch) >= 2:
        found, place = batch[1], "batch[1]"
    if isinstance(found, Tensor) and found.dim() == 1 and not found.is_floating_point():
        return found
    what = (
        f"{found.dtype} of shape {list(found.shape)}"
        if isinstance(found, Tensor)
        else f"{type(batch if found is None else found).__name__}"
    )
    raise ValueError(
        f"labels: wanted whole numbers [n] in {place}, got {what}; pass labels=<function of the "
        "batch>, or leave num_classes out to do without classes"
    )
