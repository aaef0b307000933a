"""The processes that train one model together, each on its share of every batch.

One process alone is the usual case, in which nothing here does anything.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as distributed
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tfc_fast.probe.processes import checked_group
from tfc_fast.trainer.interrupt import StopRequest

__all__ = ["Ranks"]

_T = TypeVar("_T")


class Ranks:
    """This process among those of a group.

    Args:
        group: Process group of torch.distributed; None: this process trains alone.

    Raises:
        TypeError: `group` is something else.
        ValueError: This process is not in it.
    """

    def __init__(self, group: Any = None) -> None:
        self.group = None if group is None else checked_group(group)
        self.number = 0 if group is None else distributed.get_rank(group)
        self.count = 1 if group is None else distributed.get_world_size(group)

    @property
    def leads(self) -> bool:
        """Whether this process writes the files of the run and shows its progress."""
        return self.number == 0

    def wait(self) -> None:
        """Until all have come here."""
        if self.group is not None:
            distributed.barrier(self.group)

    def synchronized(self, model: nn.Module) -> nn.Module:
        """The model whose gradients are the means over all processes."""
        if self.group is None:
            return model
        return DistributedDataParallel(model, process_group=self.group)

    def of_the_whole_batch(
        self, loss: Tensor, correct: Tensor, rows: int
    ) -> tuple[Tensor, Tensor, int]:
        """Mean loss, and sums of right answers and rows, over all processes."""
        if self.group is None:
            return loss, correct, rows
        numbers = torch.stack([loss.double(), correct.double(), loss.new_tensor(rows).double()])
        distributed.all_reduce(numbers, group=self.group)
        return numbers[0] / self.count, numbers[1], int(numbers[2])

    def agree(self, stop: StopRequest) -> bool:
        """Whether to stop: in all processes as soon as one of them is asked to."""
        if self.group is None:
            return bool(stop)
        asked = torch.tensor(int(bool(stop)))
        distributed.all_reduce(asked, group=self.group)
        if asked == 0:
            return False
        names: list[str | None] = [None] * self.count
        distributed.all_gather_object(names, stop.name, group=self.group)
        stop.ask(next(name for name in names if name is not None))
        return True

    def from_leader(self, value: _T | None) -> _T:
        """What the leading process has, in all of them."""
        if self.group is None:
            assert value is not None
            return value
        values = [value]
        distributed.broadcast_object_list(
            values, src=distributed.get_global_rank(self.group, 0), group=self.group
        )
        told = values[0]
        assert told is not None
        return told
