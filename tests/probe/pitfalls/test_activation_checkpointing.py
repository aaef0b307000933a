"""Activation checkpointing of both kinds: each site is recorded once per step."""

from __future__ import annotations

import pytest
import torch
from checks import assert_same_bits
from small_models import CLASSES, build
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tfc_fast import Probe


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_records_each_site_once(reentrant: bool, labelled: bool) -> None:
    x, y = torch.randn(9, 6, requires_grad=True), torch.arange(9) % CLASSES

    def run(*, probed: bool) -> tuple[list[Tensor], Probe]:
        model = build()
        probe = Probe(model, num_classes=CLASSES if labelled else None)
        if probed:
            probe.attach()
        for _ in range(2):
            if probed:
                probe.batch(labels=y if labelled else None)
            checkpoint(model, x, use_reentrant=reentrant).square().sum().backward()
            if probed:
                probe.step()
        return [parameter.grad for parameter in model.parameters()], probe

    expected, _ = run(probed=False)
    actual, probe = run(probed=True)
    for a, b in zip(actual, expected, strict=True):
        assert_same_bits(a, b)
    history = probe.history()
    assert history["step"].tolist() == [1, 1, 2, 2]
    assert history["site"].tolist() == 2 * ["1", "3"]
    assert history["n_rows"].tolist() == [9] * 4
    probe.detach()
