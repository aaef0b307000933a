"""Synthetic clusters."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tfc_fast.data import load_dataset


def load(**options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    data = load_dataset("gaussian", standardize="none", **options)
    return data.inputs, data.labels


def test_sizes_and_balance() -> None:
    data = load_dataset("gaussian", num_classes=4, dim=7, samples=30)
    assert data.inputs.shape == (30, 7)
    assert data.shape == (7,)
    assert data.num_classes == 4
    assert torch.bincount(data.labels).tolist() == [8, 8, 7, 7]


def test_samples_come_in_random_order() -> None:
    labels = load(num_classes=2, samples=100)[1]
    assert labels.tolist() != [0, 1] * 50
    assert 10 < int((labels[1:] != labels[:-1]).sum()) < 90


def test_same_seed_same_bits_and_other_seed_other_data() -> None:
    first, again, other = load(seed=1), load(seed=1), load(seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_global_generator_is_left_alone() -> None:
    state = torch.get_rng_state()
    load_dataset("gaussian", label_noise=0.5)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("separation", [0.0, 2.0, 30.0])
def test_clusters_have_unit_variance_about_centres_at_the_separation(separation: float) -> None:
    inputs, labels = load(num_classes=3, dim=50, samples=6000, separation=separation)
    for label in range(3):
        cluster = inputs[labels == label].double()
        centre = cluster.mean(0)
        # The mean of 2000 samples is off by sqrt(50 / 2000) = 0.16 in length.
        assert float(centre.norm()) == pytest.approx(separation, abs=0.3)
        assert float((cluster - centre).var()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(
    ("separation", "low", "high"), [(0.0, 0.3, 0.7), (1, 0.5, 0.95), (6, 0.99, 1)]
)
def test_separation_sets_the_difficulty(separation: float, low: float, high: float) -> None:
    inputs, labels = load(num_classes=2, dim=10, samples=1000, separation=separation)
    centres = torch.stack([inputs[:500][labels[:500] == c].mean(0) for c in (0, 1)])
    nearest = torch.cdist(inputs[500:], centres).argmin(1)
    assert low <= float((nearest == labels[500:]).double().mean()) <= high


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dim": 0}, ValueError, "dim must be at least 1, got 0"),
        ({"samples": -1}, ValueError, "samples must be at least 1, got -1"),
        ({"samples": 2.5}, TypeError, "samples must be an integer, got 2.5"),
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1, got 0"),
        ({"num_classes": True}, TypeError, "num_classes must be an integer, got True"),
        ({"separation": -1.0}, ValueError, "separation must be a finite number at least 0, got -1"),
        ({"separation": float("inf")}, ValueError, "separation must be a finite number"),
        ({"separation": "4"}, TypeError, "separation must be a number, got '4'"),
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"folder": "/somewhere"}, ValueError, "folder has no meaning for 'gaussian'"),
        ({"sampels": 5}, ValueError, "unknown option 'sampels' .*: dim, samples, separation"),
    ],
)
def test_wrong_arguments(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_dataset("gaussian", **options)
