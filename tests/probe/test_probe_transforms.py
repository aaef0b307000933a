"""What transforms a model as a whole: torch.func, forward-mode derivatives, TorchScript."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap

from tfc_fast import Probe, tap

pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.*` is deprecated:DeprecationWarning",
    "ignore:`torch.jit.*` is not supported in Python 3.14:DeprecationWarning",
)

ROWS = 6


class Tapped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return tap(x * 1, "1")


KINDS: dict[str, tuple[Callable[[], nn.Module], Any]] = {
    "relu": (nn.ReLU, "relu"),
    "inplace": (lambda: nn.ReLU(inplace=True), "relu"),
    "module": (nn.Tanh, "1"),
    "tap": (Tapped, []),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def build(kind: str = "relu") -> tuple[nn.Module, Any, Tensor, Tensor]:
    torch.manual_seed(0)
    make, sites = KINDS[kind]
    model = nn.Sequential(nn.Linear(4, 8), make(), nn.Linear(8, 3))
    return model, sites, torch.randn(ROWS, 4), torch.arange(ROWS) % 3


@each_kind
def test_functional_call_is_watched(kind: str) -> None:
    model, sites, x, y = build(kind)
    others = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    with Probe(model, sites, num_classes=3) as probe:
        for run in (model, lambda x: functional_call(model, others, (x,))):
            probe.batch(labels=y)
            F.cross_entropy(run(x), y).backward()
            probe.step()
    history = probe.history()
    assert history["n_rows"].tolist() == [ROWS, ROWS]
    assert history["grad_norm_mean"][0] == history["grad_norm_mean"][1] > 0
    for name, p in model.named_parameters():
        assert p.grad is not None
        assert torch.equal(p.grad, others[name].grad)  # type: ignore[arg-type]


@pytest.mark.parametrize("per_sample", [False, True], ids=["grad", "vmap-of-grad"])
@each_kind
def test_transforms_of_torch_func_are_refused_and_work_without_the_probe(
    kind: str, per_sample: bool
) -> None:
    model, sites, x, y = build(kind)
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def loss(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        out = functional_call(model, weights, (x[None] if per_sample else x,))
        return F.cross_entropy(out, y[None] if per_sample else y)

    transformed: Any = vmap(grad(loss), (None, 0, 0)) if per_sample else grad(loss)
    expected = transformed(weights, x, y)
    with Probe(model, sites) as probe:
        with pytest.raises(RuntimeError, match=r"transforms of torch.func .*; detach the probe"):
            transformed(weights, x, y)
        probe.detach()
        actual = transformed(weights, x, y)
        probe.attach()
        with pytest.raises(RuntimeError, match=r"transforms of torch.func .*; detach the probe"):
            transformed(weights, x, y)
        F.cross_entropy(model(x), y).backward()  # nothing is the worse for it
        probe.step()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert probe.history()["n_rows"].tolist() == [ROWS]
    assert list(probe.sites) == ["1"]


@each_kind
def test_forward_mode_is_refused_where_something_would_be_recorded(kind: str) -> None:
    model, sites, x, _ = build(kind)
    with Probe(model, sites) as probe, forward_ad.dual_level():
        probe.batch()
        with pytest.raises(RuntimeError, match=r"no forward-mode derivative .*; detach the probe"):
            model(forward_ad.make_dual(x, x))


@pytest.mark.parametrize("gradients", [True, False])
@each_kind
def test_a_transform_of_the_model_itself_passes_unwatched(kind: str, gradients: bool) -> None:
    model, sites, x, _ = build(kind)
    expected = jvp(model, (x,), (x,))[1], vmap(model)(x)
    with Probe(model, sites), torch.set_grad_enabled(gradients):
        actual = jvp(model, (x,), (x,))[1], vmap(model)(x)
    for one, other in zip(actual, expected, strict=True):
        assert torch.equal(one, other)


@each_kind
def test_a_trace_is_that_of_the_model_alone(kind: str) -> None:
    model, sites, x, y = build(kind)
    with Probe(model, sites, num_classes=3) as probe:
        traced = torch.jit.trace(model, x)
        probe.batch(labels=y)
        F.cross_entropy(model(x), y).backward()
        probe.step()
    assert torch.equal(traced(x), model(x))
    assert "tfc_fast" not in str(traced.inlined_graph)
    assert probe.history()["site"].tolist() == list(probe.sites) == ["1"]


def test_a_watched_module_is_not_scripted() -> None:
    model, _, x, _ = build()
    with Probe(model), pytest.raises(RuntimeError, match="'1' is watched: detach the probe before"):
        torch.jit.script(model)
    assert torch.equal(torch.jit.script(model)(x), model(x))


def test_scripted_modules_are_refused_and_their_neighbours_are_watched() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 8), nn.ReLU()))
    model = nn.Sequential(nn.Linear(4, 4), scripted, nn.ReLU())
    with pytest.raises(ValueError, match="'1' is a scripted module, which cannot be watched"):
        Probe(model, sites=["1"])
    with Probe(model) as probe:
        probe.batch()
        model(torch.ones(ROWS, 4)).sum().backward()
        probe.step()
    assert probe.history()["site"].tolist() == ["2"]


@each_kind
def test_many_gradients_at_once_pass_unrecorded(kind: str) -> None:
    model, sites, x, y = build(kind)
    several = torch.eye(3)[:, None, :].expand(3, ROWS, 3)

    def jacobian(out: torch.Tensor) -> list[torch.Tensor]:
        parameters = list(model.parameters())
        return list(torch.autograd.grad(out, parameters, several, True, is_grads_batched=True))

    expected = jacobian(model(x))
    with Probe(model, sites, num_classes=3) as probe:
        probe.batch(labels=y)
        out = model(x)
        for one, other in zip(jacobian(out), expected, strict=True):
            assert torch.equal(one, other)
        F.cross_entropy(out, y).backward()  # this is the step's
        probe.step()
    assert probe.history()["n_rows"].tolist() == [ROWS]
