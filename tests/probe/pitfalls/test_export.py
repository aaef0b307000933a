"""torch.export and torch.fx: the program of the model alone, and nothing of it in the records."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from tfc_fast import Probe, tap


class Network(nn.Module):
    def __init__(self, inplace: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)
        self.relu = nn.ReLU(inplace)
        self.gelu = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return tap(self.gelu(self.relu(self.linear(x))).tanh(), "squash")


def ops_of(program: torch.export.ExportedProgram) -> list[str]:
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
@pytest.mark.parametrize("inplace", [False, True], ids=["out-of-place", "inplace"])
@pytest.mark.parametrize("training", [True, False], ids=["in-a-step", "in-an-evaluation"])
# torch warns of attributes that the forward sets, as it does without a probe for others.
@pytest.mark.filterwarnings("ignore:While compiling, we found certain side effects:UserWarning")
def test_export_leaves_the_probe_out(training: bool, inplace: bool, strict: bool) -> None:
    network = Network(inplace)
    x = torch.randn(8, 6)
    plain = ops_of(torch.export.export(network, (x,), strict=strict))
    with Probe(network, ["relu", "gelu"], num_classes=2) as probe:
        # Once as ever, so that all sites are there.
        probe.batch(labels=torch.arange(8) % 2)
        network(x).sum().backward()
        probe.step()
        with torch.set_grad_enabled(training):
            probe.batch(labels=torch.arange(8) % 2)
            program = torch.export.export(network, (x,), strict=strict)
            assert ops_of(program) == plain
            torch.testing.assert_close(program.module()(x), network(x), rtol=0, atol=0)
        probe.batch(labels=torch.arange(8) % 2)
        network(x).sum().backward()
        probe.step()
    history = probe.history()
    assert history["site"].tolist() == ["relu", "gelu", "squash"] * 2
    assert history["n_rows"].tolist() == [8] * 6


@pytest.mark.parametrize("strict", [False, True], ids=["traced", "strict"])
def test_export_comes_before_any_step(strict: bool) -> None:
    network = Network(False)
    x = torch.randn(8, 6)
    with Probe(network, ["relu"]) as probe:
        program = torch.export.export(network, (x,), strict=strict)
        assert not any("tfc_fast" in op for op in ops_of(program))
        assert probe.sites == ("relu",)  # no place was taken for the tap
        network(x).sum().backward()
        probe.step()
    assert set(probe.history()["site"].tolist()) == {"relu", "squash"}


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).relu()


def test_symbolic_tracing_sees_the_model_as_it_is() -> None:
    network = nn.Sequential(Block(), nn.ReLU(), nn.Dropout(0.0))
    plain = str(torch.fx.symbolic_trace(network).graph)
    with warnings.catch_warnings(), Probe(network, ["0", "1"]) as probe:
        warnings.simplefilter("error")
        traced = torch.fx.symbolic_trace(network)
        assert str(traced.graph) == plain
        network(torch.randn(4, 6)).sum().backward()
        probe.step()
    assert probe.history()["site"].tolist() == ["0", "1"]
