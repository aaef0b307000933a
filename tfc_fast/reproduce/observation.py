"""What is looked at while a run trains, beside the probe's records: features and weight updates.

An observer hangs on to the model by torch's hooks, so the run is that of the trainer, bit for bit.
It begins with the first step: an interrupted run is trained anew, not gone on with.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tfc_fast.files import atomic_write
from tfc_fast.models import MLP
from tfc_fast.reproduce.measurement import OBSERVED
from tfc_fast.similarity import mean_cosine
from tfc_fast.trainer import TrainConfig, Trainer
from tfc_fast.trainer.samples import training_samples

__all__ = ["OBSERVERS", "Features", "UpdateShares", "first_share", "train_observed"]

Arrays = dict[str, npt.NDArray[Any]]

_TIMES = 150
_SAMPLES_PER_CLASS = 50
_SHOWN_PER_CLASS = 4


class Observer(Protocol):
    """Looks at a model while it trains."""

    def arrays(self) -> Arrays:
        """What was seen, `steps` among it."""

    def close(self) -> None:
        """Let go of the model."""


class Features:
    """Features of the same samples in the layers of an MLP, all the time.

    `arrays`: `steps` int64 `[k]`; `between`, `within`, `means_cosine` float64 `[k, layers]`: mean
    cosine of the features of two samples of different classes, of two of the same class, and of
    the mean features of two classes; `layer`: number of the middle layer, and in it `means`
    float32 `[k, classes, width]`, `samples` float16 `[k, shown, width]` and their `labels`
    `[shown]`, class by class.

    Args:
        model: An `MLP`.
        config: Settings of the run; its first 50 samples of each class are looked at, at its first
            step and then about 150 times; 4 of each class are kept.

    Raises:
        TypeError: The model is no MLP.
    """

    def __init__(self, model: nn.Module, config: TrainConfig) -> None:
        if not isinstance(model, MLP):
            raise TypeError(f"model: a {type(model).__name__} given, an MLP is wanted")
        data = training_samples(config, None)
        classes = [(data.labels == c).nonzero().flatten() for c in range(data.num_classes)]
        each = [rows[:_SAMPLES_PER_CLASS] for rows in classes if len(rows)]
        self._sizes = [len(rows) for rows in each]
        self._inputs = data.inputs[torch.cat(each)].to(config.device)
        self._labels = data.labels[torch.cat(each)].to(config.device)
        starts = np.cumsum([0, *self._sizes[:-1]])
        self._shown = [
            int(start) + number
            for start, size in zip(starts, self._sizes, strict=True)
            for number in range(min(size, _SHOWN_PER_CLASS))
        ]
        self._layer = len(model.hidden) // 2
        self._times = _Times(config)
        self._steps: list[int] = []
        self._cosines: list[list[tuple[float, float, float]]] = []
        self._means: list[torch.Tensor] = []
        self._samples: list[torch.Tensor] = []
        self._hook = model.register_forward_pre_hook(self._look)

    def _look(self, model: nn.Module, _: Any) -> None:
        if not self._times.due():
            return
        assert isinstance(model, MLP)
        features, cosines = self._inputs, []
        # Normalisation as in training, but its running statistics are of the batches alone.
        with torch.no_grad(), _buffers_kept(model):
            for number, block in enumerate(model.hidden):
                features = block(features)
                means = torch.stack([part.mean(0) for part in features.split(self._sizes)])
                pairs = mean_cosine(features, self._labels)
                between_means = mean_cosine(means).all
                cosines.append((float(pairs.between), float(pairs.within), float(between_means)))
                if number == self._layer:
                    self._means.append(means.cpu())
                    self._samples.append(features[self._shown].half().cpu())
        self._steps.append(self._times.step)
        self._cosines.append(cosines)

    def arrays(self) -> Arrays:
        """What was seen."""
        cosines = np.array(self._cosines, np.float64)
        return {
            "steps": np.array(self._steps, np.int64),
            "between": cosines[..., 0],
            "within": cosines[..., 1],
            "means_cosine": cosines[..., 2],
            "layer": np.array(self._layer),
            "means": torch.stack(self._means).numpy(),
            "samples": torch.stack(self._samples).numpy(),
            "labels": self._labels[self._shown].cpu().numpy(),
        }

    def close(self) -> None:
        """Let go of the model."""
        self._hook.remove()


@contextlib.contextmanager
def _buffers_kept(model: nn.Module) -> Iterator[None]:
    """After the block the buffers of a model have the values from before."""
    before = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        for buffer, value in before:
            buffer.copy_(value)


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


def first_share(matrix: torch.Tensor) -> float:
    """Share of the first singular value, `s_1^2 / sum_i s_i^2`.

    1 for a matrix of rank 1, whose rows all lie along one direction; at least `1 / rank` else. In
    float64; `s_i^2` are the eigenvalues of the smaller of the two products of the matrix with
    itself, and their sum is the squared Frobenius norm.

    Args:
        matrix: `[m, n]`, floating point.

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
    rows, columns = matrix.shape
    products = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
    return min(float(torch.linalg.eigvalsh(products)[-1]) / total, 1.0)


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
    "features": Features,
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
    trainer = Trainer(config, progress=False, overwrite=True)
    watching = OBSERVERS[observer](trainer.model, config)
    earlier = path.read_bytes() if path.exists() else None
    path.unlink(missing_ok=True)
    try:
        if trainer.fit().interrupted:
            return False
    except BaseException:
        # Of a run that came to no step, the trainer puts back the one before.
        if earlier is not None and trainer.run_directory.summary_path.exists():
            atomic_write(path, lambda to: to.write(earlier))
        raise
    finally:
        watching.close()
    file = io.BytesIO()
    np.savez_compressed(file, **watching.arrays())  # type: ignore[arg-type]
    atomic_write(path, lambda to: to.write(file.getvalue()))
    return True
