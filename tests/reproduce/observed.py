"""What observers would have seen in runs whose course is made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tfc_fast.reproduce import Measurement
from tfc_fast.reproduce.measurement import OBSERVED

STEPS = np.arange(10, 810, 10)
CLASSES, WIDTH = 4, 30


def means_of_classes(apart: Any) -> Any:
    """Class means `[k, classes, width]` whose distance from each other is what is given."""
    each = np.eye(CLASSES, WIDTH)
    return (1 + apart[:, None, None] * each[None]).astype(np.float32)


def write_class_means(run: Measurement, spread: Callable[[Any], Any]) -> Measurement:
    """The spread over the steps, alike in all of 3 layers."""
    values = spread(STEPS)
    columns = np.repeat(values[:, None], 3, axis=1)
    np.savez(
        run.run.path / OBSERVED,
        steps=STEPS,
        cosine=1 - columns / 2,
        spread=columns,
        layer=1,
        means=means_of_classes(values),
    )
    return run


def write_update_shares(run: Measurement, share: Callable[[Any], Any]) -> Measurement:
    """The share over the steps in two hidden layers; the first and the last layer have 0.3."""
    hidden = share(STEPS)
    outer = np.full(len(STEPS), 0.3)
    np.savez(
        run.run.path / OBSERVED,
        steps=STEPS,
        layers=np.array(["hidden.0.linear", "hidden.1.linear", "hidden.2.linear", "output"]),
        share=np.stack([outer, hidden, hidden, outer], axis=1),
    )
    return run


def write_observed(run: Measurement, observer: str | None) -> Measurement:
    """What makes the claims hold in a run whose first phase ends at about step 400."""
    if observer == "class-means":
        write_class_means(run, lambda steps: np.abs(steps - 300) / 300 + 0.05)
    elif observer == "update-shares":
        write_update_shares(run, lambda steps: np.where(steps < 300, 0.95, 0.5))
    return run
