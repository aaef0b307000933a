"""Training with a probe is bitwise what it is without; the model comes back as it was."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref
from collections.abc import Callable
from typing import NamedTuple

import psutil
import pytest
import torch
from checks import assert_same_bits
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from training import train_steps

from tfc_fast import Probe, tap
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


def test_state_dict_keys_stay() -> None:
    model = build()
    keys = list(model.state_dict())
    with Probe(model, num_classes=4):
        assert list(model.state_dict()) == keys


@pytest.mark.parametrize(
    "copied",
    [
        copy.deepcopy,
        lambda model: pickle.loads(pickle.dumps(model)),
        lambda model: _through_file(model),
    ],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_a_copy_of_a_watched_model_is_not_attached(
    copied: Callable[[nn.Module], nn.Module],
) -> None:
    model = build()
    with Probe(model) as probe:
        other = copied(model)
        assert all(type(module) is nn.ReLU for module in relus(other))
        other(torch.ones(3, 20)).sum().backward()
        model(torch.ones(3, 20)).sum().backward()
        probe.step()
        with Probe(other) as second:
            other(torch.ones(5, 20)).sum().backward()
            second.step()
    assert probe.history()["n_rows"].tolist() == [3, 3, 3]
    assert second.history()["n_rows"].tolist() == [5, 5, 5]


def _through_file(model: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert isinstance(loaded, nn.Module)
    return loaded


def test_forward_without_gradients_is_left_alone() -> None:
    model = build(inplace=True)
    x = torch.randn(6, 20)
    expected = model(x).detach()
    with Probe(model) as probe:
        for context in (torch.no_grad, torch.inference_mode):
            with context():
                assert_same_bits(model(x), expected)
        model(x).sum().backward()
        probe.step()
    assert probe.history()["site"].tolist() == list(model.sites)


def test_gradients_of_gradients_agree(rng: object) -> None:
    def second_order(probed: bool) -> list[Tensor]:
        model = build()
        x = torch.linspace(-1, 1, 60).reshape(3, 20).requires_grad_()
        with Probe(model) as probe:
            if not probed:
                probe.detach()
            (grad,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
            grad.square().sum().backward()
            if probed:
                probe.step()
                assert len(probe.history()["site"]) == 3
        return [x.grad, *(p.grad for p in model.parameters())]

    for actual, expected in zip(second_order(True), second_order(False), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_records_each_site_once(reentrant: bool, labelled: bool) -> None:
    x, y = torch.randn(9, 20, requires_grad=True), torch.arange(9) % 4

    def run(*, probed: bool) -> tuple[list[Tensor], Probe]:
        model = build()
        probe = Probe(model, num_classes=4 if labelled else None)
        if probed:
            probe.attach()
        for _ in range(2):
            if probed:
                probe.batch(labels=y if labelled else None)
            checkpoint(model, x, use_reentrant=reentrant).square().sum().backward()
            if probed:
                probe.step()
        return [parameter.grad for parameter in model.parameters()], probe

    expected, _ = run(probed=False)
    actual, probe = run(probed=True)
    for a, b in zip(actual, expected, strict=True):
        assert_same_bits(a, b)
    sites = [f"hidden.{layer}.relu" for layer in range(3)]
    assert sorted(probe.history()["site"].tolist()) == sorted(2 * sites)
    probe.detach()


def test_changing_a_feature_in_place_is_still_an_error() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    with Probe(model):
        out = model(torch.ones(2, 3))
        out.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.sum().backward()


def test_no_tensor_outlives_its_step() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    with Probe(model) as probe:
        out = model(torch.ones(2, 4))
        loss = out.sum()
        feature = weakref.ref(tap(out, "out"))
        storage = weakref.ref(out.untyped_storage())
        loss.backward()
        probe.step(loss=loss)
        del out, loss
        gc.collect()
        assert feature() is None
        assert storage() is None


def test_memory_stays_flat() -> None:
    process = psutil.Process()
    model = nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(8, 8), nn.ReLU())])
    x, y = torch.randn(16, 8), torch.arange(16) % 4
    sizes = []
    with Probe(model, num_classes=4, history_records=2000) as probe:
        for step in range(20_000):
            probe.batch(labels=y)
            loss = model(x).sum()
            loss.backward()
            probe.step(loss=loss)
            if step >= 4000 and step % 1000 == 999:
                gc.collect()
                sizes.append(process.memory_info().rss)
    # A leak of one float64 per site and step would be 0.5 MB.
    assert max(sizes) - min(sizes) < 0.5 * 2**20, sizes
