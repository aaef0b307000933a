"""The settings of a training run: one frozen dataclass, checked when it is made.

Everything about a setting (type, default, help, limits, group) stands at its field, so that the
command line, the checks and the stored configuration cannot disagree.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import operator
import os
import re
import typing
from collections.abc import Mapping
from typing import Any, SupportsFloat, SupportsIndex

from tfc_fast.environment import MOST_THREADS
from tfc_fast.phases import EVENT_KINDS, EventKind
from tfc_fast.phases.events import checked_kinds

__all__ = ["DEFAULT_STEPS", "TrainConfig"]

DEFAULT_STEPS = 1500
"""Steps of a run that names neither steps nor epochs."""


def _setting(
    default: Any,
    group: str,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
) -> Any:
    limits = {"at_least": at_least, "above": above, "at_most": at_most, "below": below}
    return dataclasses.field(
        default=default,
        metadata={"group": group, "help": help, "choices": choices, "limits": limits},
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """All settings of a run; the defaults reproduce a long first phase on the digits data.

    The help of each setting is in the metadata of its field and in `tfc-fast train --help`.

    Raises:
        TypeError: a setting has a wrong type.
        ValueError: a setting is out of range, or two settings contradict each other.

    Example:
        >>> config = TrainConfig(depth=9, optimizer="adam", lr=1e-3)
        >>> config.steps, config.run_path
        (1500, 'runs/digits-depth9-width256-seed0')
        >>> TrainConfig(depth=0)
        Traceback (most recent call last):
        ...
        ValueError: depth: 0 given, at least 1 is wanted
    """

    dataset: str = _setting(
        "digits",
        "data",
        "data set by name: digits, mnist, fashion-mnist, cifar10, gaussian, npz",
    )
    data_dir: str | None = _setting(
        None, "data", "folder of the files of mnist, fashion-mnist or cifar10; the file of npz"
    )
    num_classes: int | None = _setting(
        None,
        "data",
        "number of classes; needed where there are more than the labels show",
        at_least=2,
    )
    classes: int | None = _setting(
        None,
        "data",
        "train on the first so many classes only: makes the task easier",
        at_least=2,
    )
    label_noise: float = _setting(
        0.0,
        "data",
        "fraction of samples whose label is drawn at random: makes the task harder",
        at_least=0,
        at_most=1,
    )
    standardize: str = _setting(
        "feature",
        "data",
        "how inputs are standardised: per feature, all together, or not",
        choices=("feature", "global", "none"),
    )
    samples: int | None = _setting(None, "data", "number of samples of gaussian", at_least=1)
    dim: int | None = _setting(None, "data", "number of input features of gaussian", at_least=1)
    separation: float | None = _setting(
        None,
        "data",
        "distance of the clusters of gaussian from the origin, in standard deviations: smaller "
        "is harder",
        at_least=0,
    )

    model: str = _setting(
        "mlp",
        "model",
        "network: mlp, vgg11 for images (scaled to 32 x 32), rnn or lstm that read them row by row",
        choices=("mlp", "vgg11", "rnn", "lstm"),
    )
    depth: int = _setting(
        7,
        "model",
        "number of layers, the output included; not for vgg11, which has its own number",
        at_least=1,
    )
    width: int = _setting(
        256,
        "model",
        "units of each hidden layer; of vgg11 the channels of the first convolution",
        at_least=1,
    )
    batch_norm: bool = _setting(False, "model", "batch normalisation before each ReLU")
    bias: bool = _setting(False, "model", "bias in the linear layers")
    gain: float = _setting(
        0.41,
        "model",
        "initial weights, as a multiple of He's standard deviation; smaller lengthens the "
        "first phase",
        above=0,
    )
    inplace: bool = _setting(False, "model", "ReLUs that overwrite their input")

    optimizer: str = _setting("sgd", "optimisation", "update rule", choices=("sgd", "adam"))
    lr: float = _setting(0.05, "optimisation", "learning rate", above=0)
    momentum: float = _setting(0.0, "optimisation", "momentum of sgd", at_least=0, below=1)
    weight_decay: float = _setting(0.0, "optimisation", "L2 penalty on the weights", at_least=0)
    loss: str = _setting(
        "cross_entropy",
        "optimisation",
        "loss; mse is the mean squared distance to one-hot targets",
        choices=("cross_entropy", "mse"),
    )
    batch_size: int = _setting(100, "optimisation", "samples per step", at_least=1)
    steps: int | None = _setting(
        None, "optimisation", f"length of the run in steps (default: {DEFAULT_STEPS})", at_least=1
    )
    epochs: int | None = _setting(
        None,
        "optimisation",
        "length of the run in epochs, instead of steps; an epoch leaves out the samples beyond "
        "its last full batch",
        at_least=1,
    )

    probe: bool = _setting(True, "probe", "measure features, gradients and gates while training")
    sites: str = _setting(
        "relu",
        "probe",
        "what to watch: relu, or globs over module paths with commas between them",
    )
    every: int = _setting(1, "probe", "measure every so many steps", at_least=1)
    budget: float | None = _setting(
        None,
        "probe",
        "share of the time of a step that the probe may take, such as 0.01: it measures as often "
        "as that allows, and no more often than every",
        above=0,
        below=1,
    )
    window: int = _setting(
        100, "probe", "steps after which a unit that was never active counts as dead", at_least=1
    )
    stop_on: str | None = _setting(
        None,
        "probe",
        f"events that end the run early, with commas between them: {', '.join(EVENT_KINDS)}",
    )
    tensorboard: bool = _setting(
        False, "probe", "write the records as TensorBoard curves, too, to the folder of the run"
    )

    seed: int = _setting(
        0, "run", "of initial weights, batch order and data", at_least=0, at_most=2**63 - 1
    )
    threads: int | None = _setting(
        None, "run", "CPU threads (default: as torch is set up)", at_least=1, at_most=MOST_THREADS
    )
    device: str = _setting("cpu", "run", "cpu, cuda or cuda:N")
    compile: bool = _setting(False, "run", "run the model through torch.compile")
    checkpoint_every: int = _setting(
        500, "run", "steps between checkpoints; 0: only at the start and the end", at_least=0
    )
    out: str | None = _setting(
        None,
        "run",
        "folder of the run (default: runs/<dataset>-depth<depth>-width<width>-seed<seed>, with the "
        "model after the data set unless it is mlp)",
    )

    def __post_init__(self) -> None:
        types = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            object.__setattr__(self, field.name, _checked(field, types[field.name], value))
        self._check_together()
        if self.steps is None and self.epochs is None:
            object.__setattr__(self, "steps", DEFAULT_STEPS)

    @property
    def run_path(self) -> str:
        """Folder of the run: `out`, or a name made of the main settings."""
        if self.out is not None:
            return self.out
        words = [
            self.dataset,
            *([] if self.model == "mlp" else [self.model]),
            *([] if self.model == "vgg11" else [f"depth{self.depth}"]),
            f"width{self.width}",
            f"seed{self.seed}",
        ]
        return "runs/" + "-".join(words)

    @property
    def stop_kinds(self) -> tuple[EventKind, ...]:
        """The events of `stop_on`."""
        kinds = [] if self.stop_on is None else self.stop_on.split(",")
        return checked_kinds("stop_on", [kind.strip() for kind in kinds])

    def total_steps(self, samples: int) -> int:
        """Number of steps of the run.

        Args:
            samples: Number of samples of the data set, at least `batch_size`.

        Returns:
            `steps`, or `epochs` times the full batches of an epoch.

        Example:
            >>> TrainConfig(epochs=2, batch_size=100).total_steps(1797)
            34
        """
        if self.steps is not None:
            return self.steps
        return typing.cast(int, self.epochs) * (samples // self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as plain values, fit for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> TrainConfig:
        """Make settings from plain values; what is not named keeps its default.

        Args:
            settings: Name to value, as `to_dict` gives them.

        Raises:
            TypeError: A value has a wrong type.
            ValueError: A name is unknown or a value is out of range.

        Example:
            >>> TrainConfig.from_dict({"wdith": 64})
            Traceback (most recent call last):
            ...
            ValueError: unknown setting 'wdith'; did you mean 'width'?
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
                raise ValueError(f"unknown setting {name!r}; {hint}")
        return cls(**settings)

    def _check_together(self) -> None:
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"steps, epochs: {self.steps} and {self.epochs} given, only one of them is wanted; "
                "set the other to None"
            )
        if self.optimizer == "adam" and self.momentum != 0:
            raise ValueError(
                f"momentum: {self.momentum} given, but adam has none; "
                'set momentum=0 or optimizer="sgd"'
            )
        if self.model == "vgg11" and self.depth != TrainConfig.depth:
            raise ValueError(
                f"depth: {self.depth} given, but vgg11 has its own number of layers; leave it out, "
                "or choose another model"
            )
        if self.model in ("rnn", "lstm"):
            if self.depth < 2:
                raise ValueError(
                    f"depth: {self.depth} given, at least 2 is wanted for {self.model}: a "
                    "recurrent layer and the output"
                )
            if self.probe and self.sites == "relu":
                raise ValueError(
                    f"sites: 'relu' given, but {self.model} has no such modules; watch its layers "
                    "by sites='recurrent.*'"
                )
            if self.batch_norm or self.inplace:
                raise ValueError(
                    f"{'batch_norm' if self.batch_norm else 'inplace'}: given, but {self.model} "
                    "has no ReLU modules; leave it out"
                )
        if self.tensorboard and not self.probe:
            raise ValueError("tensorboard: given, but probe=False makes no records; set probe=True")
        if self.budget is not None and not self.probe:
            raise ValueError("budget: given, but probe=False measures nothing; set probe=True")
        if self.stop_kinds and not self.probe:
            raise ValueError("stop_on: given, but probe=False makes no records; set probe=True")
        if self.batch_norm and self.batch_size == 1:
            raise ValueError(
                "batch_size: 1 given, batch_norm needs at least 2 samples per step; "
                "raise batch_size or set batch_norm=False"
            )
        if not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ValueError(f"device: {self.device!r} given, 'cpu', 'cuda' or 'cuda:N' is wanted")


