"""Taps: tensors that no module outputs, watched by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from tfc_fast._inputs import FLOAT_DTYPES
from tfc_fast.probe.reductions import Reduction, reduction_number
from tfc_fast.probe.watch import Channel, Watch, being_exported


class Taps:
    """The taps of one attached probe, by name.

    Args:
        channel: Where they record.
        takes: Whether a tap of that name is watched.
    """

    def __init__(self, channel: Channel, takes: Callable[[str], bool]) -> None:
        self.channel = channel
        self.takes = takes
        self.by_name: dict[str, Watch | None] = {}


_attached: list[Taps] = []


def attach_taps(taps: Taps) -> None:
    """From now on `tap` records there."""
    _attached.append(taps)


def detach_taps(taps: Taps) -> None:
    """No more."""
    _attached.remove(taps)


def _make_room_for_tap(name: str, reduction: int | None) -> bool:
    """Give the tap of that name a place in every attached probe that wants it.

    torch.compile calls this while it traces and takes the result for a constant, so that the places
    exist before it looks: made by traced code, they would make it compile again in the next step.
    """
    for taps in _attached:
        if name not in taps.by_name:
            taps.by_name[name] = taps.channel.watch(name) if taps.takes(name) else None
        watch = taps.by_name[name]
        if watch is not None and reduction is not None:
            watch.last_reduction = reduction
    return True


# What torch.compiler.assume_constant_result does; calling it would import the whole compiler.
_make_room_for_tap._dynamo_marked_constant = True  # type: ignore[attr-defined]


def tap(x: Tensor, name: str, reduction: Reduction | None = None) -> Tensor:
    """Watch a tensor that no module outputs, such as the result of `F.relu` in a forward.

    Returns `x` itself in value; without an attached probe, or without gradients, `x` as it is. The
    backward pass records the statistics of `x` and of the gradient with respect to it.

    Args:
        x: A tensor `[n, ...]` of float16, bfloat16, float32 or float64, of n samples.
        name: Name of the site in the records. A name used k times in one forward gives `name`,
            `name#1` and so on. Every attached probe watches it, unless the probe's `sites` is a
            function, which is asked with `(name, None)`.
        reduction: What the rows of `x` are, see `Probe`; default: what the probe says of that name.

    Returns:
        The tensor to go on with; it must be used in the place of `x`.

    Raises:
        TypeError: A probe is attached and `x` is no float tensor, or `reduction` no str.
        ValueError: A probe is attached and `x` has no dimension, or `reduction` has another name.

    Example:
        >>> import torch, torch.nn.functional as F
        >>> from tfc_fast import Probe, tap
        >>> class Net(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.linear = torch.nn.Linear(4, 3)
        ...     def forward(self, x):
        ...         return tap(F.relu(self.linear(x)), "hidden")
        >>> net = Net()
        >>> with Probe(net, sites=[]) as probe:
        ...     loss = net(torch.ones(8, 4)).sum()
        ...     loss.backward()
        ...     probe.step(loss=loss)
        >>> probe.history()["site"].tolist()
        ['hidden']
    """
    if not _attached:
        return x
    if not isinstance(x, Tensor) or x.dtype not in FLOAT_DTYPES:
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"tap '{name}': wanted a float tensor, got {kind}")
    if x.dim() == 0:
        raise ValueError(f"tap '{name}': wanted at least one dimension (rows), got a scalar")
    number = None if reduction is None else reduction_number(reduction)
    if being_exported():
        return x
    _make_room_for_tap(name, number)
    for taps in _attached:
        watch = taps.by_name[name]
        if watch is not None:
            x = watch.tap(x, watch.reduction if number is None else number)
    return x
