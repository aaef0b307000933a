"""Which tensor of what a module returns is its feature."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from torch import Tensor

from tfc_fast._inputs import FLOAT_DTYPES

Place = tuple[Any, ...]
"""Where a tensor stands in an output: empty for the output itself, else an index, key or field."""


def feature_place(out: Any) -> Place | None:
    """Where the feature is: the output itself, or the first float tensor in it.

    Looked into are tuples, lists, dicts in their order (the outputs of `transformers` are such) and
    dataclasses; what they hold is not looked into any further.

    Returns:
        None if there is no float tensor with at least one dimension.
    """
    if _is_feature(out):
        return ()
    if isinstance(out, dict):
        entries = list(out.items())
    elif isinstance(out, tuple | list):
        entries = list(enumerate(out))
    elif dataclasses.is_dataclass(out) and not isinstance(out, type):
        entries = [(field.name, getattr(out, field.name)) for field in dataclasses.fields(out)]
    else:
        entries = []
    return next(((key,) for key, value in entries if _is_feature(value)), None)


def feature_at(out: Any, place: Place) -> Tensor:
    """The tensor at that place."""
    if not place:
        feature: Tensor = out
    elif isinstance(out, dict | tuple | list):
        feature = out[place[0]]
    else:
        feature = getattr(out, place[0])
    return feature


def with_feature(out: Any, place: Place, feature: Tensor) -> Any:
    """A shallow copy of the output that has `feature` at that place."""
    if not place:
        return feature
    (key,) = place
    if isinstance(out, tuple):
        values = [*out[:key], feature, *out[key + 1 :]]
        return type(out)(*values) if hasattr(out, "_fields") else type(out)(values)
    changed = copy.copy(out)
    if isinstance(out, dict | list):
        changed[key] = feature
    else:
        object.__setattr__(changed, key, feature)  # of frozen ones, too
    return changed


def _is_feature(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype in FLOAT_DTYPES and value.dim() > 0
