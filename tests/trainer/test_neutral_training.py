from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tfc_fast.trainer import TrainConfig, Trainer


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"momentum": 0.9, "inplace": True, "weight_decay": 1e-3},
        {"optimizer": "adam", "lr": 1e-3, "bias": True},
        {"batch_norm": True, "loss": "mse", "every": 2},
    ],
    ids=["sgd", "momentum in-place", "adam", "batch norm"],
)
def test_training_with_and_without_the_probe_is_bitwise_identical(
    small: Callable[..., TrainConfig],
    assert_same_run: Callable[..., None],
    settings: dict[str, Any],
    threads: int,
) -> None:
    common = {"steps": 200, "width": 48, "threads": threads, **settings}
    probed = Trainer(small("probed", **common)).fit()
    plain = Trainer(small("plain", probe=False, **common)).fit()
    assert_same_run(probed.run_directory, plain.run_directory, probed=False)
    assert len(probed.run_directory.read_metrics()["step"]) > 0


# torch's own, when it loads its compiler.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_a_compiled_model_trains_bitwise_the_same_with_the_probe(
    small: Callable[..., TrainConfig], assert_same_run: Callable[..., None]
) -> None:
    common = {"steps": 200, "depth": 3, "compile": True}
    probed = Trainer(small("probed", **common)).fit()
    plain = Trainer(small("plain", probe=False, **common)).fit()
    assert_same_run(probed.run_directory, plain.run_directory, probed=False)
    assert set(probed.run_directory.read_metrics()["site"]) == {"hidden.0.relu", "hidden.1.relu"}
