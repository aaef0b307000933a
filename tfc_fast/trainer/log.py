"""The train log: loss, accuracy, learning rate and time of every step.

Losses and counts stay on the device as they come and are read a chunk at a time: a step never
waits for the device.
"""

from __future__ import annotations

import time
from array import array
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from tfc_fast.run_directory import TRAIN_COLUMNS

__all__ = ["Columns", "TrainLog"]

Columns: TypeAlias = dict[str, npt.NDArray[Any]]
"""Name in `TRAIN_COLUMNS` to array, all of one length."""

# How much may wait unread: a chunk bounds the memory, the time keeps the loss shown a fresh one.
_CHUNK_STEPS = 256
_CHUNK_SECONDS = 0.5


class TrainLog:
    """Collects one row per step.

    Example:
        >>> log = TrainLog()
        >>> log.record(1, torch.tensor(2.5), torch.tensor(7), rows=10, lr=0.1, seconds=0.01)
        >>> log.arrays()["accuracy"]
        array([0.7])
    """

    def __init__(self) -> None:
        self._steps = array("q")
        self._values = {name: array("d") for name in TRAIN_COLUMNS if name != "step"}
        # Of the steps not read yet: loss and number of right answers, on the device.
        self._waiting: list[tuple[torch.Tensor, torch.Tensor, int]] = []
        self._last_read = time.monotonic()

    def __len__(self) -> int:
        """Number of steps recorded."""
        return len(self._steps)

    def record(
        self,
        step: int,
        loss: torch.Tensor,
        correct: torch.Tensor,
        *,
        rows: int,
        lr: float,
        seconds: float,
    ) -> None:
        """Add a step; never waits for the device more than twice per second.

        Args:
            step: Number of the step.
            loss: Scalar tensor; its graph is not kept.
            correct: Number of samples classified rightly, a scalar tensor.
            rows: Number of samples.
            lr: Learning rate.
            seconds: Time of the step as the host sees it.
        """
        self._steps.append(step)
        self._values["lr"].append(lr)
        self._values["step_seconds"].append(seconds)
        self._waiting.append((loss.detach(), correct, rows))
        if (
            len(self._waiting) >= _CHUNK_STEPS
            or time.monotonic() - self._last_read >= _CHUNK_SECONDS
        ):
            self._read()

    @property
    def last_loss(self) -> float | None:
        """The newest loss that was read; None before the first."""
        losses = self._values["loss"]
        return losses[-1] if losses else None

    def arrays(self, start: int = 0) -> Columns:
        """Return all columns as new arrays of one length; waits for the device.

        Args:
            start: Number of rows to leave out at the beginning.
        """
        self._read()
        values = {name: np.array(column[start:]) for name, column in self._values.items()}
        return {"step": np.array(self._steps[start:], dtype=np.int64), **values}

    def extend(self, columns: Columns) -> None:
        """Add the rows of an earlier log.

        Args:
            columns: As `arrays` returns them.
        """
        self._read()
        self._steps.extend(columns["step"].tolist())
        for name, column in self._values.items():
            column.extend(columns[name].tolist())

    def _read(self) -> None:
        if self._waiting:
            losses, correct, rows = zip(*self._waiting, strict=True)
            # One transfer for both: float64 holds any loss and count exactly.
            both = torch.stack([torch.stack(losses).double(), torch.stack(correct).double()])
            values = both.cpu().numpy()
            self._values["loss"].extend(values[0].tolist())
            self._values["accuracy"].extend((values[1] / np.array(rows)).tolist())
            self._waiting.clear()
        self._last_read = time.monotonic()
