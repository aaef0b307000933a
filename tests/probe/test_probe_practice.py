"""The probe in the ways in which people train: loss scales, penalties, several losses, copies."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from by_hand import watch_by_hand
from torch import Tensor, nn

from tfc_fast import Probe, similarity
from tfc_fast.records import Records

CLASSES = 3


def build() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, CLASSES)
    )


def batch(rows: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(rows, 6, generator=generator), torch.arange(rows) % CLASSES


def one_step(model: nn.Module, x: Tensor, y: Tensor, *, classes: int | None = CLASSES) -> Records:
    with Probe(model, num_classes=classes) as probe:
        probe.batch(labels=None if classes is None else y)
        F.cross_entropy(model(x), y).backward()
        probe.step()
    return probe.history()


def assert_same_records(actual: Records, expected: Records) -> None:
    for name, column in expected.items():
        np.testing.assert_array_equal(actual[name], column, err_msg=name)


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


def test_two_forwards_with_one_batch_are_still_an_error() -> None:
    x, y = batch()
    model = build()
    with Probe(model, num_classes=CLASSES) as probe:
        probe.batch(labels=y)
        F.cross_entropy(model(x), y).backward()
        with pytest.raises(ValueError, match="labels are missing"):
            F.cross_entropy(model(x), y).backward()


def test_a_loss_scale_cancels_in_cosines_and_an_overflow_stays_in_its_step() -> None:
    x, y = batch()
    plain = one_step(build(), x, y)
    model = build()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with Probe(model, num_classes=CLASSES) as probe:
        for factor in (1.0, float("inf"), 1.0):
            probe.batch(labels=y)
            loss = scaler.scale(F.cross_entropy(model(x), y)) * factor
            loss.backward()
            probe.step()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    history = probe.history()
    steps = [{n: c[history["step"] == step] for n, c in history.items()} for step in (1, 2, 3)]
    for step, scale in ((steps[0], 1024.0), (steps[2], 512.0)):
        for name in ("grad_cos_all", "grad_cos_within", "grad_cos_between", "feature_cos_all"):
            np.testing.assert_allclose(step[name], plain[name], rtol=0, atol=1e-9, err_msg=name)
        np.testing.assert_allclose(step["grad_norm_mean"], scale * plain["grad_norm_mean"], 1e-6)
        assert step["n_nonfinite"].tolist() == [0, 0]
    assert steps[1]["n_nonfinite"].tolist() == [24, 24]
    assert np.isnan(steps[1]["grad_cos_all"]).all()


def test_bfloat16_autocast() -> None:
    x, y = batch(96)
    model, by_hand = build(), build()
    seen = watch_by_hand(by_hand)
    with Probe(model, num_classes=CLASSES) as probe:
        for net in (model, by_hand):
            if net is model:
                probe.batch(labels=y)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(net(x).float(), y)
            loss.backward()
        probe.step()
    records = probe.history()
    assert len(seen) == 2
    for index, site in enumerate(probe.sites):
        ((feature, grad),) = seen[site]
        assert feature.dtype == grad.dtype == torch.bfloat16
        for name, rows in (("feature", feature), ("grad", grad)):
            wanted = similarity.mean_cosine(rows.double(), y, num_classes=CLASSES)
            for kind in ("all", "within", "between"):
                actual = records[f"{name}_cos_{kind}"][index]
                assert actual == pytest.approx(float(getattr(wanted, kind)), abs=1e-6)
    for a, b in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_copies_are_not_attached_and_have_the_same_keys() -> None:
    x, y = batch()
    model = build()
    keys = list(model.state_dict())
    with Probe(model, num_classes=CLASSES) as probe:
        assert list(model.state_dict()) == keys
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        copies = [
            copy.deepcopy(model),
            pickle.loads(pickle.dumps(model)),
            torch.load(buffer, weights_only=False),
        ]
        for other in copies:
            assert type(other[1]) is nn.ReLU
            F.cross_entropy(other(x), y).backward()
        probe.batch(labels=y)
        F.cross_entropy(model(x), y).backward()
        probe.step()
    assert probe.history()["n_rows"].tolist() == [24, 24]


def test_two_models_with_a_probe_each() -> None:
    x, y = batch()
    expected = one_step(build(), x, y)
    first, second = build(), build()
    with Probe(first, num_classes=CLASSES) as one, Probe(second, num_classes=CLASSES) as other:
        one.batch(labels=y)
        other.batch(labels=y)
        (F.cross_entropy(first(x), y) + F.cross_entropy(second(x), y)).backward()
        one.step()
        other.step()
    for probe in (one, other):
        assert_same_records(probe.history(), expected)


def test_two_probes_on_parts_of_one_model() -> None:
    x, y = batch()
    expected = one_step(build(), x, y)
    model = build()
    with Probe(model, "1", num_classes=CLASSES) as one, Probe(model, "3") as other:
        one.batch(labels=y)
        F.cross_entropy(model(x), y).backward()
        one.step()
        other.step()
    site = expected["site"] == "1"
    assert_same_records(one.history(), {n: c[site] for n, c in expected.items()})
    mean = pytest.approx(expected["feature_cos_all"][~site], abs=1e-6)
    assert other.history()["feature_cos_all"] == mean
