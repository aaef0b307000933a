"""The order of the samples: a pure function of seed and epoch.

So a step number is all that a resumed run needs to go on with the very same batches.
"""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["Batches", "epoch_order"]

# Key of this random stream, apart from those of initial weights and data of the same seed.
_STREAM = 2


def epoch_order(seed: int, epoch: int, samples: int) -> torch.Tensor:
    """Return the order in which an epoch goes through the samples.

    Args:
        seed: Seed of the run.
        epoch: Number of the epoch, from 0.
        samples: Number of samples n.

    Returns:
        A permutation of 0 … n - 1, int64 `[n]`, on the CPU. It depends on nothing else: not on
        torch's global generator, nor on the epochs before.

    Example:
        >>> sorted(epoch_order(seed=0, epoch=3, samples=4).tolist())
        [0, 1, 2, 3]
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(_STREAM, epoch))
    generator = torch.Generator()
    generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
    return torch.randperm(samples, generator=generator)


class Batches:
    """The batch of every step, from samples that lie on the device of the training.

    All batches have `batch_size` samples: the samples left over at the end of an epoch are left
    out of it, others each time. So every step measures equally many pairs, and a compiled model
    sees one shape.

    Args:
        inputs: Samples, `[n, ...]`.
        labels: int64 `[n]`, on the device of `inputs`.
        batch_size: Samples per step, at most n.
        seed: Seed of the run.
        part: Which part of each batch is given, and of how many that are as equal as can be.

    Raises:
        ValueError: `batch_size` is larger than the number of samples, or less than that of parts.

    Example:
        >>> batches = Batches(torch.randn(10, 4), torch.arange(10), batch_size=5, seed=0)
        >>> x, y = batches.at(3)
        >>> x.shape, batches.per_epoch
        (torch.Size([5, 4]), 2)
    """

    def __init__(
        self,
        inputs: torch.Tensor,
        labels: torch.Tensor,
        *,
        batch_size: int,
        seed: int,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        if batch_size > len(labels):
            raise ValueError(
                f"batch_size: {batch_size} given, the data set has only {len(labels)} samples; "
                "lower batch_size"
            )
        index, parts = part
        if batch_size < parts:
            raise ValueError(
                f"batch_size: {batch_size} given, but {parts} processes share each batch; raise "
                "batch_size, or start fewer"
            )
        self._part = slice(batch_size * index // parts, batch_size * (index + 1) // parts)
        self._parts = parts
        self._inputs = inputs
        self._labels = labels
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    @property
    def per_epoch(self) -> int:
        """Number of batches of an epoch."""
        return len(self._labels) // self._batch_size

    @property
    def weight(self) -> float:
        """How much larger the part is than the mean of all parts.

        The mean over all parts of the mean loss of a part, times its weight, is the mean loss of
        the batch.
        """
        return (self._part.stop - self._part.start) * self._parts / self._batch_size

    def at(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return inputs and labels of a step.

        Args:
            step: Number of the step, from 1.

        Returns:
            New tensors `[batch_size, ...]` and `[batch_size]`, or the part of them.
        """
        epoch, position = divmod(step - 1, self.per_epoch)
        if epoch != self._epoch:
            order = epoch_order(self._seed, epoch, len(self._labels))
            self._order = order.to(self._labels.device)
            self._epoch = epoch
        chosen = self._order[position * self._batch_size : (position + 1) * self._batch_size]
        chosen = chosen[self._part]
        return self._inputs[chosen], self._labels[chosen]
