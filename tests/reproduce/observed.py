"""What observers would have seen in runs whose course is made up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tfc_fast.reproduce import Measurement
from tfc_fast.reproduce.measurement import OBSERVED

STEPS = np.arange(10, 810, 10)
CLASSES, WIDTH = 4, 30


def write_features(run: Measurement, between: Callable[[Any], Any]) -> Measurement:
    """The cosine between classes over the steps, alike in all of 3 layers."""
    values = between(STEPS)
    columns = np.repeat(values[:, None], 3, axis=1)
    # What a class has of its own is the larger, the less it is like the others.
    means = 1 + 5 * (1 - values)[:, None, None] * np.eye(CLASSES, WIDTH)[None]
    np.savez(
        run.run.path / OBSERVED,
        steps=STEPS,
        between=columns,
        within=columns,
        means_cosine=columns,
        layer=1,
        means=means.astype(np.float32),
        samples=means.repeat(2, axis=1).astype(np.float16),
        labels=np.arange(CLASSES).repeat(2),
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
    if observer == "features":
        write_features(run, lambda steps: 0.9 - np.abs(steps - 300) / 800)
    elif observer == "update-shares":
        write_update_shares(run, lambda steps: np.where(steps < 300, 0.95, 0.5))
    return run
