"""Calls of the probe's backward ops on a recorder of their own, shared by the tests of the ops."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from tfc_fast import _C
from tfc_fast.records import COLUMNS

STATISTICS = COLUMNS[3:]

_NANOSECONDS = 7  # BatchSums::nanoseconds

# The same numbers laid out in memory in other ways; x is [n, c, h, w].
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
    "with gaps": lambda x: torch.nn.functional.pad(x, (1, 2))[..., 1 : 1 + x.shape[3]],
}
# What backward may be given besides: a gradient of few numbers.
GRAD_LAYOUTS = LAYOUTS | {
    "expanded number": lambda x: x[:1, :1, :1, :1].expand(x.shape),
    "expanded map": lambda x: x[:, :, :1, :1].expand(x.shape),
    "expanded row": lambda x: x[:1].expand(x.shape),
}


def make_recorder(
    *,
    num_sites: int = 2,
    max_sites: int | None = None,
    num_classes: int = 0,
    capacity: int = 16,
    window: int = 3,
    every: int = 1,
    units: int = 4096,
) -> _C.Recorder:
    recorder = _C.Recorder(
        num_sites=max_sites or num_sites,
        num_classes=num_classes,
        capacity=capacity,
        window=window,
        every=every,
        units=units,
    )
    recorder.use_sites(num_sites)
    return recorder


def relu_backward(
    recorder: _C.Recorder, grad: Tensor, result: Tensor, site: int = 0, reduction: str = "flatten"
) -> Tensor:
    state = (recorder.order, recorder.class_ptr, recorder.sites, recorder.units)
    number = _C.REDUCTIONS.index(reduction)
    return torch.ops.tfc_fast.relu_probe_backward(grad, result, *state, site, number)


def tap_backward(
    recorder: _C.Recorder, grad: Tensor, feature: Tensor, site: int = 0, reduction: str = "flatten"
) -> None:
    state = (recorder.order, recorder.class_ptr, recorder.sites, recorder.units)
    number = _C.REDUCTIONS.index(reduction)
    torch.ops.tfc_fast.tap_backward(grad, feature, *state, site, number)


def end_step(recorder: _C.Recorder, site: int = 0) -> dict[str, float]:
    """Closes the step and returns the record of one site."""
    recorder.end_step(0.0)
    values, _, _ = recorder.drain()
    return dict(zip(STATISTICS, values[-1, site].tolist(), strict=True))


def without_times(sites: Tensor) -> Tensor:
    """A copy of a recorder's sums without the time that kernels took."""
    copy = sites.clone()
    copy[1:, _NANOSECONDS] = 0
    return copy


def random_bit_patterns(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: torch.dtype, *, finite: bool = False
) -> Tensor:
    """Any number that the dtype has: subnormals, both zeros, and NaNs of every payload."""
    size = torch.finfo(dtype).bits
    raw = rng.integers(0, 2**size, shape, f"uint{size}", endpoint=False)
    x = torch.from_numpy(raw.view(f"int{size}")).view(dtype)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, -torch.nan], dtype=dtype)
    chosen = special[torch.from_numpy(rng.integers(0, len(special), shape))]
    x = torch.where(torch.from_numpy(rng.random(shape) < 0.2), chosen, x)
    return torch.where(x.isfinite(), x, torch.zeros((), dtype=dtype)) if finite else x
