"""Modules that return more than one tensor, and what `describe` says of all."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tfc_fast import Probe, tap


class Named(NamedTuple):
    index: Tensor
    feature: Tensor


@dataclasses.dataclass(frozen=True)
class Data:
    index: Tensor
    feature: Tensor


class Returns(nn.Module):
    """Returns its input in a container that `pack` makes of it and a tensor of integers."""

    def __init__(self, pack: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.pack = pack

    def forward(self, x: Tensor) -> Any:
        return self.pack(torch.arange(len(x)), x * 2)


class Net(nn.Module):
    def __init__(
        self, pack: Callable[[Tensor, Tensor], Any], unpack: Callable[[Any], Tensor]
    ) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 5)
        self.inner = Returns(pack)
        self.unpack = unpack
        self.out: Any = None

    def forward(self, x: Tensor) -> Tensor:
        self.out = self.inner(self.linear(x))
        return self.unpack(self.out)


CONTAINERS: dict[str, tuple[Callable[..., Any], Callable[[Any], Tensor]]] = {
    "tensor": (lambda i, x: x, lambda out: out),
    "tuple": (lambda i, x: (i, x), lambda out: out[1]),
    "list": (lambda i, x: [i, x], lambda out: out[1]),
    "first of two": (lambda i, x: (x, x * 3), lambda out: out[0]),
    "named tuple": (Named, lambda out: out.feature),
    "dict": (lambda i, x: {"i": i, "x": x}, lambda out: out["x"]),
    "ordered dict": (lambda i, x: OrderedDict(i=i, x=x), lambda out: out["x"]),
    "dataclass": (Data, lambda out: out.feature),
}


@pytest.mark.parametrize(("pack", "unpack"), CONTAINERS.values(), ids=CONTAINERS.keys())
def test_the_first_float_tensor_is_watched(
    pack: Callable[..., Any], unpack: Callable[[Any], Tensor]
) -> None:
    net = Net(pack, unpack)
    x = torch.randn(6, 3)
    plain = net(x)
    kind = type(net.out)
    with Probe(net, sites="inner") as probe:
        out = net(x)
        assert torch.equal(out, plain)
        assert type(net.out) is kind
        out.square().sum().backward()
        probe.step()
    history = probe.history()
    assert history["site"].tolist() == ["inner"]
    assert history["n_rows"].tolist() == [6]
    wanted = plain.detach().double().norm(dim=1).mean()
    assert float(history["feature_norm_mean"][0]) == pytest.approx(float(wanted), rel=1e-6)
    wanted = (2 * plain).detach().double().norm(dim=1).mean()
    assert float(history["grad_norm_mean"][0]) == pytest.approx(float(wanted), rel=1e-6)


@pytest.mark.parametrize(
    ("pack", "reason"),
    [
        (lambda i, x: (i, [x]), "returns tuple, in which there is no float tensor"),
        (lambda i, x: i, r"returns a tensor of torch\.int64, in which there is no float tensor"),
        (lambda i, x: (i, x.sum()), "returns tuple, in which there is no float tensor"),
    ],
    ids=["nested", "integers", "scalar"],
)
def test_an_output_that_cannot_be_watched_warns_once_and_is_listed(
    pack: Callable[..., Any], reason: str
) -> None:
    net = Net(pack, lambda out: net.linear.weight.sum())
    with Probe(net, sites="inner") as probe:
        with pytest.warns(RuntimeWarning, match=rf"site 'inner' is not recorded: it {reason}"):
            net(torch.ones(2, 3)).backward()
        net(torch.ones(2, 3)).backward()  # a second warning would be an error
    ((name, why),) = probe.describe().not_watched
    assert name == "inner"
    assert why.startswith("returns ")


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
        self.spare = nn.ReLU()
        self.gelu = nn.GELU()
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        h = tap(torch.relu(h - 0.1), "functional")
        return self.head(self.gelu(h))


def test_describe() -> None:
    net = Mixed()
    with Probe(net, reduction={"functional": "tokens"}) as probe:
        assert probe.describe().watched == ()
        for n in (10, 30):
            net(torch.randn(n, 4)).sum().backward()
            probe.step()
    description = probe.describe()
    assert [
        (site.name, site.kind, site.reduction, site.rows, site.units)
        for site in description.watched
    ] == [
        ("first.1", "ReLU", "flatten", 30, 6),
        ("functional", "tap", "tokens", 30, 6),
    ]
    assert description.entries_per_step == 2 * 2 * 30 * 6
    assert description.not_watched == (
        ("spare", "no gradient has come back to it in a closed step"),
        ("gelu", "GELU, not chosen by sites"),
    )
    text = str(description)
    for part in ("first.1", "30 x 6", "50.0 %", "720 entries", "spare", "gelu", "tap(x, name)"):
        assert part in text


def test_describe_repeated_calls() -> None:
    relu = nn.ReLU()
    net = nn.Sequential(nn.Linear(4, 4), relu, nn.Linear(4, 4), relu)
    with Probe(net) as probe:
        net(torch.randn(5, 4)).sum().backward()
        probe.step()
    assert [(site.name, site.kind) for site in probe.describe().watched] == [
        ("1", "ReLU"),
        ("1#1", "ReLU"),
    ]
