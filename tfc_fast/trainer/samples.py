"""What a run trains on: a data set by name, a `Dataset`, or two tensors of the user."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from tfc_fast.data import Dataset, load_dataset
from tfc_fast.environment import checksum
from tfc_fast.trainer.config import TrainConfig

__all__ = ["Samples", "named_config", "training_samples"]

# Settings of a data set loaded by name; they would do nothing to data that the user gives.
_OF_LOADING = (
    *("data_dir", "classes", "label_noise", "standardize"),
    *("samples", "dim", "separation"),
)

_OWN = "custom"


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples and labels of a run.

    Args:
        inputs: Floating point `[n, ...]`.
        labels: int64 `[n]`, from 0 to `num_classes - 1`.
        num_classes: Number of classes.
        name: Short name.
        description: One line for people.
        given: Whether the user gave the data, so that settings alone cannot load them again.
        shape: Of one sample before it was flattened, such as `(1, 8, 8)`.
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    num_classes: int
    name: str
    description: str
    given: bool
    shape: tuple[int, ...]

    def to(self, device: torch.device) -> Samples:
        """Return the samples on a device."""
        return dataclasses.replace(
            self, inputs=self.inputs.to(device), labels=self.labels.to(device)
        )

    def describe(self) -> dict[str, Any]:
        """Return what `config.json` tells of the data."""
        return {
            "name": self.name,
            "description": self.description,
            "given": self.given,
            "samples": len(self.labels),
            "shape": list(self.inputs.shape[1:]),
            "num_classes": self.num_classes,
            "checksum": checksum(self.inputs, self.labels),
        }


def named_config(
    config: TrainConfig, given: Dataset | tuple[torch.Tensor, torch.Tensor] | None
) -> TrainConfig:
    """Return settings that name the data the run trains on.

    Args:
        config: The settings.
        given: Data of the user, or None.

    Raises:
        ValueError: A setting is for loading data by name, but data are given; or it is not the
            number of classes of the `Dataset`.
    """
    if given is None:
        return config
    defaults = TrainConfig()
    for name in _OF_LOADING:
        if getattr(config, name) != getattr(defaults, name):
            raise ValueError(
                f"{name}: {getattr(config, name)!r} given, but it does nothing to data of your "
                "own; prepare them with tfc_fast.data.load_dataset, or leave it out"
            )
    if isinstance(given, Dataset) and config.num_classes not in (None, given.num_classes):
        raise ValueError(
            f"num_classes: {config.num_classes} given, but the data set has {given.num_classes}; "
            "leave it out, or make the Dataset with as many"
        )
    name = given.name if isinstance(given, Dataset) else _OWN
    return dataclasses.replace(config, dataset=name)


def training_samples(
    config: TrainConfig, given: Dataset | tuple[torch.Tensor, torch.Tensor] | None
) -> Samples:
    """Return the samples of a run.

    Args:
        config: Names the data set where none is given.
        given: A `Dataset`, or inputs `[n, ...]` and labels `[n]`, whose number of classes is
            `config.num_classes` or else the largest label + 1.

    Raises:
        ImportError: The data set needs a package that is not installed.
        OSError: A file is missing.
        TypeError: `given` is something else, or of a wrong dtype.
        ValueError: A file is damaged, or shapes and labels do not fit.
    """
    if given is None:
        return _of_dataset(_load(config), given=False)
    if isinstance(given, Dataset):
        return _of_dataset(given, given=True)
    if (
        not isinstance(given, tuple)
        or len(given) != 2
        or not all(isinstance(tensor, torch.Tensor) for tensor in given)
    ):
        raise TypeError(
            f"dataset: a {type(given).__name__} given, a tfc_fast.data.Dataset or a tuple "
            "(inputs, labels) of two tensors is wanted"
        )
    inputs, labels = given
    if not inputs.is_floating_point():
        raise TypeError(f"dataset: inputs are {inputs.dtype}, floating point is wanted; .float()")
    if labels.dtype != torch.int64:
        raise TypeError(f"dataset: labels are {labels.dtype}, int64 is wanted; use .long()")
    if inputs.dim() < 2 or labels.shape != inputs.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"dataset: inputs {list(inputs.shape)} and labels {list(labels.shape)} given, "
            "[n, ...] and [n] are wanted"
        )
    low, high = int(labels.min()), int(labels.max())
    num_classes = config.num_classes or high + 1
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"dataset: labels lie from {low} to {high}, 0 to {num_classes - 1} is wanted for "
            f"num_classes={num_classes}"
        )
    return Samples(
        inputs.detach(),
        labels,
        num_classes,
        _OWN,
        "tensors of the user",
        True,
        tuple(inputs.shape[1:]),
    )


def _load(config: TrainConfig) -> Dataset:
    # Only what was set: a data set knows which options it has.
    options = {
        name: getattr(config, name)
        for name in ("samples", "dim", "separation")
        if getattr(config, name) is not None
    }
    return load_dataset(
        config.dataset,
        folder=config.data_dir,
        seed=config.seed,
        num_classes=config.num_classes,
        classes=config.classes,
        label_noise=config.label_noise,
        standardize=config.standardize,
        **options,
    )


def _of_dataset(dataset: Dataset, *, given: bool) -> Samples:
    return Samples(
        dataset.inputs,
        dataset.labels,
        dataset.num_classes,
        dataset.name,
        dataset.description,
        given,
        dataset.shape,
    )
