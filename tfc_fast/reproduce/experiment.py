"""What an experiment is: settings that are trained, and a claim that is judged by the runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from tfc_fast.reproduce.measurement import Measurement

__all__ = ["Experiment", "Judgement", "Setting"]


@dataclass(frozen=True)
class Setting:
    """One setting of an experiment, trained with every seed.

    Attributes:
        label: As it is shown.
        steps: Steps of a run: more than its first phase takes, if it ends at all.
        changes: Settings of `TrainConfig` that differ from its defaults.
        value: Where it stands on the axis of the knob.
        quick: Whether it is part of the quick version.
        observer: What looks at it while it trains: a name in `observation.OBSERVERS`, or None.
    """

    label: str
    steps: int
    changes: Mapping[str, Any] = field(default_factory=dict)
    value: float = 0.0
    quick: bool = True
    observer: str | None = None


@dataclass(frozen=True)
class Judgement:
    """Whether a claim holds in the runs at hand.

    Attributes:
        holds: The verdict, by the rule that the experiment states.
        evidence: Sentences with the numbers that it rests on.
        effect: Numbers by name: effect sizes and what they are made of.
    """

    holds: bool
    evidence: tuple[str, ...]
    effect: dict[str, float | None]


@dataclass(frozen=True)
class Experiment(ABC):
    """One finding of the paper.

    Attributes:
        name: As the command line knows it.
        title: A few words.
        claim: What the paper says, in one sentence.
        settings: All settings, in the order of tables and pictures.
    """

    name: str
    title: str
    claim: str
    settings: tuple[Setting, ...]

    @property
    @abstractmethod
    def rule(self) -> str:
        """When the claim counts as holding."""

    @abstractmethod
    def judge(self, runs: Sequence[Measurement]) -> Judgement:
        """Judge the claim by runs of the settings, several seeds of each."""

    @abstractmethod
    def figure(self, runs: Sequence[Measurement]) -> Figure:
        """Show what the judgement rests on."""
