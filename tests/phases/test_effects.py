from __future__ import annotations

import json
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfc_fast.phases import advice, analyze, effects, remedies
from tfc_fast.phases.effects import EFFECTS_PATH, applies, effects_source
from tfc_fast.trainer import TrainConfig

MARKS = {
    "batch_norm": "batch normalisation before",
    "gain": "larger variance",
    "momentum": "with momentum",
    "lr": "larger learning rate",
    "depth": "fewer layers",
    "weight_decay": "L2 penalty",
}


def told(settings: dict[str, object] | None) -> list[str]:
    """Which settings the advice is about, in its order."""
    return [
        next(name for name, mark in MARKS.items() if mark in sentence)
        for sentence in advice(settings)
    ]


def test_file_agrees_with_itself() -> None:
    stored = json.loads(EFFECTS_PATH.read_text())
    assert {each["setting"] for each in stored["effects"]} == MARKS.keys()
    for each in stored["effects"]:
        for which in ("", "baseline_"):
            lengths = [math.inf if n is None else n for n in each[f"{which}each"]]
            assert len(lengths) >= 5
            median = statistics.median(lengths)
            assert each[f"{which}steps"] == (median if math.isfinite(median) else None)
    assert "tfc-fast reproduce" in effects_source()


def test_effects_are_sorted_and_of_several_seeds() -> None:
    ratios = [effect.ratio for effect in effects()]
    assert ratios == sorted(ratios)
    assert all("seeds" in effect.source for effect in effects())


def test_advice_is_ranked_by_effect_and_quotes_it() -> None:
    order = told(None)
    assert set(order) == set(MARKS)
    best: dict[str, float] = {}
    for effect in effects():
        if effect.setting != "depth":
            best.setdefault(effect.setting, effect.ratio)
    helping = [name for name in order if name in best and name != "weight_decay"]
    assert helping == sorted(helping, key=best.__getitem__)
    momentum = next(effect for effect in effects() if effect.setting == "momentum")
    sentence = next(each for each in advice() if "with momentum" in each)
    assert f"first phase {momentum.steps:,.0f} instead of" in sentence
    stored = json.loads(EFFECTS_PATH.read_text())["effects"]
    seeds = len(next(each for each in stored if each["setting"] == "momentum")["each"])
    assert sentence.endswith(f"steps (digits, 7 linear layers, {seeds} seeds).")


def test_what_lengthens_the_phase_is_no_remedy() -> None:
    weight_decay = [effect for effect in effects() if effect.setting == "weight_decay"]
    assert min(effect.ratio for effect in weight_decay) > 1.0  # else the words have to change
    assert told(None)[-1] == "weight_decay"
    assert advice()[-1].startswith("Do not expect help of an L2 penalty")
    with_penalty = advice({"weight_decay": 0.01})
    assert not with_penalty[-1].startswith("Try less L2")
    assert any(sentence.startswith("Try less L2 penalty") for sentence in with_penalty)


@pytest.mark.parametrize(
    ("settings", "left_out"),
    [
        ({"batch_norm": True}, {"batch_norm", "gain"}),
        ({"gain": 1.0}, {"gain"}),
        ({"momentum": 0.9}, {"momentum"}),
        ({"optimizer": "adam"}, {"momentum", "lr"}),
        ({"depth": 3}, {"depth"}),
        ({"model": "rnn"}, {"batch_norm"}),
        ({"model": "lstm"}, {"batch_norm"}),
        ({"model": "vgg11"}, {"depth"}),
        ({"batch_size": 1}, {"batch_norm"}),
        ({"batch_norm": False, "gain": 0.41, "momentum": 0.0, "depth": 9}, set()),
    ],
)
def test_what_the_run_has_is_left_out(settings: dict[str, object], left_out: set[str]) -> None:
    assert set(told(settings)) == MARKS.keys() - left_out


@pytest.fixture
def other_effects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Effects where neither the defaults nor some of the remedies came to an end of the phase."""
    stored = json.loads(EFFECTS_PATH.read_text())
    for each in stored["effects"]:
        each |= {"baseline_steps": None, "baseline_each": [None] * 3}
        if each["setting"] in ("momentum", "depth", "weight_decay"):
            each |= {"steps": None, "each": [None] * 2}
    path = tmp_path / "effects.json"
    path.write_text(json.dumps(stored))
    effects.cache_clear()
    # The module, which the function of its package hides.
    monkeypatch.setattr(sys.modules["tfc_fast.phases.effects"], "EFFECTS_PATH", path)
    yield
    effects.cache_clear()


@pytest.mark.usefixtures("other_effects")
def test_what_is_not_known_is_left_out() -> None:
    assert {effect.setting for effect in effects()} == {"gain", "batch_norm", "lr"}
    assert sorted(told(None)) == ["batch_norm", "gain", "lr"]


@pytest.mark.usefixtures("other_effects")
def test_seeds_are_those_of_the_experiment() -> None:
    five = len(json.loads(EFFECTS_PATH.read_text())["effects"][0]["each"])
    assert all(effect.source.endswith(f", 3 to {five} seeds") for effect in effects())
    assert f"; 2 to {five} seeds; " in effects_source()


@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 1}, {"optimizer": "adam"}, {"model": "vgg11"}]
    + [{"model": model, "sites": "recurrent.*"} for model in ("rnn", "lstm")],
)
def test_what_applies_can_be_trained(settings: dict[str, Any]) -> None:
    known = TrainConfig(**settings).to_dict()
    for effect in effects():
        if applies(effect.setting, effect.value, known):
            TrainConfig(**{**settings, effect.setting: effect.value})


def test_remedies_know_the_settings() -> None:
    stuck = analyze(np.full(400, 2.3), None)
    assert remedies(stuck) == advice()
    assert remedies(stuck, {"batch_norm": True}) == advice({"batch_norm": True})
    assert remedies(analyze([2.3], None), {"batch_norm": True}) == []
