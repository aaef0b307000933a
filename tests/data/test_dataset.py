"""The data set itself, and data sets that a user adds by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tfc_fast.data import LOADERS, Dataset, RawData, load_dataset

GOOD: dict[str, Any] = {
    "inputs": torch.zeros(3, 4),
    "labels": torch.tensor([0, 2, 1]),
    "num_classes": 3,
}


def test_defaults_of_a_users_own_data() -> None:
    data = Dataset(**GOOD)
    assert (len(data), data.num_features, data.shape, data.name) == (3, 4, (4,), "custom")


def test_it_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Dataset(**GOOD).labels = torch.zeros(3)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"inputs": np.zeros((3, 4))}, TypeError, "inputs must be a torch.Tensor, got ndarray"),
        ({"inputs": torch.zeros(3, 4).double()}, TypeError, r"inputs .*float32, got torch.float64"),
        ({"inputs": torch.zeros(3, 2, 2)}, ValueError, r"inputs .* \[n, d\] .*, got \[3, 2, 2\]"),
        ({"inputs": torch.zeros(0, 4)}, ValueError, r"inputs .* not be empty, got \[0, 4\]"),
        ({"inputs": torch.full((3, 4), torch.nan)}, ValueError, "inputs hold NaN or infinite"),
        ({"labels": torch.zeros(3)}, TypeError, r"labels must be torch.int64, got torch.float32"),
        ({"labels": torch.zeros(3, 1).long()}, ValueError, r"labels .* \[n\] .*, got \[3, 1\]"),
        ({"labels": torch.tensor([0, 1])}, ValueError, "equally long, got 3 and 2"),
        ({"labels": torch.tensor([0, 3, 1])}, ValueError, "from 0 to 2 .*, got 0 to 3"),
        (
            {"labels": torch.tensor([0, -1, 1])},
            ValueError,
            "labels must not be negative, got -1 to 1",
        ),
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1, got 0"),
        ({"num_classes": 3.0}, TypeError, "num_classes must be an integer, got 3.0"),
        ({"shape": (1, 3)}, ValueError, r"shape must have 4 elements, .*, got \(1, 3\)"),
    ],
)
def test_wrong_fields(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Dataset(**{**GOOD, **change})


@pytest.mark.parametrize("name", ["imagenet", "Digits", ""])
def test_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown data set '{name}'; known are") as caught:
        load_dataset(name)
    assert all(known in str(caught.value) for known in LOADERS)
    assert set(LOADERS) >= {"digits", "mnist", "fashion-mnist", "cifar10", "gaussian", "npz"}


def test_loader_added_by_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def load_mine(*, folder: Path | None, seed: int, rows: int = 2) -> RawData:
        given.update(folder=folder, seed=seed, rows=rows)
        return RawData(np.eye(rows), np.arange(rows), rows, "unit vectors", "mine")

    monkeypatch.setitem(LOADERS, "mine", load_mine)
    data = load_dataset("mine", folder="~/data", seed=4, rows=3, standardize="none")
    assert given == {"folder": Path("~/data").expanduser(), "seed": 4, "rows": 3}
    assert torch.equal(data.inputs, torch.eye(3))
    assert (data.name, data.description) == ("mine", "unit vectors")
    with pytest.raises(ValueError, match=r"unknown option 'row' for 'mine'.*: rows"):
        load_dataset("mine", row=3)


def test_loader_that_returns_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOADERS, "mine", lambda: np.eye(2))
    with pytest.raises(TypeError, match="loader of 'mine' must return RawData, got ndarray"):
        load_dataset("mine")


def test_wrong_settings_are_found_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_slowly() -> RawData:
        raise AssertionError("read although a setting is wrong")

    monkeypatch.setitem(LOADERS, "slow", load_slowly)
    for setting in ({"label_noise": 2}, {"standardize": "?"}, {"seed": -1}, {"num_classes": 0}):
        with pytest.raises(ValueError, match=next(iter(setting))):
            load_dataset("slow", **setting)
