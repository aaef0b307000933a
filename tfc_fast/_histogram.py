"""Counts of pairs of rows, of all and within and between classes: what their histograms share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np
from torch import Tensor

from tfc_fast._inputs import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Kind: TypeAlias = Literal["all", "within", "between"]
KINDS: tuple[Kind, ...] = ("all", "within", "between")


@dataclass(frozen=True)
class PairHistogram(ABC):
    """Counts of pairs of rows in each bin, int64 `[bins]`, by kind of pair."""

    all: Array
    within: Array
    between: Array

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the densities of within- and between-class pairs, or of all pairs without labels.

        Args:
            ax: matplotlib axes to draw on; default: new ones.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(
                "plot needs matplotlib: pip install matplotlib, or pip install tfc_fast[report]"
            ) from error
        if ax is None:
            ax = plt.subplots()[1]
        kinds = [kind for kind in KINDS[1:] if self._counts(kind).any()] or ["all"]
        for kind in kinds:
            counts, edges = self._bars(kind)
            density = counts / (max(int(counts.sum()), 1) * np.diff(edges))
            name = "all pairs" if kind == "all" else f"{kind} classes"
            ax.stairs(density, edges, fill=True, alpha=0.5, label=name)
        ax.set_xlabel(self._quantity())
        ax.set_ylabel("density of pairs")
        ax.legend()
        return ax

    @abstractmethod
    def _bars(self, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
        """Counts `[bars]` as they are drawn, and where the bars begin and end, `[bars + 1]`."""

    @abstractmethod
    def _quantity(self) -> str:
        """What is counted, as the label of an axis."""

    def _counts(self, kind: Kind) -> np.ndarray:
        if kind not in KINDS:
            raise ValueError(f"kind: wanted 'all', 'within' or 'between', got {kind!r}")
        return as_numpy_array(getattr(self, kind))


def as_numpy_array(x: Array) -> np.ndarray:
    """`x` in host memory."""
    return x.cpu().numpy() if isinstance(x, Tensor) else x


def by_kind(counts: Tensor, labelled: bool, as_numpy: bool) -> dict[Kind, Array]:
    """Counts `[2, bins]` of pairs within (without labels: of all) and between classes, by kind."""
    within, between = (counts if labelled else counts * 0).unbind()
    kinds: dict[Kind, Tensor] = {"all": counts.sum(dim=0), "within": within, "between": between}
    return {kind: array.numpy() if as_numpy else array for kind, array in kinds.items()}


def checked_shares(q: float | Array) -> np.ndarray:
    """Shares in [0, 1] as a float64 array."""
    shares = np.asarray(q, np.float64)
    if not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(f"q: wanted shares in [0, 1], got {q}")
    return shares
