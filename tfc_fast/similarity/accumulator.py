"""Mean cosines over all pairs of all rows of a data set that comes in batches.

The means follow from the sums of the unit rows of each class (see `means`), and sums of batches add
up. So pairs of rows in different batches count, too, and no row is kept.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from tfc_fast import _extension  # noqa: F401  (registers the ops)
from tfc_fast._inputs import Array, as_count, as_rows_to_keep, as_state, group_labels
from tfc_fast._results import measures_and_counts
from tfc_fast.similarity.means import CosineMeans

__all__ = ["CosineAccumulator"]


class CosineAccumulator:
    """Exact mean cosines over all pairs of all rows given so far, in batches of any size.

    The same as `mean_cosine` of all batches put together, and as exact. Sums are kept in float64
    together with what each addition rounds away, so that ten million rows given one by one are as
    good as in one call. How they are cut into batches changes the means by 1e-12 at most for
    float64 rows, and for others, which are added in float32 by up to 32, by about 1e-8 (2e-7 where
    they are nearly parallel). Memory is `16 C d` bytes for C classes, whatever the number of rows.
    It lies where the rows are: on the CPU until the first batch comes, and from there on where
    that is. It can be pickled and copied.

    Args:
        num_features: Entries of a row, d.
        num_classes: Number of classes, C. Without it there are no labels, and `within` and
            `between` are NaN.

    Raises:
        TypeError: `num_features` or `num_classes` is no integer.
        ValueError: One of them is less than 1.

    Example:
        >>> import torch
        >>> accumulator = CosineAccumulator(num_features=2, num_classes=2)
        >>> accumulator.update(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([0, 1]))
        >>> accumulator.update(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
        >>> means = accumulator.compute()
        >>> means.all.item(), means.within.item(), means.between.item(), int(means.n_rows)
        (0.333..., 1.0, 0.0, 3)
    """

    def __init__(self, num_features: int, num_classes: int | None = None) -> None:
        self.num_features = as_count(num_features, "num_features")
        self.num_classes = None if num_classes is None else as_count(num_classes, "num_classes")
        self.reset()

    def reset(self) -> None:
        """Forget all rows."""
        classes = self.num_classes or 1
        self._placed = False  # whether a batch has told where the state is to lie
        # Whatever torch's default device is.
        self._sums = torch.zeros(classes, self.num_features, dtype=torch.float64, device="cpu")
        self._lost = torch.zeros_like(self._sums)  # what rounding took away from the sums
        # Rows that took part, zero, and non-finite ones.
        self._counts = torch.zeros(classes, 3, dtype=torch.int64, device="cpu")

    def update(self, x: Array, labels: Array | None = None) -> None:
        """Add a batch of rows. Wrong input changes nothing.

        Args:
            x: Rows, `[n, ...]`, flattened to `[n, num_features]`; float16, bfloat16, float32 or
                float64, not necessarily the same each time; a tensor or a numpy array. A 1-D input
                is n rows of one number each; a single vector is `x[None]`.
            labels: Class of each row, integer, `[n]`; needed where `num_classes` was given.

        Raises:
            TypeError: `x` is no array of a supported float dtype, or `labels` are not integers.
            ValueError: Rows have another length than `num_features`, or are on meta or on another
                device than those before; labels are missing, not wanted, not `[n]`, or outside
                `0 ... num_classes - 1`.
        """
        rows = as_rows_to_keep(x, "x")
        width = math.prod(rows.shape[1:])
        if width != self.num_features:
            raise ValueError(
                f"x: wanted rows of {self.num_features} entries (num_features), got {width} (shape "
                f"{list(rows.shape)})"
            )
        if self.num_classes is None and labels is not None:
            raise ValueError(
                "labels: given, but the accumulator has no classes; make it with num_classes="
            )
        if self.num_classes is not None and labels is None:
            raise ValueError(
                f"labels: missing; the accumulator was made with num_classes={self.num_classes} "
                "and needs the class of each row"
            )
        if self._placed and rows.device != self._sums.device:
            raise ValueError(
                f"x: on {rows.device}, but the rows before were on {self._sums.device}; move them, "
                "or make an accumulator for each device and merge() them"
            )
        order, class_ptr = group_labels(labels, self.num_classes, rows)
        if not self._placed:
            self._place(rows.device)
        torch.ops.tfc_fast.add_unit_row_sums.default(
            rows, order, class_ptr, self._sums, self._lost, self._counts
        )

    def compute(self) -> CosineMeans:
        """Means over all pairs of different rows given so far.

        Returns:
            `CosineMeans` as of `mean_cosine`, of float64 and int64 tensors of no dimension.
        """
        values = torch.ops.tfc_fast.mean_cosine_of_sums.default(
            self._sums, self._lost, self._counts, self.num_classes is not None
        )
        return CosineMeans(*measures_and_counts(values, 3, as_numpy=False))

    def merge(self, other: CosineAccumulator) -> None:
        """Add all rows that `other` was given, by another worker or on another device for instance.

        Raises:
            TypeError: `other` is no CosineAccumulator.
            ValueError: It has another `num_features` or `num_classes`.
        """
        if not isinstance(other, CosineAccumulator):
            raise TypeError(f"other: wanted a CosineAccumulator, got {type(other).__name__}")
        for name in ("num_features", "num_classes"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(f"other: has {name}={theirs}, wanted {mine}")
        if not self._placed and other._placed:
            self._place(other._sums.device)
        sums, lost, counts = (part.to(self._sums.device) for part in other._state())
        # Knuth's two-sum: the error of the addition, exactly.
        total = self._sums + sums
        added = total - self._sums
        error = (self._sums - (total - added)) + (sums - added)
        self._lost = self._lost + lost + error
        self._sums = total
        self._counts = self._counts + counts

    def all_reduce(self, group: distributed.ProcessGroup | None = None) -> CosineAccumulator:
        """All rows that all processes were given, as a new accumulator on each of them.

        This one stays as it is, so that every process can go on with its own share of the data and
        do this again. Every process of the group must call it.

        Args:
            group: Process group of torch.distributed. Default: all processes. The sums go through
                the CPU where the group reduces CPU tensors (gloo), whatever device each process
                has its rows on, or has none yet; else (NCCL alone) through its current GPU.

        Returns:
            A CosineAccumulator; its means are those of the rows of all processes put together. It
            lies where this one does.

        Raises:
            RuntimeError: torch.distributed is not initialised.
            ValueError: The processes have accumulators of different `num_features` or
            `num_classes`.
        """
        if not (distributed.is_available() and distributed.is_initialized()):
            raise RuntimeError(
                "all_reduce: torch.distributed is not initialised; call "
                "torch.distributed.init_process_group() before, or use compute() in one process"
            )
        device = _reducing_device(group)
        sizes = torch.tensor([self.num_features, self.num_classes or 0], device=device)
        largest = torch.cat([sizes, -sizes])
        distributed.all_reduce(largest, distributed.ReduceOp.MAX, group=group)
        if not torch.equal(largest[:2], -largest[2:]):
            raise ValueError(
                f"all_reduce: this process has num_features={self.num_features} and "
                f"num_classes={self.num_classes}, another one has others; make them alike"
            )
        whole = CosineAccumulator(self.num_features, self.num_classes)
        totals = [part.to(device, copy=True) for part in self._state()]
        for total in totals:
            distributed.all_reduce(total, group=group)
        whole._sums, whole._lost, whole._counts = (total.to(self._sums.device) for total in totals)
        whole._placed = self._placed
        return whole

    def state_dict(self) -> dict[str, Any]:
        """Copies of all it holds: numbers and CPU tensors, as `torch.save` takes them."""
        sums, lost, counts = (part.to("cpu", copy=True) for part in self._state())
        return {
            "num_features": self.num_features,
            "num_classes": self.num_classes,
            "sums": sums,
            "lost": lost,
            "counts": counts,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave, instead of what is held now.

        Wrong input changes nothing. The tensors of `state` may lie on any device; they are copied
        to where the rows of this accumulator are, or will be.

        Raises:
            TypeError: A number in `state` is no integer.
            ValueError: `state` lacks an entry, is that of an accumulator of another `num_features`
                or `num_classes`, or its counts are negative.
        """
        own = self.state_dict()
        if missing := sorted(own.keys() - state.keys()):
            raise ValueError(f"state: lacks {', '.join(missing)}; pass what state_dict() returned")
        for name in ("num_features", "num_classes"):
            given, mine = state[name], own[name]
            if given is not None:
                given = as_count(given, f"state: {name}")
            if given != mine:
                raise ValueError(f"state: has {name}={given}, wanted {mine}")
        sums, lost, counts = (
            as_state(state[name], f"state: {name}", own[name])
            for name in ("sums", "lost", "counts")
        )
        if (counts < 0).any():
            raise ValueError(f"state: counts: wanted at least 0, got {int(counts.min())}")
        device = self._sums.device
        self._sums, self._lost, self._counts = (part.to(device) for part in (sums, lost, counts))

    def _state(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._sums, self._lost, self._counts

    def _place(self, device: torch.device) -> None:
        self._sums, self._lost, self._counts = (part.to(device) for part in self._state())
        self._placed = True


def _reducing_device(group: distributed.ProcessGroup | None) -> torch.device:
    """Where all processes of the group can reduce, the same for all of them."""
    backends = distributed.get_backend_config(group).split(",")
    if any(backend.startswith("cpu:") for backend in backends):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
