"""torch.export: the program of the model alone, and nothing of it in the records."""

from __future__ import annotations

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


def test_export_comes_before_any_step() -> None:
    network = Network(False)
    x = torch.randn(8, 6)
    with Probe(network, ["relu"]) as probe:
        assert not any("tfc_fast" in op for op in ops_of(torch.export.export(network, (x,))))
        network(x).sum().backward()
        probe.step()
    assert set(probe.history()["site"].tolist()) == {"relu", "squash"}
