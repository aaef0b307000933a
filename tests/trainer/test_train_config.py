from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfc_fast.trainer import TrainConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 0}, "depth: 0 given, at least 1"),
        ({"width": -3}, "width: -3 given, at least 1"),
        ({"gain": 0.0}, r"gain: 0\.0 given, above 0"),
        ({"gain": float("nan")}, "gain: nan given, a finite number"),
        ({"lr": 0}, r"lr: 0\.0 given, above 0"),
        ({"momentum": 1.0}, r"momentum: 1\.0 given, below 1"),
        ({"label_noise": 1.5}, r"label_noise: 1\.5 given, at most 1"),
        ({"optimizer": "rmsprop"}, "optimizer: 'rmsprop' given, one of sgd, adam"),
        ({"loss": "hinge"}, "loss: 'hinge' given, one of cross_entropy, mse"),
        ({"standardize": "row"}, "standardize: 'row' given, one of feature, global, none"),
        ({"device": "gpu"}, "device: 'gpu' given, 'cpu', 'cuda' or 'cuda:N'"),
        ({"steps": 10, "epochs": 2}, "steps, epochs: 10 and 2 given, only one"),
        ({"optimizer": "adam", "momentum": 0.9}, "momentum: 0.9 given, but adam has none"),
        ({"batch_norm": True, "batch_size": 1}, "batch_size: 1 given, batch_norm needs"),
        ({"probe": False, "tensorboard": True}, "tensorboard: given, but probe=False"),
        ({"model": "vgg"}, "model: 'vgg' given, one of mlp, vgg11, rnn, lstm"),
        ({"model": "vgg11", "depth": 5}, "depth: 5 given, but vgg11 has its own number of layers"),
        ({"model": "rnn", "depth": 1}, "depth: 1 given, at least 2 is wanted for rnn"),
        ({"model": "lstm"}, r"sites: 'relu' given, but lstm has no such .* sites='recurrent"),
        (
            {"model": "lstm", "sites": "recurrent.*", "batch_norm": True},
            "batch_norm: given, but lstm has no ReLU",
        ),
        ({"classes": 1}, "classes: 1 given, at least 2"),
        ({"seed": -1}, "seed: -1 given, at least 0"),
        ({"out": ""}, "out: '' given"),
    ],
)
def test_a_bad_value_is_named_with_what_is_wanted(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 2.5}, r"depth: 2\.5 given, an integer"),
        ({"depth": True}, "depth: True given, an integer"),
        ({"lr": "fast"}, "lr: 'fast' given, a number"),
        ({"batch_norm": 1}, "batch_norm: 1 given, True or False"),
        ({"dataset": 3}, "dataset: 3 given, a string"),
    ],
)
def test_a_wrong_type_is_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        TrainConfig(**settings)  # type: ignore[arg-type]


def test_numbers_and_paths_become_plain_values_fit_for_json() -> None:
    config = TrainConfig(depth=np.int64(3), lr=np.float32(0.5), out=Path("a/b"))  # type: ignore[arg-type]
    assert (config.depth, config.lr, config.out) == (3, 0.5, "a/b")
    json.dumps(config.to_dict())


def test_to_dict_and_from_dict_are_inverse() -> None:
    config = TrainConfig(depth=3, optimizer="adam", lr=1e-3, epochs=4, out="x", sites="hidden.*")
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_from_dict_names_an_unknown_setting() -> None:
    with pytest.raises(ValueError, match="unknown setting 'wdith'; did you mean 'width'"):
        TrainConfig.from_dict({"wdith": 3})


def test_length_is_steps_or_epochs_of_full_batches() -> None:
    assert TrainConfig().steps == 1500
    assert TrainConfig(steps=7).total_steps(1000) == 7
    assert TrainConfig(epochs=3, batch_size=100).total_steps(250) == 6
    assert TrainConfig(epochs=3).steps is None


def test_every_setting_has_a_help_and_cannot_be_changed() -> None:
    for field in dataclasses.fields(TrainConfig):
        assert field.metadata["help"], field.name
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().depth = 3  # type: ignore[misc]


def test_folder_has_a_name_made_of_the_settings_unless_given() -> None:
    assert TrainConfig(depth=3, seed=5).run_path == "runs/digits-depth3-width256-seed5"
    assert TrainConfig(out="here").run_path == "here"
    # Networks of one size are not one run.
    sizes: dict[str, Any] = {"width": 8, "sites": "a.*"}
    assert TrainConfig(model="vgg11", **sizes).run_path == "runs/digits-vgg11-width8-seed0"
    assert TrainConfig(model="rnn", **sizes).run_path == "runs/digits-rnn-depth7-width8-seed0"
    names = {TrainConfig(model=name, **sizes).run_path for name in ("mlp", "vgg11", "rnn", "lstm")}
    assert len(names) == 4


def test_events_to_stop_on_are_checked() -> None:
    assert TrainConfig(stop_on="stuck, nonfinite").stop_kinds == ("stuck", "nonfinite")
    assert TrainConfig().stop_kinds == ()
    with pytest.raises(ValueError, match=r"stop_on.*'late'.*recovered"):
        TrainConfig(stop_on="late")
    with pytest.raises(ValueError, match=r"stop_on.*probe=True"):
        TrainConfig(stop_on="stuck", probe=False)


def test_a_budget_is_a_share_and_needs_the_probe() -> None:
    assert TrainConfig(budget=0.01).budget == 0.01
    with pytest.raises(ValueError, match=r"budget: 1.0 given, below 1 is wanted"):
        TrainConfig(budget=1)
    with pytest.raises(ValueError, match=r"budget: .*probe=True"):
        TrainConfig(budget=0.01, probe=False)


def test_threads_have_a_limit() -> None:
    with pytest.raises(ValueError, match="threads: 100000 given, at most 1024 is wanted"):
        TrainConfig(threads=100_000)
