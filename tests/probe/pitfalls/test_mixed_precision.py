"""Loss scales, autocast and overflows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from by_hand import watch_by_hand
from small_models import CLASSES, batch, build, one_step

from tfc_fast import Probe, similarity


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
    assert np.isnan(steps[1]["grad_norm_mean"]).all()
    for name in ("active_rate", "dead_frac", "dead_window_frac", "gate_agreement_all"):
        np.testing.assert_array_equal(steps[2][name], plain[name], err_msg=name)


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
