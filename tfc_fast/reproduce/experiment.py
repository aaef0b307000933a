"""What an experiment is: settings that are trained, and a claim that is judged by the runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

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


class Experiment(Protocol):
    """One finding of the paper."""

    @property
    def name(self) -> str:
        """As the command line knows it."""

    @property
    def title(self) -> str:
        """A few words."""

    @property
    def claim(self) -> str:
        """What the paper says, in one sentence."""

    @property
    def rule(self) -> str:
        """When the claim counts as holding."""

    @property
    def settings(self) -> tuple[Setting, ...]:
        """All settings, in the order of tables and pictures."""

    def judge(self, runs: Sequence[Measurement]) -> Judgement:
        """Judge the claim by runs of the settings, several seeds of each."""

    def figure(self, runs: Sequence[Measurement]) -> Figure:
        """Show what the judgement rests on."""
