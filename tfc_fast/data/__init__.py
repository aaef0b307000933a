"""Data sets by name: `load_dataset` reads, chooses classes, adds label noise and standardises."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tfc_fast.data.arguments import checked_choice, checked_integer, checked_number
from tfc_fast.data.cifar import load_cifar10
from tfc_fast.data.classes import first_classes
from tfc_fast.data.dataset import Dataset, RawData
from tfc_fast.data.digits import load_digits
from tfc_fast.data.gaussian import load_gaussian
from tfc_fast.data.idx import load_fashion_mnist, load_mnist
from tfc_fast.data.noise import noisy_labels
from tfc_fast.data.npz import load_npz
from tfc_fast.data.standardize import METHODS, Standardization, measure

__all__ = ["LOADERS", "Dataset", "RawData", "Standardization", "load_dataset"]

LOADERS: dict[str, Callable[..., RawData]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "fashion-mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
    "gaussian": load_gaussian,
    "npz": load_npz,
}
"""Name to loader. A loader takes keyword arguments only and returns `RawData`; it is given those of
`folder` (a Path or None), `seed` and `num_classes` that it has parameters for, and its further
parameters are the options of `load_dataset`. Add an entry to make a data set known by name."""

# What load_dataset itself provides; all other parameters of a loader are options.
_PROVIDED = ("folder", "seed", "num_classes")


def load_dataset(
    name: str,
    *,
    folder: str | os.PathLike[str] | None = None,
    seed: int = 0,
    num_classes: int | None = None,
    classes: int | None = None,
    label_noise: float = 0.0,
    standardize: str | Standardization = "feature",
    **options: Any,
) -> Dataset:
    """Load a data set by name: read it, choose classes, add label noise, standardise the inputs.

    Args:
        name: "digits" (scikit-learn, no download), "mnist", "fashion-mnist" (IDX files), "cifar10"
            (python batches), "gaussian" (synthetic clusters), "npz" (your own file), or a name
            added to `LOADERS`.
        folder: where the files of "mnist", "fashion-mnist" and "cifar10" are; for "npz" the file.
        seed: of label noise and of synthetic data; the same seed gives the same bits.
        num_classes: number of clusters of "gaussian"; else only needed where there are more classes
            than the labels show.
        classes: how many classes to keep, the first ones; None for all.
        label_noise: fraction of samples, from 0 to 1, that get a label drawn uniformly from all
            classes (the true one included).
        standardize: "feature" (each feature to mean 0 and population variance 1; a constant
            feature to 0), "global" (one mean and one standard deviation for all), "none", or the
            `standardization` of another data set, as for a test split.
        **options: of the data set: `split="train" | "test"` for mnist, fashion-mnist and cifar10;
            `dim`, `samples`, `separation` for gaussian.

    Returns:
        Dataset: inputs float32 `[n, d]`, labels int64 `[n]`.

    Raises:
        ValueError: if a name or option is unknown, a value out of range, or a file is damaged.
        TypeError: if a value or an array in a file has a wrong type.
        OSError: if a folder or file is missing or cannot be read.
        ImportError: if "digits" is asked for and scikit-learn is not installed.

    Example:
        >>> data = load_dataset("gaussian", num_classes=4, dim=16, samples=100, label_noise=0.1)
        >>> data.inputs.shape, data.num_classes
        (torch.Size([100, 16]), 4)
    """
    loader = LOADERS.get(name)
    if loader is None:
        raise ValueError(f"unknown data set {name!r}; known are {', '.join(LOADERS)}")
    # Cheap checks first: a typing error must not cost the reading of a large file.
    seed = checked_integer("seed", seed, minimum=0)
    label_noise = checked_number("label_noise", label_noise, minimum=0, maximum=1)
    if classes is not None:
        classes = checked_integer("classes", classes, minimum=2)
    if not isinstance(standardize, Standardization):
        checked_choice("standardize", standardize, METHODS)
    if num_classes is not None:
        num_classes = checked_integer("num_classes", num_classes, minimum=1)
    arguments = _loader_arguments(
        name,
        loader,
        folder=None if folder is None else Path(folder).expanduser(),
        seed=seed,
        num_classes=num_classes,
        options=options,
    )
    raw = loader(**arguments)
    if not isinstance(raw, RawData):
        raise TypeError(f"the loader of {name!r} must return RawData, got {type(raw).__name__}")
    if num_classes is not None:
        raw = dataclasses.replace(raw, num_classes=num_classes)
    if classes is not None:
        raw = first_classes(raw, classes)
    return _finished(raw, name, label_noise, standardize, seed)


def _loader_arguments(
    name: str,
    loader: Callable[..., RawData],
    *,
    folder: Path | None,
    seed: int,
    num_classes: int | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    parameters = inspect.signature(loader).parameters
    if folder is not None and "folder" not in parameters:
        raise ValueError(f"folder has no meaning for {name!r}, which reads no files; got {folder}")
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    unknown = [option for option in options if option not in parameters]
    if unknown and not takes_any:
        known = ", ".join(p for p in parameters if p not in _PROVIDED) or "none"
        raise ValueError(f"unknown option {unknown[0]!r} for {name!r}; its options are: {known}")
    provided = {"folder": folder, "seed": seed, "num_classes": num_classes}
    return {key: value for key, value in provided.items() if key in parameters} | options


def _finished(
    raw: RawData, name: str, label_noise: float, standardize: str | Standardization, seed: int
) -> Dataset:
    labels = noisy_labels(raw.labels, label_noise, num_classes=raw.num_classes, seed=seed)
    if not isinstance(standardize, Standardization):
        standardize = measure(raw.inputs, standardize)
    description = raw.description
    if label_noise > 0:
        description += f"; label noise {label_noise:g} (seed {seed})"
    if standardize.method != "none":
        description += f"; standardised ({standardize.method})"
    return Dataset(
        inputs=torch.from_numpy(standardize.apply(raw.inputs)),
        labels=torch.from_numpy(labels),
        num_classes=raw.num_classes,
        name=name,
        description=description,
        shape=raw.shape,
        standardization=standardize,
    )
