"""Training with a probe is bitwise what it is without; the model comes back as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from checks import assert_same_bits
from torch import Tensor, nn
from training import train_steps

from tfc_fast import Probe
from tfc_fast.models import MLP

OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.05),
    "momentum": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
    "adam": lambda model: torch.optim.Adam(model.parameters(), lr=1e-3),
}


class Outcome(NamedTuple):
    losses: list[float]
    state: list[Tensor]
    rng_state: Tensor


def build(*, batch_norm: bool = False, inplace: bool = False, dropout: bool = False) -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    model = MLP(20, 4, 4, 48, batch_norm=batch_norm, inplace=inplace, generator=generator)
    return nn.Sequential(nn.Dropout(0.1), model) if dropout else model


def train(
    model: nn.Module,
    *,
    probed: bool,
    optimizer: str = "momentum",
    steps: int = 200,
    compiled: bool = False,
) -> Outcome:
    torch.manual_seed(11)
    run = torch.compile(model, fullgraph=True) if compiled else model
    update = OPTIMIZERS[optimizer](model)
    probe = Probe(model, num_classes=4)
    if probed:
        probe.attach()
    batches = ((torch.randn(32, 20), torch.randint(0, 4, (32,))) for _ in range(steps))
    losses = train_steps(run, update, batches, probe if probed else None)
    if probed:
        assert len(set(probe.history()["step"].tolist())) == steps
        probe.detach()
    return Outcome(
        [loss.item() for loss in losses], list(model.state_dict().values()), torch.get_rng_state()
    )


def assert_same_outcome(actual: Outcome, expected: Outcome) -> None:
    assert actual.losses == expected.losses
    for a, b in zip(actual.state, expected.state, strict=True):
        assert_same_bits(a, b)
    assert torch.equal(actual.rng_state, expected.rng_state)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "options",
    [{}, {"batch_norm": True}, {"inplace": True}, {"dropout": True}],
    ids=["plain", "batch_norm", "inplace", "dropout"],
)
def test_training_is_bitwise_untouched(
    options: dict[str, bool], optimizer: str, threads: int, set_threads: Callable[[int], None]
) -> None:
    set_threads(threads)
    expected = train(build(**options), probed=False, optimizer=optimizer)
    assert_same_outcome(train(build(**options), probed=True, optimizer=optimizer), expected)


@pytest.mark.parametrize(
    "options", [{}, {"batch_norm": True}, {"inplace": True}], ids=["plain", "batch_norm", "inplace"]
)
def test_compiled_training_is_bitwise_untouched(options: dict[str, bool]) -> None:
    torch.compiler.reset()
    expected = train(build(**options), probed=False, compiled=True)
    torch.compiler.reset()
    assert_same_outcome(train(build(**options), probed=True, compiled=True), expected)


def relus(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.ReLU)]


def test_detach_gives_back_the_same_modules() -> None:
    model = build()
    before = [(id(module), type(module), dict(module.__dict__)) for module in model.modules()]
    text = repr(model)
    probe = Probe(model, num_classes=4)
    for _ in range(2):
        probe.attach()
        probe.attach()
        assert probe.attached
        assert [id(module) for module in model.modules()] == [entry[0] for entry in before]
        assert repr(model) == text
        assert isinstance(relus(model)[0], nn.ReLU)
        probe.detach()
        probe.detach()
        assert not probe.attached
        after = [(id(module), type(module), dict(module.__dict__)) for module in model.modules()]
        assert after == before


def test_an_error_in_the_block_detaches() -> None:
    model = build()
    with pytest.raises(KeyError), Probe(model, num_classes=4):
        raise KeyError
    assert all(type(module) is nn.ReLU for module in relus(model))


def test_changing_a_feature_in_place_is_still_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    with Probe(model):
        out = model(torch.ones(2, 3))
        out.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()