def _checked(field: dataclasses.Field[Any], hint: Any, value: object) -> Any:
    """Return a value as the plain type of its field; numpy numbers and paths become plain."""
    kinds = typing.get_args(hint) or (hint,)
    if value is None and type(None) in kinds:
        return None
    name, kind = field.name, kinds[0]
    if kind is bool:
        if not isinstance(value, bool):
            raise TypeError(f"{name}: {value!r} given, True or False is wanted")
        return value
    if kind is str:
        return _checked_text(name, value, field.metadata["choices"])
    limits = field.metadata["limits"]
    if kind is int:
        if isinstance(value, bool) or not isinstance(value, SupportsIndex):
            raise TypeError(f"{name}: {value!r} given, an integer is wanted")
        return _within(name, operator.index(value), limits)
    if isinstance(value, (bool, str)) or not isinstance(value, SupportsFloat):
        raise TypeError(f"{name}: {value!r} given, a number is wanted")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name}: {number} given, a finite number is wanted")
    return _within(name, number, limits)


def _checked_text(name: str, value: object, choices: tuple[str, ...] | None) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name}: {value!r} given, a string is wanted")
    text = os.fspath(value)
    if not isinstance(text, str) or not text:
        raise ValueError(f"{name}: {text!r} given, a string that is not empty is wanted")
    if choices is not None and text not in choices:
        raise ValueError(f"{name}: {text!r} given, one of {', '.join(choices)} is wanted")
    return text


def _within(name: str, number: float, limits: Mapping[str, float | None]) -> float:
    tests = {
        "at_least": operator.ge,
        "above": operator.gt,
        "at_most": operator.le,
        "below": operator.lt,
    }
    for word, test in tests.items():
        limit = limits[word]
        if limit is not None and not test(number, limit):
            raise ValueError(f"{name}: {number} given, {word.replace('_', ' ')} {limit} is wanted")
    return number
