"""`create_graph=True`, gradient penalties, several losses: the first pass is recorded."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import CLASSES, assert_same_records, batch, build, one_step
from torch import Tensor

from tfc_fast import Probe
from tfc_fast.records import Records


def test_gradients_of_gradients_agree() -> None:
    def second_order(probed: bool) -> list[Tensor]:
        model = build()
        x = torch.linspace(-1, 1, 18).reshape(3, 6).requires_grad_()
        with Probe(model) as probe:
            if not probed:
                probe.detach()
            (grad,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
            grad.square().sum().backward()
            if probed:
                probe.step()
                assert probe.history()["site"].tolist() == ["1", "3"]
        return [x.grad, *(p.grad for p in model.parameters())]

    for actual, expected in zip(second_order(True), second_order(False), strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("classes", [None, CLASSES])
def test_a_gradient_penalty_is_no_second_batch(classes: int | None) -> None:
    x, y = batch()
    expected = one_step(build(), x, y, classes=classes)

    def penalised(probed: bool) -> tuple[list[Tensor], Records]:
        model = build()
        with Probe(model, num_classes=classes) as probe:
            if not probed:
                probe.detach()
            else:
                probe.batch(labels=None if classes is None else y)
            loss = F.cross_entropy(model(x), y)
            grads = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
            (loss + sum(grad.square().sum() for grad in grads)).backward()
            if probed:
                probe.step()
        return [parameter.grad for parameter in model.parameters()], probe.history()

    plain, _ = penalised(probed=False)
    watched, records = penalised(probed=True)
    for a, b in zip(watched, plain, strict=True):
        assert torch.equal(a, b)
    # The gradient of the loss; that of the penalty is another gradient of the same features.
    for name in ("n_rows", "feature_cos_all", "grad_cos_all", "grad_cos_between", "active_rate"):
        np.testing.assert_allclose(records[name], expected[name], rtol=0, atol=1e-12, err_msg=name)


def test_of_two_losses_on_one_graph_the_first_is_recorded() -> None:
    x, y = batch()
    expected = one_step(build(), x, y)
    model = build()
    with Probe(model, num_classes=CLASSES) as probe:
        probe.batch(labels=y)
        out = model(x)
        F.cross_entropy(out, y).backward(retain_graph=True)
        out.square().sum().backward()
        probe.step()
    assert_same_records(probe.history(), expected)
