"""Checks and conversions that the statistics functions share."""

from __future__ import annotations

import math
import operator
import warnings
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from tfc_fast._extension import _C

Array: TypeAlias = "Tensor | np.ndarray"

# Beyond that, labels are rather hashes or row numbers than classes.
MOST_CLASSES = 2**24

_DEVICES = ("cpu", "meta", *(["cuda"] if _C.build_info()["cuda"] == "yes" else []))

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def as_tensor(value: object, name: str, *, differentiable: bool = False) -> Tensor:
    """`value` as a tensor that shares its memory where possible, detached unless differentiable."""
    if isinstance(value, Tensor):
        return value if differentiable else value.detach()
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: masked arrays are not supported; use {name}.filled(...)")
    if isinstance(value, np.ndarray):
        if not value.dtype.isnative:
            value = value.astype(value.dtype.newbyteorder("="))
        # torch has neither negative strides nor such that are no multiple of the element.
        if any(stride < 0 or stride % value.itemsize for stride in value.strides):
            value = np.array(value, order="C")  # a copy even of one row
        with warnings.catch_warnings():
            # A read-only array (a memory map, say) is only read here.
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            try:
                return torch.from_numpy(value)
            except TypeError as error:
                raise TypeError(f"{name}: numpy dtype {value.dtype} is not supported") from error
    raise TypeError(f"{name}: wanted a torch.Tensor or numpy.ndarray, got {type(value).__name__}")


def _to_float(value: object) -> str:
    return "astype(numpy.float32)" if isinstance(value, np.ndarray) else "float()"


def as_rows(value: object, name: str, *, differentiable: bool = False) -> Tensor:
    """A float tensor `[n, ...]` on the CPU or a GPU; its history is cut unless differentiable."""
    x = as_tensor(value, name, differentiable=differentiable)
    _check_dense(x, name)
    if x.dtype not in FLOAT_DTYPES:
        raise TypeError(
            f"{name}: wanted float16, bfloat16, float32 or float64, got {x.dtype}; "
            f"convert it with {name}.{_to_float(value)}"
        )
    if x.dim() == 0:
        raise ValueError(f"{name}: wanted at least one dimension (rows), got a scalar")
    _check_device(x, name)
    return x


def as_rows_to_keep(value: object, name: str) -> Tensor:
    """Rows as of `as_rows`, for what adds them to a state or keeps them: on meta there are none."""
    rows = as_rows(value, name)
    _check_not_meta(rows, name)
    return rows


def as_state(value: object, name: str, like: Tensor) -> Tensor:
    """A copy of a tensor that `state_dict` gave, if it has the dtype and shape of `like`."""
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(value).__name__}")
    _check_dense(value, name)
    if value.dtype != like.dtype or value.shape != like.shape:
        raise ValueError(
            f"{name} must be a tensor of {like.dtype} and shape {list(like.shape)}, got "
            f"{value.dtype} and {list(value.shape)}"
        )
    _check_not_meta(value, name)
    return value.detach().to("cpu", copy=True).contiguous()


def as_output(out: object) -> Tensor:
    """A tensor on the memory of `out`, to write a result to."""
    if isinstance(out, Tensor):
        if out.requires_grad:
            raise ValueError("out: requires grad, but is written into; pass out.detach()")
        return out
    if isinstance(out, np.ndarray):
        if not out.flags.writeable:
            raise ValueError("out: the numpy array is read-only")
        shared = as_tensor(out, "out")
        if out.size and shared.data_ptr() != out.ctypes.data:
            raise ValueError(
                f"out: torch cannot write to a numpy array of strides {out.strides} and dtype "
                f"{out.dtype.str}; use one of native byte order and positive strides"
            )
        return shared
    raise TypeError(f"out: wanted a torch.Tensor or numpy.ndarray, got {type(out).__name__}")


def as_count(value: object, name: str, least: int = 1, most: int | None = None) -> int:
    """`value` as an int in `least ... most`."""
    try:
        # Arrays have __index__, too, whatever they hold: only asking tells.
        count = None if isinstance(value, (bool, np.bool_)) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        count = None
    if count is None:
        raise TypeError(f"{name}: wanted an int, got {type(value).__name__}")
    if most is not None and not least <= count <= most:
        raise ValueError(f"{name}: wanted {least} ... {most}, got {count}")
    if count < least:
        raise ValueError(f"{name}: wanted at least {least}, got {count}")
    return count


