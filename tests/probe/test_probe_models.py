"""Models as people train them: records against hooks in float64, and training untouched."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import reference
import torch
import zoo
from by_hand import assert_record, row
from checks import assert_same_bits
from torch import Tensor, nn
from training import train_steps

from tfc_fast import Probe
from tfc_fast.bench import networks
from tfc_fast.models import vgg11

NUM_CLASSES = 10


class Bert(nn.Module):
    """A model of the transformers library, whose modules return objects of its own."""

    def __init__(self) -> None:
        super().__init__()
        transformers = pytest.importorskip("transformers", reason="transformers is an extra")
        config = transformers.BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=24,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            num_labels=NUM_CLASSES,
        )
        self.model = transformers.BertForSequenceClassification(config)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model(tokens).logits


class Case(NamedTuple):
    model: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator, int], Tensor]
    sites: Any
    reduction: Any
    num_sites: int


def sequences(generator: torch.Generator, n: int) -> Tensor:
    return torch.randn(n, 7, 6, generator=generator)


def vectors(generator: torch.Generator, n: int) -> Tensor:
    return torch.randn(n, 20, generator=generator)


CASES = {
    "vgg11-flatten": Case(lambda: vgg11(4), networks.images, "relu", "flatten", 8),
    "vgg11-pool": Case(lambda: vgg11(4), networks.images, "relu", "pool", 8),
    "vgg11-batch-norm": Case(
        lambda: vgg11(4, batch_norm=True), networks.images, "relu", "flatten", 8
    ),
    "resnet18-flatten": Case(lambda: networks.resnet18(4), networks.images, "relu", "flatten", 17),
    "resnet18-pool": Case(lambda: networks.resnet18(4), networks.images, "relu", "pool", 17),
    "transformer-tokens": Case(networks.Transformer, networks.tokens, nn.GELU, "tokens", 4),
    "transformer-blocks": Case(networks.Transformer, networks.tokens, "blocks.?", "flatten", 4),
    "transformer-attention": Case(
        networks.Transformer, networks.tokens, "blocks.*.attention", "tokens", 4
    ),
    "bert-layers": Case(Bert, networks.tokens, "model.bert.encoder.layer.?", "tokens", 2),
    "bert-encoder": Case(Bert, networks.tokens, "model.bert.encoder", "flatten", 1),
    "lstm": Case(lambda: zoo.Recurrent(nn.LSTM), sequences, "cells", "tokens", 1),
    "gru": Case(lambda: zoo.Recurrent(nn.GRU), sequences, "cells", "flatten", 1),
    "rnn": Case(lambda: zoo.Recurrent(nn.RNN), sequences, "cells", "pool", 1),
    "functional": Case(zoo.Functional, vectors, [], "flatten", 3),
}

each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def rows_of(x: Tensor, reduction: str) -> Tensor:
    """The rows in float64, by the definition."""
    x = x.detach().double()
    if x.dim() <= 2 or reduction == "flatten":
        return x.flatten(1)
    return x.flatten(2).mean(2) if reduction == "pool" else x.flatten(0, -2)


Seen = dict[str, list[Tensor]]


def watch_by_hooks(model: nn.Module, names: set[str], seen: Seen, grads: Seen) -> None:
    """Features and gradients of modules, call by call; of several outputs the first."""

    def hook_of(name: str) -> Callable[..., Any]:
        calls = 0

        def hook(_module: nn.Module, _inputs: object, out: Any) -> Any:
            nonlocal calls
            site = name if calls == 0 else f"{name}#{calls}"
            calls += 1
            whole = out if isinstance(out, Tensor) else out[0]
            seen[site] = [whole.detach().clone()]
            # A view of its own, since what follows may write into the output.
            seen_by = whole.view_as(whole)
            seen_by.register_hook(lambda grad: grads.__setitem__(site, [grad.clone()]))
            if isinstance(out, dict):
                out[next(iter(out))] = seen_by
                return out
            return (seen_by, *out[1:]) if isinstance(out, tuple) else seen_by

        return hook

    for name, module in model.named_modules():
        if name in names:
            module.register_forward_hook(hook_of(name))


def watch_taps(monkeypatch: pytest.MonkeyPatch, seen: Seen, grads: Seen) -> None:
    def by_hand(x: Tensor, name: str) -> Tensor:
        seen[name] = [x.detach().clone()]
        x.register_hook(lambda grad: grads.__setitem__(name, [grad.clone()]))
        return x

    monkeypatch.setattr(zoo, "tap", by_hand)


@each_case
def test_records_agree_with_hooks(case: Case, rng: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    torch.manual_seed(int(rng.integers(2**31)))
    model = case.model()
    x, y = case.inputs(generator, 24), torch.randint(0, NUM_CLASSES, (24,), generator=generator)
    probe = Probe(
        copied := copy.deepcopy(model),
        case.sites,
        num_classes=NUM_CLASSES,
        reduction=case.reduction,
    )
    with probe:
        probe.batch(labels=y)
        nn.functional.cross_entropy(copied(x), y).backward()
        probe.step()
    history = probe.history()
    assert len(history["site"]) == case.num_sites

    seen: Seen = {}
    grads: Seen = {}
    watch_taps(monkeypatch, seen, grads)
    watch_by_hooks(model, {name.partition("#")[0] for name in probe.sites}, seen, grads)
    nn.functional.cross_entropy(model(x), y).backward()
    assert set(seen) == set(history["site"].tolist())
    for index, site in enumerate(history["site"].tolist()):
        features = [rows_of(f, case.reduction) for f in seen[site]]
        gradients = [rows_of(g, case.reduction) for g in grads[site]]
        labels = [y.repeat_interleave(len(f) // len(y)) for f in features]
        assert_record(row(history, index), reference.site_record(features, gradients, labels))


@each_case
def test_training_is_untouched(case: Case, rng: Any) -> None:
    seed = int(rng.integers(2**31))

    def train(probed: bool) -> list[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        model = case.model()
        batches = [
            (case.inputs(generator, 8), torch.randint(0, NUM_CLASSES, (8,), generator=generator))
            for _ in range(3)
        ]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        if not probed:
            losses = train_steps(model, optimizer, batches, None)
        else:
            options = {"num_classes": NUM_CLASSES, "reduction": case.reduction}
            with Probe(model, case.sites, **options) as probe:
                losses = train_steps(model, optimizer, batches, probe)
        return [*losses, *model.parameters(), *model.buffers(), torch.get_rng_state().long()]

    for plain, probed in zip(train(False), train(True), strict=True):
        assert_same_bits(plain, probed)
