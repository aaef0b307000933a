"""What is looked at while a run trains, beside the probe's records: features and weight updates.

An observer hangs on to the model by torch's hooks, so the run is that of the trainer, bit for bit.
It begins with the first step: an interrupted run is trained anew, not gone on with.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tfc_fast.files import atomic_write
from tfc_fast.models import MLP
from tfc_fast.reproduce.measurement import OBSERVED
from tfc_fast.trainer import TrainConfig, Trainer
from tfc_fast.trainer.samples import training_samples

__all__ = ["OBSERVERS", "ClassMeans", "UpdateShares", "first_share", "train_observed"]

Arrays = dict[str, npt.NDArray[Any]]

_TIMES = 150
_SAMPLES_PER_CLASS = 50


class Observer(Protocol):
    """Looks at a model while it trains."""

    def arrays(self) -> Arrays:
        """What was seen, `steps` among it."""

    def close(self) -> None:
        """Let go of the model."""


class ClassMeans:
    """Mean feature of each class in the layers of an MLP, on the same samples all the time.

    `arrays`: `steps` int64 `[k]`; `cosine`, `spread` float64 `[k, layers]`: mean cosine of the
    means of two classes, and their root mean square distance from the mean over classes, by the
    norm of that; `layer`: number of the middle layer; `means` float32 `[k, classes, width]` in it.

    Args:
        model: An `MLP`.
        config: Settings of the run; its first 50 samples of each class are looked at, at its first
            step and then about 150 times.

    Raises:
        TypeError: The model is no MLP.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        if not isinstance(model, MLP):
            raise TypeError(f"model: a {type(model).__name__} given, an MLP is wanted")
        samples = training_samples(config, None)
        each = [(samples.labels == c).nonzero().flatten() for c in range(samples.num_classes)]
        each = [rows[:_SAMPLES_PER_CLASS] for rows in each if len(rows)]
        self._sizes = [len(rows) for rows in each]
        self._inputs = samples.inputs[torch.cat(each)].to(config.device)
        self._layer = len(model.hidden) // 2
        self._times = _Times(config)
        self._seen: list[tuple[int, list[torch.Tensor]]] = []
        self._hook = model.register_forward_pre_hook(self._look)

    def _look(self, model: nn.Module, _: Any) -> None:
        if not self._times.due():
            return
        assert isinstance(model, MLP)
        means, features = [], self._inputs
        with torch.no_grad():
            for block in model.hidden:
                features = block(features)
                parts = features.split(self._sizes)
                means.append(torch.stack([part.mean(0) for part in parts]).cpu())
        self._seen.append((self._times.step, means))

    def arrays(self) -> Arrays:
        """What was seen."""
        measured = [[_likeness(means) for means in layers] for _, layers in self._seen]
        likeness = np.array(measured, np.float64).reshape(len(self._seen), -1, 2)
        return {
            "steps": np.array([step for step, _ in self._seen], np.int64),
            "cosine": likeness[..., 0],
            "spread": likeness[..., 1],
            "layer": np.array(self._layer),
            "means": np.stack([layers[self._layer].numpy() for _, layers in self._seen]),
        }

    def close(self) -> None:
        """Let go of the model."""
        self._hook.remove()


def _likeness(means: torch.Tensor) -> tuple[float, float]:
    """Mean cosine and relative spread of the means of classes `[classes, width]`."""
    means = means.double()
    units = nn.functional.normalize(means, dim=1)
    count = len(means)
    cosine = (units.sum(0).square().sum() - units.square().sum()) / (count * (count - 1))
    centre = means.mean(0)
    spread = (means - centre).square().sum(1).mean().sqrt() / centre.norm()
    return float(cosine), float(spread)