def _check_device(x: Tensor, name: str) -> None:
    if x.device.type not in _DEVICES:
        raise ValueError(
            f"{name}: is on {x.device}, but this build computes on the CPU only; pass {name}.cpu()"
            if x.device.type == "cuda"
            else f"{name}: is on {x.device}, which is not supported; pass {name}.cpu()"
        )


def _check_not_meta(x: Tensor, name: str) -> None:
    if x.device.type == "meta":
        raise ValueError(f"{name}: is on meta, where it holds no numbers; pass a CPU tensor")


def _check_dense(x: Tensor, name: str) -> None:
    if x.layout != torch.strided:
        raise TypeError(f"{name}: wanted a dense tensor, got layout {x.layout}; use .to_dense()")
    if x.is_nested:
        raise TypeError(f"{name}: wanted a dense tensor, got a nested one; use .to_padded_tensor()")


def as_packed_gates(value: object, name: str, num_units: int | None) -> tuple[Tensor, int]:
    """Packed gates int64 `[n, words]` as they are, or those of features `[n, ...]`.

    Returns:
        The packed gates, and the number of units.
    """
    x = as_tensor(value, name)
    if x.dtype != torch.int64:
        rows = as_rows(x, name)
        units = math.prod(rows.shape[1:])
        if num_units is not None and as_count(num_units, "num_units", 0) != units:
            raise ValueError(
                f"num_units: got {num_units}, but the rows of {name} have {units} values"
            )
        packed: Tensor = torch.ops.tfc_fast.pack_gates.default(rows)
        return packed, units
    _check_dense(x, name)
    _check_device(x, name)
    if num_units is None:
        raise ValueError(
            f"num_units: needed, since {name} is int64, that is, packed gates; pass the number of "
            "values in a row of the features that were packed"
        )
    units = as_count(num_units, "num_units", 0)
    words = (units + 63) // 64
    if x.dim() != 2 or x.shape[1] != words:
        raise ValueError(
            f"{name}: wanted packed gates of shape [n, {words}] for num_units={units}, got shape "
            f"{list(x.shape)}"
        )
    return x, units


def group_labels(
    labels: object, num_classes: int | None, x: Tensor, name: str = "labels"
) -> tuple[Tensor, Tensor] | tuple[None, None]:
    """Rows of `x` sorted by class and where each class begins, or `(None, None)` without labels.

    Returns:
        `order` int64 `[n]` and `class_ptr` int64 `[num_classes + 1]`.
    """
    if labels is None:
        if num_classes is not None:
            raise ValueError(f"num_classes: given without {name}; pass {name} too, or neither")
        return None, None
    y = as_tensor(labels, name)
    _check_dense(y, name)
    if y.dtype.is_floating_point or y.dtype.is_complex or y.dtype == torch.bool:
        raise TypeError(f"{name}: wanted an integer dtype, got {y.dtype}")
    rows = x.shape[0]
    if y.dim() != 1 or y.shape[0] != rows:
        raise ValueError(
            f"{name}: wanted one label per row, shape [{rows}], got shape {list(y.shape)}"
        )
    if y.device != x.device:
        raise ValueError(f"{name}: on {y.device}, but the rows are on {x.device}; move one of them")
    y = y.to(torch.int64)
    if num_classes is None:
        if y.device.type == "meta":
            raise ValueError(
                f"{name}: on meta, where the largest is not known; pass num_classes, too"
            )
        low, high = torch.stack(y.aminmax()).tolist() if rows else (0, 0)
        if low < 0:
            row = int((y < 0).nonzero()[0])
            raise ValueError(
                f"{name}: row {row} has label {int(y[row])}; labels are numbered from 0, none may "
                "be negative"
            )
        num_classes = high + 1
        source = f"{name}: the largest is {num_classes - 1}, which makes {num_classes} classes"
    else:
        num_classes = as_count(num_classes, "num_classes")
        source = f"num_classes: {num_classes} given"
    if num_classes > MOST_CLASSES:
        raise ValueError(
            f"{source}, more than {MOST_CLASSES}; number the classes without gaps: "
            f"torch.unique({name}, return_inverse=True)"
        )
    order, class_ptr = torch.ops.tfc_fast.group_labels.default(y, num_classes, name)
    return order, class_ptr
