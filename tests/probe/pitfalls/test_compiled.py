"""torch.compile: same statistics, no graph break, one compilation, few for other sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters
from training import train_steps

from tfc_fast import Probe, tap
from tfc_fast.bench import networks
from tfc_fast.models import MLP, vgg11
from tfc_fast.records import COLUMNS, Records


class WithTap(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = MLP(10, 6, 3, 16, generator=torch.Generator().manual_seed(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return tap(self.mlp(x).tanh(), "squash")


def record(*, backend: str | None, attach_first: bool = True, inplace: bool = False) -> Records:
    torch.compiler.reset()
    counters.clear()
    model = WithTap()
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = inplace
    run = torch.compile(model, backend=backend, fullgraph=True) if backend else model
    probe = Probe(model, num_classes=3, window=4)
    generator = torch.Generator().manual_seed(2)
    if not attach_first:
        run(torch.ones(30, 10)).sum().backward()
        model.zero_grad()
    with probe:
        for _ in range(8):
            x = torch.randn(30, 10, generator=generator)
            y = torch.randint(0, 3, (30,), generator=generator)
            probe.batch(labels=y)
            loss = run(x).square().sum()
            loss.backward()
            probe.step(loss=loss)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.01 * parameter.grad
            model.zero_grad()
    if backend:
        assert counters["graph_break"] == {}
        assert counters["stats"]["unique_graphs"] == (1 if attach_first else 2)
    return probe.history()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("attach_first", [True, False], ids=["attach-first", "compile-first"])
@pytest.mark.parametrize("inplace", [False, True], ids=["out-of-place", "inplace"])
def test_compiled_records_agree_with_eager(backend: str, attach_first: bool, inplace: bool) -> None:
    expected = record(backend=None)
    actual = record(backend=backend, attach_first=attach_first, inplace=inplace)
    assert actual["site"].tolist() == expected["site"].tolist()
    for name in COLUMNS:
        if name != "site":
            np.testing.assert_allclose(actual[name], expected[name], rtol=1e-4, atol=1e-6)


MODELS = {
    "vgg11": (lambda: vgg11(2), networks.images, "relu", "pool"),
    "transformer": (lambda: networks.Transformer(layers=2), networks.tokens, nn.GELU, "tokens"),
}


@pytest.mark.parametrize(
    ("make", "inputs", "sites", "reduction"), MODELS.values(), ids=MODELS.keys()
)
def test_compiled_models(
    make: Callable[[], nn.Module], inputs: Any, sites: Any, reduction: Any
) -> None:
    def record(compiled: bool) -> Records:
        torch.compiler.reset()
        counters.clear()
        torch.manual_seed(3)
        model = make()
        run = torch.compile(model, fullgraph=True) if compiled else model
        generator = torch.Generator().manual_seed(4)
        batches = [
            (inputs(generator, 16), torch.randint(0, 3, (16,), generator=generator))
            for _ in range(3)
        ]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        with Probe(model, sites, num_classes=3, reduction=reduction) as probe:
            train_steps(run, optimizer, batches, probe)
        if compiled:
            assert counters["graph_break"] == {}
            assert counters["stats"]["unique_graphs"] == 1
        return probe.history()

    eager, compiled = record(False), record(True)
    assert eager["site"].tolist() == compiled["site"].tolist()
    assert len(eager["site"]) > 0
    for name in COLUMNS:
        if name != "site":
            # The compiler adds in another order than the libraries do; so do 16 rows of few units.
            np.testing.assert_allclose(
                compiled[name], eager[name], rtol=2e-4, atol=2e-4, equal_nan=True, err_msg=name
            )


# A warning of torch about what it does itself after the graph break.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("probe_inside", [False, True], ids=["probe-outside", "probe-inside"])
@pytest.mark.parametrize("optimizer_type", [torch.optim.SGD, torch.optim.Adam])
def test_a_whole_training_step(probe_inside: bool, optimizer_type: Any) -> None:
    """torch breaks the graph at backward; the rest of the step is compiled, the optimizer, too."""

    def train(compiled: bool, probed: bool = True) -> tuple[list[torch.Tensor], Probe]:
        torch.compiler.reset()
        counters.clear()
        model = MLP(10, 3, 3, 16, generator=torch.Generator().manual_seed(1))
        optimizer = optimizer_type(model.parameters(), lr=0.01)
        generator = torch.Generator().manual_seed(2)
        probe = Probe(model, num_classes=3)

        def step(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            if probed and probe_inside:
                probe.batch(labels=y)
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            if probed and probe_inside:
                probe.step(loss=loss)
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

        run = torch.compile(step, backend="aot_eager") if compiled else step
        losses = []
        if probed:
            probe.attach()
        for _ in range(6):
            x = torch.randn(20, 10, generator=generator)
            y = torch.randint(0, 3, (20,), generator=generator)
            if probed and not probe_inside:
                probe.batch(labels=y)
            losses.append(run(x, y))
            if probed and not probe_inside:
                probe.step(loss=losses[-1])
        probe.detach()
        return losses, probe

    losses_without, _ = train(True, probed=False)
    graphs_without = counters["stats"]["unique_graphs"]
    losses, probe = train(True)
    if not probe_inside:
        assert counters["stats"]["unique_graphs"] == graphs_without
    for loss, without in zip(losses, losses_without, strict=True):
        assert loss.equal(without)
    expected, actual = train(False)[1].history(), probe.history()
    assert actual["site"].tolist() == expected["site"].tolist() == 6 * list(probe.sites)
    for name in COLUMNS:
        if name != "site":
            np.testing.assert_allclose(actual[name], expected[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("labelled", [True, False], ids=["labelled", "without-labels"])
def test_batches_may_change_their_size(labelled: bool) -> None:
    def record(compiled: bool) -> Records:
        torch.compiler.reset()
        counters.clear()
        model = WithTap()
        run = torch.compile(model, backend="aot_eager", fullgraph=True) if compiled else model
        generator = torch.Generator().manual_seed(2)
        with Probe(model, num_classes=3 if labelled else None) as probe:
            for rows in (30, 20, 41, 7, 30, 64, 13, 29, 50, 12, 31):
                if labelled:
                    probe.batch(labels=torch.randint(0, 3, (rows,), generator=generator))
                run(torch.randn(rows, 10, generator=generator)).square().sum().backward()
                probe.step()
        if compiled:
            assert counters["graph_break"] == {}
            # For the first size; for any size, as without a probe; for labels that need more room.
            assert counters["stats"]["unique_graphs"] <= 3
        return probe.history()

    eager, compiled = record(False), record(True)
    for name in COLUMNS:
        if name != "site":
            np.testing.assert_allclose(
                compiled[name], eager[name], rtol=1e-4, atol=1e-6, equal_nan=True, err_msg=name
            )


def test_batches_may_change_their_size_in_composite_modules_of_torch() -> None:
    """torch.compile takes what it finds in a module of torch.nn, at any depth, for constants."""
    torch.compiler.reset()
    counters.clear()
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=nn.ReLU())
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    run = torch.compile(model, backend="aot_eager", fullgraph=True)
    with Probe(model, ["layers.*.activation", "layers.*.linear2"]) as probe:
        for rows in (5, 3, 7, 4, 9, 6):
            run(torch.randn(rows, 4, 8)).square().sum().backward()
            probe.step()
    assert counters["stats"]["unique_graphs"] <= 3
    history = probe.history()
    assert history["n_rows"].tolist() == [rows for rows in (5, 3, 7, 4, 9, 6) for _ in probe.sites]
    assert len(probe.sites) == 4


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
# torch.compile itself looks at the gradient of what goes from one graph to the next.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("how", ["one by one", "with a graph break", "called twice"])
def test_several_graphs_in_one_backward(how: str, backend: str) -> None:
    """The backward of one graph changes what the others hold on to, too."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Sequential(nn.Linear(5, 6), nn.ReLU())
            self.second = nn.Sequential(nn.Linear(6, 6), nn.GELU())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            if how == "with a graph break":
                torch._dynamo.graph_break()
            y: torch.Tensor = self.second(x)
            return self.second(y) if how == "called twice" else y

    def record(compiled: bool) -> Records:
        torch.compiler.reset()
        torch.manual_seed(4)
        model = Model()
        run: Callable[..., torch.Tensor] = model
        if compiled and how == "one by one":
            model.first.compile(backend=backend)
            model.second.compile(backend=backend)
        elif compiled:
            run = torch.compile(model, backend=backend)
        with Probe(model, ["first.1", "second.1"], num_classes=3) as probe:
            for _ in range(3):
                probe.batch(labels=torch.arange(12) % 3)
                (run(torch.randn(12, 5)) + run(torch.randn(12, 5))).square().sum().backward()
                probe.step()
        return probe.history()

    eager, compiled = record(False), record(True)
    assert compiled["site"].tolist() == eager["site"].tolist()
    for name in COLUMNS:
        if name != "site":
            np.testing.assert_allclose(
                compiled[name], eager[name], rtol=1e-4, atol=1e-6, equal_nan=True, err_msg=name
            )
