"""How far the features of a fixed batch have turned within some steps of training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tfc_fast._inputs import Array, as_count, as_rows_to_keep
from tfc_fast.similarity.cross import paired_cosine

__all__ = ["FeatureDrift"]


class FeatureDrift:
    """Mean cosine of the features of a fixed probe batch with those of some steps before.

    Pass the same samples through the network at every step and give it their features: near 1 the
    features stand still, far below they are still being reorganised.

        drift_t = mean over i of cos(f_i(t), f_i(t - lag))

    It keeps copies of the last `lag` batches of features, where they are.

    Args:
        lag: How many updates to look back, at least 1.

    Raises:
        TypeError: `lag` is no integer.
        ValueError: `lag` is less than 1.

    Example:
        >>> import torch
        >>> drift = FeatureDrift(lag=2)
        >>> for angle in (0.0, 0.1, 0.2, 0.3):
        ...     features = torch.tensor([[angle]]).cos(), torch.tensor([[angle]]).sin()
        ...     print(f"{drift.update(torch.cat(features, dim=1)).item():.4f}")
        nan
        nan
        0.9801
        0.9801
    """

    def __init__(self, lag: int = 1) -> None:
        self.lag = as_count(lag, "lag")
        self.reset()

    def reset(self) -> None:
        """Forget all features, for instance to begin with another probe batch."""
        self._ring: list[Tensor] = []
        self._oldest = 0

    def update(self, features: Array) -> Tensor | np.float64:
        """Compare with the features of `lag` updates before, and keep a copy of these.

        Args:
            features: `[n, ...]`, of the same samples in the same order each time; float16,
                bfloat16, float32 or float64; a tensor or a numpy array. A 1-D input is n rows of
                one number each; a single vector is `features[None]`.

        Returns:
            Mean of the cosines of each row with what it was, float64 in [-1, 1], a tensor of no
            dimension where `features` are, or a numpy scalar for numpy input; NaN in the first
            `lag` updates. Rows that are zero or hold a NaN or Inf at either step are left out (see
            `paired_cosine`).

        Raises:
            TypeError: `features` is no array of a supported float dtype, or of another than before.
            ValueError: The shape or device of `features` is not that of before, or they are on
                meta.
        """
        rows = as_rows_to_keep(features, "features")
        self._check_same_batch(rows)
        if len(self._ring) < self.lag:
            self._ring.append(rows.clone())
            mean = torch.tensor(torch.nan, dtype=torch.float64, device=rows.device)
        else:
            before = self._ring[self._oldest]
            mean = torch.as_tensor(paired_cosine(rows, before).mean, device=rows.device)
            # A new copy: a tensor made in inference mode cannot be written to outside of it.
            self._ring[self._oldest] = rows.clone()
            self._oldest = (self._oldest + 1) % self.lag
        return np.float64(mean.item()) if isinstance(features, np.ndarray) else mean

    def _check_same_batch(self, rows: Tensor) -> None:
        if not self._ring:
            return
        kept = self._ring[0]
        if rows.dtype != kept.dtype:
            raise TypeError(
                f"features: wanted {kept.dtype} as before, got {rows.dtype}; reset() begins anew"
            )
        if rows.device != kept.device:
            raise ValueError(
                f"features: wanted on {kept.device} as before, got on {rows.device}; move them, or "
                "call reset() to begin anew"
            )
        if rows.shape != kept.shape:
            raise ValueError(
                f"features: wanted shape {list(kept.shape)} as before, got {list(rows.shape)}; "
                "give the same samples each time, or call reset() to begin anew"
            )
