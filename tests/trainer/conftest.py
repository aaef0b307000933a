from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tfc_fast.run_directory import RunDirectory
from tfc_fast.trainer import TrainConfig, load_checkpoint

SMALL = {
    "dataset": "gaussian",
    "samples": 230,
    "dim": 12,
    "num_classes": 4,
    "separation": 3.0,
    "depth": 4,
    "width": 16,
    "gain": 0.7,
    "batch_size": 20,
    "checkpoint_every": 25,
    "threads": 1,
}


@pytest.fixture(autouse=True)
def _restore_rng() -> Iterator[None]:
    state = torch.get_rng_state()
    yield
    torch.set_rng_state(state)


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., TrainConfig]:
    """Settings of a run of milliseconds; `out` is a name in the folder of the test."""

    def make(out: str = "run", **settings: Any) -> TrainConfig:
        return TrainConfig(**{**SMALL, "out": tmp_path / out, **settings})

    return make


@pytest.fixture
def small_flags() -> list[str]:
    """The same settings for the command line."""
    return [
        text
        for name, value in SMALL.items()
        for text in ("--" + name.replace("_", "-"), str(value))
    ]


@pytest.fixture
def assert_same_run() -> Callable[..., None]:
    """Compares all that two runs computed, bit for bit; times are theirs."""

    def compare(first: RunDirectory, second: RunDirectory, *, probed: bool = True) -> None:
        log, other_log = first.read_train(), second.read_train()
        for name in ("step", "loss", "accuracy", "lr"):
            np.testing.assert_array_equal(log[name], other_log[name], err_msg=name)
        assert len(log["step"]) > 0
        a = load_checkpoint(first.checkpoint_path)
        b = load_checkpoint(second.checkpoint_path)
        assert a.step == b.step
        assert_same(a.model, b.model)
        assert_same(a.optimizer, b.optimizer)
        assert_same(a.rng, b.rng)
        if probed:
            assert_same(a.probe, b.probe)
            records, other = first.read_metrics(), second.read_metrics()
            assert len(records["step"]) > 0
            for name, column in records.items():
                np.testing.assert_array_equal(column, other[name], err_msg=name)

    return compare


def assert_same(a: Any, b: Any) -> None:
    """Equality of nested dicts and lists; of tensors bit for bit."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype
        assert a.shape == b.shape
        assert a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()
    else:
        assert a == b
