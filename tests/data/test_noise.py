"""Label noise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tfc_fast.data import load_dataset
from tfc_fast.data.noise import noisy_labels

LABELS = np.zeros(20_000, dtype=np.int64)


def noisy(fraction: float, seed: int = 0, num_classes: int = 10) -> Any:
    return noisy_labels(LABELS, fraction, num_classes=num_classes, seed=seed)


def test_no_noise_changes_nothing_and_copies() -> None:
    labels = np.arange(5)
    result = noisy_labels(labels, 0.0, num_classes=5, seed=0)
    np.testing.assert_array_equal(result, np.arange(5))
    result[0] = 4
    assert labels[0] == 0


def test_labels_given_are_left_as_they_are() -> None:
    noisy(1.0)
    assert (LABELS == 0).all()


@pytest.mark.parametrize("fraction", [0.1, 0.5, 1.0])
def test_drawn_labels_are_uniform_over_all_classes(fraction: float) -> None:
    counts = np.bincount(noisy(fraction), minlength=10)
    drawn = fraction * len(LABELS)
    # Five standard deviations of a count of a class.
    slack = 5 * np.sqrt(drawn * 0.1 * 0.9)
    np.testing.assert_allclose(counts[1:], drawn / 10, atol=slack)
    assert counts[0] == pytest.approx(len(LABELS) - 0.9 * drawn, abs=slack)


@pytest.mark.parametrize(("fraction", "chosen"), [(0.3, 3), (0.04, 0), (0.06, 1), (1.0, 10)])
def test_number_of_chosen_samples_is_rounded(fraction: float, chosen: int) -> None:
    # Labels that are never drawn show which samples were chosen.
    result = noisy_labels(np.full(10, -1), fraction, num_classes=3, seed=4)
    assert np.count_nonzero(result != -1) == chosen


def test_seed_fixes_the_noise() -> None:
    np.testing.assert_array_equal(noisy(0.3, seed=7), noisy(0.3, seed=7))
    assert (noisy(0.3, seed=7) != noisy(0.3, seed=8)).any()


def test_more_noise_contains_less_noise() -> None:
    less, more = noisy(0.2), noisy(0.6)
    np.testing.assert_array_equal(more[less != 0], less[less != 0])


def test_one_class_is_always_the_true_one() -> None:
    assert (noisy(1.0, num_classes=1) == 0).all()


def test_loaded_labels_are_noisy_and_described() -> None:
    clean = load_dataset("gaussian", samples=1000)
    data = load_dataset("gaussian", samples=1000, label_noise=0.5)
    assert (data.inputs == clean.inputs).all()
    assert 0.35 < float((data.labels != clean.labels).double().mean()) < 0.55
    assert "label noise 0.5" in data.description
    assert "noise" not in clean.description


@pytest.mark.parametrize("fraction", [-0.1, 1.001, 2, float("nan"), float("inf")])
def test_fraction_out_of_range(fraction: float) -> None:
    with pytest.raises(ValueError, match="label_noise must be a finite number from 0 to 1, got"):
        load_dataset("gaussian", label_noise=fraction)


@pytest.mark.parametrize("fraction", ["0.1", True, None])
def test_fraction_that_is_no_number(fraction: Any) -> None:
    with pytest.raises(TypeError, match="label_noise must be a number, got"):
        load_dataset("gaussian", label_noise=fraction)
