"""The probe may write into a gradient's memory only when nobody else can see it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from checks import assert_same_bits
from torch import Tensor, nn

from tfc_fast import Probe

Outcome = list[Tensor]


def leaf() -> Tensor:
    return torch.linspace(-1, 1, 48).reshape(8, 6).requires_grad_()


def hook_keeps_the_gradient(relu: nn.Module, x: Tensor) -> Outcome:
    kept: list[Tensor] = []
    y = relu(x * 2)
    y.register_hook(kept.append)
    (y * y).sum().backward()
    return [*kept, x.grad]


def feature_retains_its_gradient(relu: nn.Module, x: Tensor) -> Outcome:
    y = relu(x * 2)
    y.retain_grad()
    (y * 3).sum().backward()
    return [y.grad, x.grad]


def gradient_is_shared_with_another_branch(relu: nn.Module, x: Tensor) -> Outcome:
    # The backward of a sum hands the same tensor to both of its inputs.
    other = x * 5
    (relu(x * 2) + other).pow(2).sum().backward()
    return [x.grad]


def gradient_is_shared_with_a_leaf(relu: nn.Module, x: Tensor) -> Outcome:
    # The leaf may take the shared tensor as its .grad without a copy.
    bias = torch.ones(8, 6, requires_grad=True)
    ((relu(x * 2) + bias) * torch.arange(6)).sum().backward()
    return [bias.grad, x.grad]


def gradient_is_given_from_outside(relu: nn.Module, x: Tensor) -> Outcome:
    grad = torch.full((8, 6), 3.0)
    y = relu(x * 2)
    y.backward(grad)
    return [grad, x.grad]


def gradient_is_a_view(relu: nn.Module, x: Tensor) -> Outcome:
    whole = torch.full((16, 6), 3.0)
    relu(x * 2).backward(whole[4:12])
    return [whole, x.grad]


def graph_is_used_twice(relu: nn.Module, x: Tensor) -> Outcome:
    y = (relu(x * 2) * torch.arange(6)).sum()
    y.backward(retain_graph=True)
    y.backward()
    return [x.grad]


def gradient_is_asked_for(relu: nn.Module, x: Tensor) -> Outcome:
    y = relu(x * 2)
    loss = (y * torch.arange(6)).sum()
    return list(torch.autograd.grad(loss, [y, x]))


@pytest.mark.parametrize("inplace", [False, True], ids=["out-of-place", "inplace"])
@pytest.mark.parametrize(
    "compute",
    [
        hook_keeps_the_gradient,
        feature_retains_its_gradient,
        gradient_is_shared_with_another_branch,
        gradient_is_shared_with_a_leaf,
        gradient_is_given_from_outside,
        gradient_is_a_view,
        graph_is_used_twice,
        gradient_is_asked_for,
    ],
)
def test_gradients_that_others_see_stay_as_they_are(
    compute: Callable[[nn.Module, Tensor], Outcome], inplace: bool
) -> None:
    expected = compute(nn.ReLU(inplace), leaf())
    model = nn.Sequential(nn.ReLU(inplace))
    with Probe(model) as probe:
        actual = compute(model[0], leaf())
        probe.step()
    assert len(probe.history()["site"]) == 1
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert_same_bits(a, b)


def test_a_gradient_that_nobody_sees_keeps_its_memory() -> None:
    # What makes the probe cheap: no new tensor where ReLU's own backward makes one. The op that
    # makes one is called only where the gradient's memory cannot be had.
    def calls(model: nn.Module) -> int:
        with torch.profiler.profile() as profile:
            model(torch.ones(16, 6)).sum().backward()
        return sum(
            event.count
            for event in profile.key_averages()
            if event.key == "tfc_fast::relu_probe_backward"
        )

    hidden = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    last = nn.Sequential(
        nn.Linear(6, 6), nn.ReLU()
    )  # the gradient of a sum is one number, expanded
    with Probe(hidden), Probe(last):
        assert calls(hidden) == 0
        assert calls(last) == 1
