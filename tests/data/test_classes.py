"""Fewer classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tfc_fast.data import RawData, load_dataset
from tfc_fast.data.classes import first_classes


def raw(labels: list[int]) -> RawData:
    return RawData(np.eye(len(labels)), np.array(labels), 4, "corners", "an example")


def test_samples_of_the_first_classes_stay_in_order() -> None:
    kept = first_classes(raw([3, 0, 2, 1, 0]), 2)
    assert kept.labels.tolist() == [0, 1, 0]
    assert kept.num_classes == 2
    np.testing.assert_array_equal(kept.inputs, np.eye(5)[[1, 3, 4]])
    assert kept.description == "corners; the first 2 classes"


def test_all_classes_are_the_same_data() -> None:
    some, every = (load_dataset("digits", classes=classes) for classes in (10, None))
    assert torch.equal(some.inputs, every.inputs)
    assert torch.equal(some.labels, every.labels)


def test_what_is_standardised_is_what_stays() -> None:
    data = load_dataset("digits", classes=3)
    assert (data.num_classes, data.shape, int(data.labels.max())) == (3, (1, 8, 8), 2)
    torch.testing.assert_close(data.inputs.mean(0), torch.zeros(64), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("classes", "message"),
    [(1, "classes must be at least 2, got 1"), (11, "classes must be at most 10, .*, got 11")],
)
def test_a_wrong_number_is_named(classes: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_dataset("digits", classes=classes)


def test_classes_without_a_sample_are_refused() -> None:
    with pytest.raises(ValueError, match="no sample of the first 2 classes"):
        first_classes(raw([3, 2]), 2)
