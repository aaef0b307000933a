"""Training is bitwise what it is without a probe, whatever its rows are; compiled, too."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from checks import DTYPES, assert_same_bits, random_labels
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.utils.checkpoint import checkpoint
from training import train_steps

from tfc_fast import Probe, tap
from tfc_fast.records import COLUMNS, Records

NUM_CLASSES = 4

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
labelled_or_not = pytest.mark.parametrize("labelled", [True, False], ids=["labels", "no-labels"])
inplace_or_not = pytest.mark.parametrize("inplace", [False, True], ids=["out-of-place", "inplace"])


class Mixed(nn.Module):
    """A convolution and a sequence, ReLUs of both, and a tap."""

    def __init__(self, *, inplace: bool = False) -> None:
        super().__init__()
        self.conv, self.pooled = nn.Conv2d(3, 4, 3), nn.ReLU(inplace)
        self.mix, self.tokens = nn.Linear(9, 8), nn.ReLU(inplace)
        self.head, self.squash = nn.Linear(8, 4), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        x = self.pooled(self.conv(x)).flatten(2)
        x = tap(self.tokens(self.mix(x)), "tap", reduction="pool")
        return self.squash(self.head(x)).mean(1)


MIXED: Any = {"pooled": "pool", "tokens": "tokens", "tap": "tokens", "squash": "tokens"}
MIXED_SITES = ["pooled", "tokens", "squash", "tap"]


def mixed_probe(model: nn.Module, *, labelled: bool = True) -> Probe:
    sites = ["pooled", "tokens", "squash"]
    return Probe(model, sites, num_classes=NUM_CLASSES if labelled else None, reduction=MIXED)


def train(
    *,
    probed: bool,
    inplace: bool = False,
    dtype: torch.dtype = torch.float32,
    steps: int = 12,
    backend: str | None = None,
    memory_format: torch.memory_format = torch.contiguous_format,
    labelled: bool = True,
) -> tuple[list[Tensor], Records]:
    torch.manual_seed(5)
    model = Mixed(inplace=inplace).to(dtype)
    run = torch.compile(model, backend=backend, fullgraph=True) if backend else model
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    probe = mixed_probe(model, labelled=labelled)
    if probed:
        probe.attach()
    batches = (
        (
            torch.randn(10, 3, 5, 5).to(dtype, memory_format=memory_format),
            torch.randint(0, NUM_CLASSES, (10,)),
        )
        for _ in range(steps)
    )
    losses = train_steps(run, optimizer, batches, probe if probed else None, labelled=labelled)
    history = probe.history()
    probe.close()
    return [*losses, *model.parameters()], history


@pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "last"]
)
@each_dtype
@inplace_or_not
def test_training_is_bitwise_untouched(
    inplace: bool, dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    options: Any = {"inplace": inplace, "dtype": dtype, "memory_format": memory_format}
    expected, _ = train(probed=False, **options)
    actual, history = train(probed=True, **options)
    for a, b in zip(actual, expected, strict=True):
        assert_same_bits(a, b)
    assert history["site"].tolist() == 12 * MIXED_SITES
    assert history["n_rows"].tolist() == 12 * [10, 40, 40, 10]


@inplace_or_not
@labelled_or_not
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled_records_agree_with_eager(backend: str, labelled: bool, inplace: bool) -> None:
    torch.compiler.reset()
    counters.clear()
    _, expected = train(probed=True, steps=4, inplace=inplace, labelled=labelled)
    _, actual = train(probed=True, steps=4, inplace=inplace, labelled=labelled, backend=backend)
    assert counters["graph_break"] == {}
    assert counters["stats"]["unique_graphs"] == 1
    assert actual["site"].tolist() == expected["site"].tolist()
    for name in COLUMNS:
        if name != "site":
            np.testing.assert_allclose(actual[name], expected[name], rtol=1e-4, atol=1e-6)


def test_second_derivatives_are_right_and_recorded(rng: np.random.Generator) -> None:
    x = torch.from_numpy(rng.standard_normal((6, 3, 5, 5))).requires_grad_()
    y = random_labels(rng, 6, NUM_CLASSES)
    model = Mixed().double()

    def penalty() -> list[Tensor]:
        loss = nn.functional.cross_entropy(model(x), y)
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        return [grad, *torch.autograd.grad(grad.square().sum(), [x, *model.parameters()])]

    expected = penalty()
    with mixed_probe(model, labelled=True) as probe:
        probe.batch(labels=y)
        actual = penalty()
        probe.step()
    for a, b in zip(actual, expected, strict=True):
        assert_same_bits(a, b)
    # The second backward goes through the model once more, and is not recorded.
    assert probe.history()["n_rows"].tolist() == [6, 24, 24, 6]


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_records_each_site_once(
    rng: np.random.Generator, reentrant: bool
) -> None:
    x = torch.from_numpy(rng.standard_normal((6, 3, 5, 5))).float().requires_grad_()
    model = Mixed()
    with mixed_probe(model) as probe:
        for _ in range(2):
            probe.batch(labels=torch.arange(6) % NUM_CLASSES)
            checkpoint(model, x, use_reentrant=reentrant).square().sum().backward()
            probe.step()
    history = probe.history()
    assert sorted(history["site"].tolist()) == sorted(2 * MIXED_SITES)
    assert set(history["n_rows"].tolist()) == {6, 24}


@pytest.mark.parametrize(("reduction", "calls"), [("tokens", 0), ("pool", 1), ("flatten", 0)])
def test_where_the_gradient_keeps_its_memory(reduction: Any, calls: int) -> None:
    # As for samples: one kernel that records and writes where it has read. The op that is counted
    # makes a new tensor.
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Tanh())
    with Probe(model, reduction=reduction), torch.profiler.profile() as profile:
        model(torch.ones(16, 5, 6)).sum().backward()
    name = "tfc_fast::relu_probe_backward"
    assert sum(event.count for event in profile.key_averages() if event.key == name) == calls
