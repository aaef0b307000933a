"""The phases of networks that are really trained: plain torch, no probe."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

from tfc_fast.phases import PhaseSummary, analyze


def mean_cosines(rows: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Mean cosine over pairs of one class and over pairs of different classes."""
    unit = functional.normalize(rows, dim=1)
    cosine = unit @ unit.T
    same = labels[:, None] == labels[None, :]
    within = same & ~torch.eye(len(rows), dtype=torch.bool)
    return float(cosine[within].mean()), float(cosine[~same].mean())


def train(depth: int, steps: int, seed: int = 0) -> PhaseSummary:
    digits = load_digits()
    inputs = torch.from_numpy(digits.data).float()
    inputs = (inputs - inputs.mean(0)) / inputs.std(0, unbiased=False).clamp(min=1e-6)
    labels = torch.from_numpy(digits.target).long()
    generator = torch.Generator().manual_seed(seed)
    sizes = [64] + [256] * (depth - 1) + [10]
    weights = [
        (0.41 * (2 / fan_in) ** 0.5 * torch.randn(fan_out, fan_in, generator=generator))
        for fan_in, fan_out in itertools.pairwise(sizes)
    ]
    for weight in weights:
        weight.requires_grad_()
    losses: list[float] = []
    rows: list[tuple[int, str, float, float]] = []
    for step in range(steps):
        index = torch.randperm(len(inputs), generator=generator)[:100]
        x, features = inputs[index], []
        for weight in weights[:-1]:
            x = torch.relu(x @ weight.T)
            x.retain_grad()
            features.append(x)
        loss = functional.cross_entropy(x @ weights[-1].T, labels[index])
        loss.backward()
        losses.append(loss.item())
        for layer, feature in enumerate(features):
            assert feature.grad is not None
            between = mean_cosines(feature.detach(), labels[index])[1]
            within = mean_cosines(feature.grad, labels[index])[0]
            rows.append((step, f"hidden.{layer}.relu", between, within))
        with torch.no_grad():
            for weight in weights:
                assert weight.grad is not None
                weight -= 0.05 * weight.grad
                weight.grad = None
    step_column, site, between_column, within_column = zip(*rows, strict=True)
    records = {
        "step": np.array(step_column),
        "site": np.array(site, dtype=object),
        "feature_cos_between": np.array(between_column),
        "grad_cos_within": np.array(within_column),
    }
    return analyze(losses, records, chance_loss=math.log(10))


def test_shallow_network_does_not_collapse() -> None:
    summary = train(depth=3, steps=100)
    assert summary.verdict == "none"
    assert summary.first_phase_end is not None
    assert summary.first_phase_end < 50


def test_deeper_network_collapses_and_recovers() -> None:
    summary = train(depth=5, steps=300)
    assert summary.verdict == "collapsed"
    assert summary.first_phase_end is not None
    assert 100 < summary.first_phase_end < 280
    gradients = summary.sites[0].grad_within
    assert gradients.rise > 0.2


def test_very_deep_network_is_stuck() -> None:
    summary = train(depth=11, steps=320)
    assert summary.verdict == "stuck"
    assert summary.final_loss > 2.29
