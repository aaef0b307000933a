"""Synthetic clusters: a task whose difficulty is one number."""

from __future__ import annotations

import numpy as np

from tfc_fast.data.arguments import checked_integer, checked_number
from tfc_fast.data.dataset import RawData


def load_gaussian(
    *,
    seed: int = 0,
    num_classes: int | None = None,
    dim: int = 64,
    samples: int = 2000,
    separation: float = 4.0,
) -> RawData:
    """Draw one Gaussian cluster per class, as many samples of each as the division allows.

    `x = separation * m_c + e`, with `m_c` uniform on the unit sphere and `e ~ N(0, I)`. Two centres
    lie about `1.41 * separation` apart, so a Bayes classifier confuses a pair of classes with
    probability near `Phi(-0.71 * separation)`: 0.5 at 0, 0.24 at 1, 0.08 at 2, 0.002 at 4.

    Args:
        seed: of centres, samples and their order.
        num_classes: number of clusters; 10 if not given.
        dim: number of features d.
        samples: number of samples n.
        separation: distance of a centre from the origin, in standard deviations of a cluster.

    Returns:
        RawData with float64 inputs `[samples, dim]`.

    Raises:
        TypeError: if an argument is no number.
        ValueError: if a count is below 1, or `separation` negative or not finite.

    Example:
        >>> np.bincount(load_gaussian(num_classes=3, dim=5, samples=7).labels)
        array([3, 2, 2])
    """
    seed = checked_integer("seed", seed, minimum=0)
    classes = checked_integer("num_classes", 10 if num_classes is None else num_classes, minimum=1)
    dim = checked_integer("dim", dim, minimum=1)
    samples = checked_integer("samples", samples, minimum=1)
    separation = checked_number("separation", separation, minimum=0)
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((classes, dim))
    centres *= separation / np.linalg.norm(centres, axis=1, keepdims=True)
    labels = generator.permutation(np.arange(samples, dtype=np.int64) % classes)
    inputs = generator.standard_normal((samples, dim))
    inputs += centres[labels]
    return RawData(
        inputs=inputs,
        labels=labels,
        num_classes=classes,
        description=f"{classes} Gaussian clusters, {dim} features, separation {separation:g}",
        source="gaussian",
    )
