"""How the statistics functions hand over what an op has computed."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


def measures_and_counts(values: Tensor, num_measures: int, as_numpy: bool) -> tuple[Any, ...]:
    """Numbers that an op gives as one float64 tensor: measures, and after them counts.

    Returns:
        float64 and int64 tensors of no dimension, or numpy scalars.
    """
    if as_numpy:
        array = values.numpy()
        return *array[:num_measures], *array[num_measures:].astype(np.int64)
    counts = values[num_measures:].long()
    return *values[:num_measures].unbind(), *counts.unbind()
