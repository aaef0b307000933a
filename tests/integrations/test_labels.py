from __future__ import annotations

from typing import Any

import pytest
import torch

from tfc_fast.integrations._callback import ProbeOwner
from tfc_fast.integrations._labels import find_labels
from tfc_fast.integrations._metrics import DEFAULT_COLUMNS, check_columns

Y = torch.tensor([1, 0, 2])
X = torch.randn(3, 4)


@pytest.mark.parametrize(
    "batch",
    [(X, Y), [X, Y, X], {"x": X, "labels": Y}, {"target": Y, "y": X}, {"labels": None, "y": Y}],
    ids=["pair", "list", "labels", "target", "none"],
)
def test_labels_are_found(batch: Any) -> None:
    assert find_labels(batch) is Y


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (X, "got Tensor"),
        ((X,), "got tuple"),
        ((X, X), r"batch\[1\], got torch.float32 of shape \[3, 4\]"),
        ({"labels": Y[None]}, r"batch\['labels'\], got torch.int64 of shape \[1, 3\]"),
        ({"x": X}, "one of labels, label, targets, target, y"),
        ("xy", "got str"),
    ],
)
def test_what_has_no_labels_is_told(batch: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^labels: wanted whole numbers .*{message}"):
        find_labels(batch)


@pytest.mark.parametrize("columns", [["feature_cos"], ["site"], ["loss"], "active_rate"])
def test_only_columns_of_numbers_can_be_logged(columns: Any) -> None:
    with pytest.raises(ValueError, match=r"^columns: "):
        check_columns(columns)
    assert check_columns(DEFAULT_COLUMNS) == DEFAULT_COLUMNS


@pytest.mark.parametrize("name", ["labels", "mask"])
def test_a_rule_is_a_function(name: str) -> None:
    rule: Any = {name: "attention_mask"}
    with pytest.raises(TypeError, match=rf"^{name}: wanted a function .* got 'attention_mask'"):
        ProbeOwner(**rule)
