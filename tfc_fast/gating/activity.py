"""Which units live and which are dead over the course of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tfc_fast import _extension  # noqa: F401  (registers the ops)
from tfc_fast._inputs import Array, as_count, as_rows_to_keep, as_state

__all__ = ["UnitActivity"]

_NUMBERS = ("num_units", "window", "n_updates", "n_rows")
_PER_UNIT = ("open_rows", "last_active", "revived")


class UnitActivity:
    """Activity of each of `d` units over the updates of a run, in whole numbers.

    A unit is active in an update if its gate `feature > 0` is open in some row of it. It is *dead*
    if it was active in none of the last `window` updates, or, while there have been fewer, in none
    so far: what the probe's column `dead_window_frac` counts. It is *revived* by an update in which
    it is active after `window` updates or more in which it was not; so a unit that comes to life
    for the first time after as many updates is revived, too.

    An update costs one pass over the features, and does not wait for a GPU. 24 bytes per unit are
    kept: on the CPU until the first features come, and from there on where those are.

    Args:
        num_units: `d`, the number of values in a row of features.
        window: Updates without activity after which a unit can be revived.

    Raises:
        TypeError: An argument is no integer.
        ValueError: One of them is less than 1.

    Example:
        >>> import torch
        >>> activity = UnitActivity(3, window=2)
        >>> for features in ([[1.0, 0.0, 2.0]], [[3.0, 0.0, 0.0]], [[4.0, 0.0, 0.0]]):
        ...     activity.update(torch.tensor(features))
        >>> activity.dead_window.tolist(), activity.last_active.tolist()
        ([False, True, True], [3, 0, 1])
        >>> activity.update(torch.tensor([[0.0, 0.0, 5.0]]))
        >>> activity.revived.tolist(), activity.active_rate.tolist()
        ([0, 0, 1], [0.75, 0.0, 0.5])
    """

    def __init__(self, num_units: int, window: int = 100) -> None:
        self._num_units = as_count(num_units, "num_units")
        self._window = as_count(window, "window")
        self.reset()

    def reset(self) -> None:
        """Forget all updates."""
        self._n_updates = 0
        self._n_rows = 0
        self._placed = False  # whether an update has told where the units are to lie
        # Whatever torch's default device is.
        self._units = {
            name: torch.zeros(self._num_units, dtype=torch.int64, device="cpu")
            for name in _PER_UNIT
        }

    def update(self, features: Array) -> None:
        """Add the rows of one step or batch.

        Args:
            features: Outputs of a ReLU (or any values), `[n, ...]`, flattened to `[n, d]`; float16,
                bfloat16, float32 or float64; a tensor or a numpy array. A NaN counts as closed.
                With no rows it is an update in which no unit is active.

        Raises:
            TypeError: `features` is no array of a supported float dtype.
            ValueError: `features` has no dimension, is on meta or on another device than those
                before, or its rows do not have `num_units` values.
        """
        rows = as_rows_to_keep(features, "features")
        width = math.prod(rows.shape[1:])
        if width != self._num_units:
            raise ValueError(
                f"features: wanted rows of num_units={self._num_units} values, got {width} (shape "
                f"{list(rows.shape)})"
            )
        device = self._units["open_rows"].device
        if self._placed and rows.device != device:
            raise ValueError(
                f"features: on {rows.device}, but those before were on {device}; move them, "
                "or call reset() to begin anew"
            )
        if not self._placed:
            self._place(rows.device)
        torch.ops.tfc_fast.update_units.default(
            rows, *self._units.values(), self._n_updates + 1, self._window
        )
        self._n_updates += 1
        self._n_rows += len(rows)

    @property
    def num_units(self) -> int:
        """Units, `d`."""
        return self._num_units

    @property
    def window(self) -> int:
        """Updates that `dead_window` looks back on."""
        return self._window

    @property
    def n_updates(self) -> int:
        """Updates so far."""
        return self._n_updates

    @property
    def n_rows(self) -> int:
        """Rows of all updates."""
        return self._n_rows

    @property
    def active_rate(self) -> Tensor:
        """Share of all rows in which each unit was open, float64 `[d]`; NaN without rows."""
        return self._units["open_rows"].double() / self._n_rows

    @property
    def last_active(self) -> Tensor:
        """The last update in which each unit was active, from 1 on; 0: none; int64 `[d]`."""
        return self._units["last_active"].clone()

    @property
    def revived(self) -> Tensor:
        """How often each unit became active after `window` updates or more, int64 `[d]`."""
        return self._units["revived"].clone()

    @property
    def dead_window(self) -> Tensor:
        """Whether each unit was active in none of the last `window` updates, bool `[d]`."""
        last = self._units["last_active"]
        return last <= max(self._n_updates - self._window, 0)

    @property
    def dead_window_frac(self) -> float:
        """Share of the units that are dead in the window; NaN before the first row.

        Waits for the device; `dead_window` does not.
        """
        if self._n_rows == 0:
            return float("nan")
        return int(self.dead_window.sum()) / self._num_units

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs: ints and CPU tensors, for `torch.save`."""
        return {
            **{name: getattr(self, name) for name in _NUMBERS},
            **{name: units.to("cpu", copy=True) for name, units in self._units.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another `UnitActivity` of the same units and window was.

        The tensors of `state` may lie on any device; they are copied to where the features of this
        one are, or will be.

        Args:
            state: What `state_dict` gave.

        Raises:
            TypeError: A number in it is no integer.
            ValueError: An entry is missing or unknown, was made for other units or another window,
                or is a count that no updates give. Nothing is changed after an error.
        """
        wanted = {*_NUMBERS, *_PER_UNIT}
        if set(state) != wanted:
            raise ValueError(f"state: wanted the entries {sorted(wanted)}, got {sorted(state)}")
        for name in ("num_units", "window"):
            given = as_count(state[name], f"state: {name}", 0)
            if given != getattr(self, name):
                raise ValueError(
                    f"state: was made with {name}={given}, but this has "
                    f"{name}={getattr(self, name)}"
                )
        n_updates = as_count(state["n_updates"], "state: n_updates", 0)
        n_rows = as_count(state["n_rows"], "state: n_rows", 0)
        units = {}
        for name, most in (
            ("open_rows", n_rows),
            ("last_active", n_updates),
            ("revived", n_updates),
        ):
            units[name] = as_state(state[name], f"state: {name}", self._units[name])
            outside = units[name][(units[name] < 0) | (units[name] > most)]
            if len(outside):
                raise ValueError(f"state: {name}: wanted 0 ... {most}, got {int(outside[0])}")
        device = self._units["open_rows"].device
        self._n_updates, self._n_rows = n_updates, n_rows
        self._units = {name: part.to(device) for name, part in units.items()}

    def _place(self, device: torch.device) -> None:
        self._units = {name: part.to(device) for name, part in self._units.items()}
        self._placed = True
