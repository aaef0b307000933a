"""Copies of a probed model (deepcopy, pickle, a file) have the same keys and are not attached."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from small_models import CLASSES, build
from torch import nn

from tfc_fast import Probe

COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": lambda model: _through_file(model),
}


def test_state_dict_keys_stay() -> None:
    model = build()
    keys = list(model.state_dict())
    with Probe(model, num_classes=CLASSES):
        assert list(model.state_dict()) == keys
        build().load_state_dict(model.state_dict())


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_is_not_attached(name: str) -> None:
    model = build()
    with Probe(model) as probe:
        other = COPIES[name](model)
        assert [type(module) for module in other] == [type(module) for module in build()]
        assert list(other.state_dict()) == list(model.state_dict())
        other(torch.ones(3, 6)).sum().backward()
        model(torch.ones(3, 6)).sum().backward()
        probe.step()
        with Probe(other) as second:
            other(torch.ones(5, 6)).sum().backward()
            second.step()
    assert probe.history()["n_rows"].tolist() == [3, 3]
    assert second.history()["n_rows"].tolist() == [5, 5]


def _through_file(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert isinstance(loaded, nn.Module)
    return loaded
