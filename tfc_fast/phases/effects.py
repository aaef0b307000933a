"""What to try, by the measured effect of each remedy on the length of the first phase."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["EFFECTS_PATH", "Effect", "advice", "applies", "effects", "effects_source"]

EFFECTS_PATH = Path(__file__).with_name("effects.json")
"""The measured effects; `python -m tfc_fast.reproduce.effects` writes them."""


@dataclass(frozen=True)
class Effect:
    """What one setting did to the first phase, all others left alone.

    Attributes:
        setting: Name of the setting of `TrainConfig`.
        value: What it was set to.
        baseline_value: What it is in the runs that this is compared with.
        steps: Median length of the first phase with it; infinite if it did not end.
        baseline_steps: The same without it.
        source: Data, network and number of seeds of both.
    """

    setting: str
    value: float
    baseline_value: float
    steps: float
    baseline_steps: float
    source: str

    @property
    def ratio(self) -> float:
        """Length with it as a multiple of the length without: below 1 it helps.

        NaN if it is not known: neither phase ended, or there was none without it.
        """
        return self.steps / self.baseline_steps if self.baseline_steps else math.nan

    @property
    def sentence(self) -> str:
        """What was measured, in words."""
        verb = _MEASURED[self.setting].format(value=self.value, before=self.baseline_value)
        return (
            f"{verb}: first phase {_steps(self.steps)} instead of {_steps(self.baseline_steps)} "
            f"steps ({self.source})"
        )


@functools.cache
def effects() -> tuple[Effect, ...]:
    """All effects that could be measured, the one that shortens the first phase most first.

    Example:
        >>> effects()[0].ratio < 1 < effects()[-1].ratio
        True
    """
    stored = json.loads(EFFECTS_PATH.read_text())
    found = [
        Effect(
            each["setting"],
            each["value"],
            each["baseline_value"],
            _or_infinite(each["steps"]),
            _or_infinite(each["baseline_steps"]),
            _source(each, stored),
        )
        for each in stored["effects"]
    ]
    # Where neither phase ended, nothing is known.
    known = [effect for effect in found if not math.isnan(effect.ratio)]
    return tuple(sorted(known, key=lambda effect: effect.ratio))


def effects_source() -> str:
    """On what the effects were measured, and by which command."""
    stored = json.loads(EFFECTS_PATH.read_text())
    seeds = _seeds(*stored["effects"])
    return (
        f"{stored['dataset']}, {stored['network']}; {stored['training']}; {seeds}; "
        f"{stored['command']}"
    )


def advice(settings: Mapping[str, Any] | None = None) -> list[str]:
    """What to try, the largest measured effect first.

    Of each remedy the dose with the largest effect is quoted (of depth the smallest change). What
    lengthens the first phase comes last and says so.

    Args:
        settings: Those of the run, by the names of `TrainConfig`; what it has already, or cannot
            have, is left out. None: they are not known, and all is told.

    Returns:
        Sentences, each with the effect that it rests on.

    Example:
        >>> advice()[0].partition(" Measured")[0]
        'Add batch normalisation before each ReLU.'
        >>> any("batch norm" in each for each in advice({"batch_norm": True}))
        False
    """
    best: dict[str, Effect] = {}
    for effect in effects():
        # The smallest change of depth is the last that still shortens the phase.
        if effect.setting not in best or (effect.setting == "depth" and effect.ratio < 1.0):
            best[effect.setting] = effect
    known = settings or {}
    told: list[tuple[float, str]] = []
    for name, effect in best.items():
        # The effect of the learning rate was measured with sgd, and says nothing about adam.
        is_unknown = name == "lr" and known.get("optimizer") == "adam"
        if is_unknown or not applies(name, effect.value, known):
            continue
        words, rank = _ADVICE[name].format(value=effect.value), effect.ratio
        if name == "weight_decay":
            strongest = max(
                (each for each in effects() if each.setting == name), key=lambda each: each.ratio
            )
            words, rank, effect = _weight_decay_advice(strongest, known)
        told.append((rank, f"{words} Measured: {effect.sentence}."))
    return [sentence for _, sentence in sorted(told, key=lambda pair: pair[0])]


def applies(setting: str, value: float, settings: Mapping[str, Any]) -> bool:
    """Whether a run does not have a remedy yet, and can have it.

    Args:
        setting: What is changed, a name of `TrainConfig`.
        value: To what.
        settings: Those of the run, as far as they are known.

    Example:
        >>> applies("batch_norm", True, {"model": "mlp"}), applies("depth", 5, {"depth": 3})
        (True, False)
    """
    now, model = settings.get(setting), settings.get("model")
    if setting == "batch_norm":
        # It wants two samples to normalise, and a ReLU to stand before.
        return not now and model not in ("rnn", "lstm") and settings.get("batch_size") != 1
    if setting == "gain":
        # With batch normalisation the size of the weights has no say in the features.
        return not settings.get("batch_norm") and (now is None or now < value)
    if setting == "momentum":
        return settings.get("optimizer") != "adam" and (now is None or now < value)
    if setting == "depth":
        return model != "vgg11" and (now is None or now > value)
    return True


def _weight_decay_advice(effect: Effect, settings: Mapping[str, Any]) -> tuple[str, float, Effect]:
    if effect.ratio < 1.0:
        return "Add an L2 penalty on the weights.", effect.ratio, effect
    if settings.get("weight_decay"):
        return "Try less L2 penalty on the weights.", 1.0 / effect.ratio, effect
    return (
        "Do not expect help of an L2 penalty, though the paper counts it among the remedies.",
        effect.ratio,
        effect,
    )


def _steps(length: float) -> str:
    return f"{length:,.0f}" if math.isfinite(length) else "unending"


def _or_infinite(value: float | None) -> float:
    return math.inf if value is None else float(value)


def _source(effect: Mapping[str, Any], stored: Mapping[str, Any]) -> str:
    layers = "" if effect["setting"] == "depth" else f"{stored['network'].split(' of ')[0]}, "
    return f"{stored['dataset']}, {layers}{_seeds(effect)}"


def _seeds(*effects: Mapping[str, Any]) -> str:
    """How many runs are behind each median."""
    counts = {len(each[name]) for each in effects for name in ("each", "baseline_each")}
    low, high = min(counts), max(counts)
    return f"{high} seeds" if low == high else f"{low} to {high} seeds"


_ADVICE = {
    "batch_norm": "Add batch normalisation before each ReLU.",
    "gain": (
        "Draw the initial weights with a larger variance ({value:g} of He's standard deviation, "
        "or more)."
    ),
    "momentum": "Train with momentum ({value:g}).",
    "lr": "Train with a larger learning rate.",
    "depth": "Use fewer layers.",
    "weight_decay": "Change the L2 penalty on the weights.",
}

_MEASURED = {
    "batch_norm": "batch normalisation",
    "gain": "initial weights of {value:g} instead of {before:g}",
    "momentum": "momentum {value:g}",
    "lr": "learning rate {value:g} instead of {before:g}",
    "depth": "{value:g} instead of {before:g} linear layers",
    "weight_decay": "weight decay {value:g}",
}
