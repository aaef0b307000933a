"""ReLU as a function in a forward: a tap around it, or a site that names the module it is in."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from by_hand import assert_record, row
from small_models import CLASSES, batch, build, one_step, random_batch
from torch import Tensor, nn

from tfc_fast import Probe, tap


class Functional(nn.Module):
    """The model of `small_models.build`, with functions in the place of modules."""

    def __init__(self, relu: Callable[[Tensor], Tensor], *, taps: bool) -> None:
        super().__init__()
        self.layers = build()
        self.relu = relu
        self.first = _Block(self.layers[0], relu)
        self.taps = taps

    def forward(self, x: Tensor) -> Tensor:
        if not self.taps:
            return self.layers[4](self.relu(self.layers[2](self.first(x))))
        x = tap(self.relu(self.layers[0](x)), "1")
        x = tap(self.relu(self.layers[2](x)), "3")
        return self.layers[4](x)


class _Block(nn.Module):
    def __init__(self, linear: nn.Module, relu: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.relu = linear, relu

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.linear(x))


@pytest.mark.parametrize("relu", [F.relu, torch.relu, Tensor.relu, torch.relu_])
@pytest.mark.parametrize("taps", [True, False], ids=["tap", "named"])
def test_records_are_those_of_a_module(relu: Callable[[Tensor], Tensor], taps: bool) -> None:
    x, y = batch()
    expected = one_step(build(), x, y)
    model = Functional(relu, taps=taps)
    with Probe(model, sites=[] if taps else ["first"], num_classes=CLASSES) as probe:
        probe.batch(labels=y)
        F.cross_entropy(model(x), y).backward()
        probe.step()
    records = probe.history()
    assert records["site"].tolist() == (["1", "3"] if taps else ["first"])
    for index in range(len(records["site"])):
        wanted = {name: float(column[index]) for name, column in expected.items() if name != "site"}
        assert_record(row(records, index), wanted)


def test_tap_and_other_modules_are_recorded(rng: np.random.Generator) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(6, 7), nn.Linear(7, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(tap(torch.tanh(self.body(x)), "squash"))

    model = Net()
    x, y = random_batch(rng)
    grads: list[Tensor] = []
    model.head.register_forward_pre_hook(
        lambda _module, inputs: inputs[0].register_hook(grads.append) and None
    )
    with Probe(model, sites="bo*", num_classes=CLASSES) as probe:
        probe.batch(labels=y)
        F.cross_entropy(model(x), y).backward()
        probe.step()
    history = probe.history()
    assert history["site"].tolist() == ["body", "squash"]
    body = model.body(x).detach()
    squash_grad = grads[0]
    body_grad = squash_grad * (1 - torch.tanh(body) ** 2)
    # Values of both signs: a gate is open where the value is positive.
    expected = (
        reference.site_record(body, body_grad, y),
        reference.site_record(torch.tanh(body), squash_grad, y),
    )
    for index in (0, 1):
        assert_record(row(history, index), expected[index])


def test_a_predicate_is_asked_about_taps(rng: np.random.Generator) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(6, 7)

        def forward(self, x: Tensor) -> Tensor:
            return tap(tap(self.body(x), "wanted"), "unwanted")

    model = Net()
    x, _ = random_batch(rng, 6)
    with Probe(model, sites=lambda name, _module: name in ("body", "wanted")) as probe:
        model(x).sum().backward()
        probe.step()
    assert probe.history()["site"].tolist() == ["body", "wanted"]
    assert tap(x, "nobody listens") is x
