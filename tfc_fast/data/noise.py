"""Label noise: the knob that makes a task harder without touching its inputs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tfc_fast.data.arguments import checked_integer, checked_number

# Key of the random stream of label noise, apart from that of a data set drawn with the same seed.
_STREAM = 1


def noisy_labels(
    labels: npt.NDArray[np.int64], fraction: float, *, num_classes: int, seed: int
) -> npt.NDArray[np.int64]:
    """Give `round(fraction * n)` samples, chosen at random, a label drawn from all classes.

    The drawn label may be the true one, so about `fraction * (1 - 1 / num_classes)` of the labels
    come out wrong, and `fraction=1` makes labels that say nothing about the inputs. With the same
    seed a larger fraction changes the same samples in the same way, and more of them.

    Args:
        labels: int64 `[n]`, left as they are.
        fraction: from 0 to 1.
        num_classes: labels are drawn from 0 to `num_classes - 1`, each equally likely.
        seed: of the choice and of the draw.

    Returns:
        int64 `[n]`, a new array.

    Raises:
        TypeError: if `fraction` is no number.
        ValueError: if `fraction` is not from 0 to 1.

    Example:
        >>> noisy_labels(np.zeros(8, dtype=np.int64), 0.5, num_classes=10, seed=0).shape
        (8,)
    """
    fraction = checked_number("label_noise", fraction, minimum=0, maximum=1)
    num_classes = checked_integer("num_classes", num_classes, minimum=1)
    seed = checked_integer("seed", seed, minimum=0)
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAM,)))
    order = generator.permutation(len(labels))
    # One draw per sample, used or not: that is what keeps a smaller fraction a part of a larger.
    drawn = generator.integers(num_classes, size=len(labels), dtype=np.int64)
    chosen = order[: round(fraction * len(labels))]
    result: npt.NDArray[np.int64] = labels.copy()
    result[chosen] = drawn[chosen]
    return result
