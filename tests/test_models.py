"""The multi-layer perceptron."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from tfc_fast.models import MLP


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linears(model: MLP) -> list[nn.Linear]:
    return [module for module in model.modules() if isinstance(module, nn.Linear)]


@pytest.mark.parametrize("depth", [1, 2, 3, 7])
def test_depth_counts_linear_layers(depth: int) -> None:
    model = MLP(20, 3, depth, 8)
    sizes = [20] + [8] * (depth - 1) + [3]
    shapes = [tuple(layer.weight.shape) for layer in linears(model)]
    assert shapes == [(fan_out, fan_in) for fan_in, fan_out in pairwise(sizes)]
    assert len(model.sites) == depth - 1


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_forward_is_the_formula(batch_norm: bool, inplace: bool, bias: bool) -> None:
    model = MLP(12, 3, 3, 8, batch_norm=batch_norm, inplace=inplace, bias=bias).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(1)))
    x = torch.randn(5, 3, 2, 2, generator=seeded(2), dtype=torch.float64)
    expected = x.reshape(5, 12)
    state = dict(model.named_parameters())
    for i in range(2):
        expected = expected @ state[f"hidden.{i}.linear.weight"].T
        if bias:
            expected = expected + state[f"hidden.{i}.linear.bias"]
        if batch_norm:
            centred = expected - expected.mean(0)
            expected = centred / (centred.square().mean(0) + 1e-5).sqrt()
            norm = f"hidden.{i}.norm"
            expected = expected * state[f"{norm}.weight"] + state[f"{norm}.bias"]
        expected = expected.clamp(min=0)
    expected = expected @ state["output.weight"].T + (state["output.bias"] if bias else 0)
    torch.testing.assert_close(model(x), expected)


def test_state_dict_keys_are_readable() -> None:
    assert list(MLP(4, 2, 3, 5, bias=False).state_dict()) == [
        "hidden.0.linear.weight",
        "hidden.1.linear.weight",
        "output.weight",
    ]
    keys = list(MLP(4, 2, 2, 5, batch_norm=True).state_dict())
    assert keys == [
        "hidden.0.linear.weight",
        "hidden.0.linear.bias",
        "hidden.0.norm.weight",
        "hidden.0.norm.bias",
        "hidden.0.norm.running_mean",
        "hidden.0.norm.running_var",
        "hidden.0.norm.num_batches_tracked",
        "output.weight",
        "output.bias",
    ]


def test_sites_are_the_relus_in_the_order_of_the_layers() -> None:
    model = MLP(4, 2, 13, 5, batch_norm=True)
    assert model.sites == tuple(f"hidden.{i}.relu" for i in range(12))
    assert all(isinstance(model.get_submodule(site), nn.ReLU) for site in model.sites)
    assert MLP(4, 2, 1, 5).sites == ()


def test_inplace_reaches_every_relu() -> None:
    for inplace in (False, True):
        relus = [m for m in MLP(4, 2, 4, 5, inplace=inplace).modules() if isinstance(m, nn.ReLU)]
        assert [relu.inplace for relu in relus] == [inplace] * 3


@pytest.mark.parametrize("gain", [0.41, 1.0, 2.0])
def test_initial_weights_are_normal_with_the_stated_deviation(gain: float) -> None:
    model = MLP(300, 100, 3, 400, gain=gain, generator=seeded())
    for layer in linears(model):
        weight = layer.weight.detach().double().flatten()
        expected = gain * math.sqrt(2 / layer.in_features)
        # Five standard deviations of the estimates from N numbers.
        count = weight.numel()
        assert float(weight.std()) == pytest.approx(expected, rel=5 / math.sqrt(2 * count))
        assert abs(float(weight.mean())) < 5 * expected / math.sqrt(count)
        within_one = float((weight.abs() < expected).double().mean())
        assert within_one == pytest.approx(0.6827, abs=5 * 0.47 / math.sqrt(count))
        assert (layer.bias == 0).all()


def test_gain_only_scales() -> None:
    plain = MLP(30, 10, 4, 20, generator=seeded(3))
    scaled = MLP(30, 10, 4, 20, gain=0.41, generator=seeded(3))
    for a, b in zip(linears(plain), linears(scaled), strict=True):
        torch.testing.assert_close(b.weight, 0.41 * a.weight)


def test_generator_fixes_the_weights_and_spares_the_global_one() -> None:
    state = torch.get_rng_state()
    first, again = (MLP(30, 10, 3, 20, batch_norm=True, generator=seeded(3)) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    other = MLP(30, 10, 3, 20, batch_norm=True, generator=seeded(4))
    assert not torch.equal(first.output.weight, other.output.weight)


def test_without_a_generator_the_global_seed_decides() -> None:
    torch.manual_seed(5)
    first = MLP(30, 10, 3, 20)
    torch.manual_seed(5)
    assert torch.equal(first.output.weight, MLP(30, 10, 3, 20).output.weight)
    assert not torch.equal(first.output.weight, MLP(30, 10, 3, 20).output.weight)


def test_it_learns() -> None:
    x = torch.randn(64, 8, generator=seeded())
    y = (x[:, 0] > 0).long()
    model = MLP(8, 2, 3, 32, generator=seeded())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    for _ in range(150):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.1


def test_deepcopy_and_state_dict_give_the_same_outputs() -> None:
    model, other = MLP(8, 2, 3, 6, generator=seeded(1)), MLP(8, 2, 3, 6, generator=seeded(2))
    x = torch.randn(4, 8)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(x), other(x))
    assert torch.equal(model(x), copy.deepcopy(model)(x))


def test_empty_batch() -> None:
    assert MLP(8, 2, 3, 6)(torch.zeros(0, 2, 4)).shape == (0, 2)


@pytest.mark.parametrize("shape", [(8,), (), (4, 7), (4, 3, 3)])
def test_wrong_input_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"with 8 numbers per sample, got \["):
        MLP(8, 2, 3, 6)(torch.zeros(shape))


def test_integer_input() -> None:
    with pytest.raises(TypeError, match=r"floating point, got torch.uint8; use x.float\(\)"):
        MLP(8, 2, 3, 6)(torch.zeros(4, 8, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"in_features": 0}, ValueError, "in_features must be at least 1, got 0"),
        ({"num_classes": -2}, ValueError, "num_classes must be at least 1, got -2"),
        ({"depth": 0}, ValueError, "depth must be at least 1, got 0"),
        ({"width": 0}, ValueError, "width must be at least 1, got 0"),
        ({"depth": 2.0}, TypeError, "depth must be an integer, got 2.0"),
        ({"width": "8"}, TypeError, "width must be an integer, got '8'"),
        ({"depth": True}, TypeError, "depth must be an integer, got True"),
        ({"gain": 0.0}, ValueError, "gain must be a finite number above 0, got 0.0"),
        ({"gain": -1}, ValueError, "gain must be a finite number above 0, got -1"),
        ({"gain": math.nan}, ValueError, "gain must be a finite number above 0, got nan"),
        ({"gain": math.inf}, ValueError, "gain must be a finite number above 0, got inf"),
        ({"gain": "1"}, TypeError, "gain must be a number, got '1'"),
    ],
)
def test_wrong_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"in_features": 8, "num_classes": 2, "depth": 3, "width": 4, **change}
    with pytest.raises(error, match=message):
        MLP(**arguments)
