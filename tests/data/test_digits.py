"""The digits of scikit-learn."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from sklearn import datasets

from tfc_fast.data import load_dataset


def test_pixels_and_labels_are_those_of_scikit_learn() -> None:
    bunch = datasets.load_digits()
    data = load_dataset("digits", standardize="none")
    np.testing.assert_array_equal(data.inputs.numpy(), bunch.data.astype(np.float32))
    np.testing.assert_array_equal(data.labels.numpy(), bunch.target)
    assert (data.num_classes, data.shape, data.name) == (10, (1, 8, 8), "digits")


def test_standardised_features() -> None:
    raw = datasets.load_digits().data
    constant = raw.min(axis=0) == raw.max(axis=0)
    assert constant.sum() == 3  # three pixels of the border never carry ink
    inputs = load_dataset("digits").inputs
    assert inputs.dtype == torch.float32
    values = inputs.double().numpy()
    assert (values[:, constant] == 0).all()
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-7)
    np.testing.assert_allclose(values[:, ~constant].var(axis=0), 1, atol=1e-6)


def test_standardisation_is_that_of_float64() -> None:
    raw = datasets.load_digits().data
    scale = raw.std(axis=0)
    expected = (raw - raw.mean(axis=0)) / np.where(scale > 0, scale, 1)
    # Within one rounding of float32 of the float64 result.
    np.testing.assert_allclose(load_dataset("digits").inputs.numpy(), expected, rtol=2.0**-23)


def test_missing_scikit_learn_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"needs scikit-learn: pip install 'tfc_fast\[train\]'"):
        load_dataset("digits")


def test_it_has_no_options() -> None:
    with pytest.raises(ValueError, match=r"unknown option 'split' for 'digits'.*: none"):
        load_dataset("digits", split="test")