class UpdateShares:
    """How much of each weight update lies along one direction, for every matrix of a model.

    Plain gradient descent moves a matrix by its gradient times the learning rate, so it is the
    gradient that is looked at. `arrays`: `steps` int64 `[k]`; `layers`: names, `[layers]`; `share`
    float64 `[k, layers]`, see `first_share`.

    Args:
        model: Its parameters of two dimensions are looked at.
        config: Settings of the run.

    Raises:
        ValueError: An update of these settings is not a multiple of the gradient.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        if config.optimizer != "sgd" or config.momentum or config.weight_decay:
            raise ValueError(
                f"optimizer: {config.optimizer} with momentum {config.momentum} and weight decay "
                f"{config.weight_decay} given, sgd without both is wanted"
            )
        self._config = config
        self._seen: dict[str, list[tuple[int, float]]] = {}
        self._hooks = [
            self._hooked(name, weight)
            for name, weight in model.named_parameters()
            if weight.dim() == 2
        ]

    def _hooked(self, name: str, weight: nn.Parameter) -> Any:
        times = _Times(self._config)
        seen = self._seen.setdefault(name.removesuffix(".weight"), [])

        def look(weight: torch.Tensor) -> None:
            if times.due() and weight.grad is not None:
                seen.append((times.step, first_share(weight.grad)))

        return weight.register_post_accumulate_grad_hook(look)  # type: ignore[no-untyped-call]

    def arrays(self) -> Arrays:
        """What was seen."""
        columns = list(self._seen.values())
        return {
            "steps": np.array([step for step, _ in columns[0]], np.int64),
            "layers": np.array(list(self._seen)),
            "share": np.array([[share for _, share in column] for column in columns]).T,
        }

    def close(self) -> None:
        """Let go of the model."""
        for hook in self._hooks:
            hook.remove()


def first_share(matrix: torch.Tensor, *, tolerance: float = 1e-7, most: int = 500) -> float:
    """Share of the first singular value, `s_1^2 / sum_i s_i^2`, by power iteration.

    1 for a matrix of rank 1, whose rows all lie along one direction; at least `1 / rank` else. The
    sum is the squared Frobenius norm, so that no other singular value is needed.

    Args:
        matrix: `[m, n]`, floating point.
        tolerance: Relative change of `s_1^2` in one iteration at which it ends.
        most: Most iterations.

    Returns:
        The share, from above 0 to 1; NaN for a matrix that is zero or not finite.

    Example:
        >>> round(first_share(torch.diag(torch.tensor([3.0, 1.0]))), 6)
        0.9
    """
    matrix = matrix.detach().double()
    total = float(matrix.square().sum())
    if not (total > 0 and np.isfinite(total)):
        return float("nan")
    # The longest row is not orthogonal to the first direction, unless that is made by chance.
    direction = matrix[matrix.square().sum(1).argmax()]
    direction = direction / direction.norm()
    largest = 0.0
    for _ in range(most):
        image = matrix @ direction
        before, largest = largest, float(image.square().sum())
        if largest - before <= tolerance * largest:
            break
        direction = matrix.T @ image
        direction = direction / direction.norm()
    return min(largest / total, 1.0)


class _Times:
    """Counts steps, from 1, and says at which to look: the first, and then every so many."""

    def __init__(self, config: TrainConfig) -> None:
        self.step = 0
        self._every = max(1, (config.steps or _TIMES) // _TIMES)

    def due(self) -> bool:
        """Count a step; whether to look at it."""
        self.step += 1
        return self.step == 1 or self.step % self._every == 0


OBSERVERS: dict[str, Callable[[nn.Module, TrainConfig], Observer]] = {
    "class-means": ClassMeans,
    "update-shares": UpdateShares,
}
"""By the name that a `Setting` gives; made from the model that is trained and the settings."""


def train_observed(config: TrainConfig, observer: str) -> bool:
    """Train a run from its first step and write what an observer saw to `OBSERVED` in its folder.

    Args:
        config: Settings; files of an earlier run in its folder are removed.
        observer: Name in `OBSERVERS`.

    Returns:
        Whether the run came to its end.

    Raises:
        StorageError: A file cannot be written.
        TypeError, ValueError: The observer cannot look at this model or these settings.
    """
    path = Path(config.run_path) / OBSERVED
    path.unlink(missing_ok=True)
    trainer = Trainer(config, progress=False, overwrite=True)
    watching = OBSERVERS[observer](trainer.model, config)
    try:
        if trainer.fit().interrupted:
            return False
    finally:
        watching.close()
    file = io.BytesIO()
    np.savez_compressed(file, **watching.arrays())  # type: ignore[arg-type]
    atomic_write(path, lambda to: to.write(file.getvalue()))
    return True
