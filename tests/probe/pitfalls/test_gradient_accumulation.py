"""Gradient accumulation: micro-batches are combined by their numbers of pairs.

That all columns agree with brute force: tests/probe/test_probe_records.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from checks import COSINE_TOLERANCE
from small_models import CLASSES, build, one_step, random_batch

from tfc_fast import Probe

TOLERANCE = COSINE_TOLERANCE["float32"]

# What a mean is taken over, of n rows in classes of n_c: pairs of rows, or rows.
WEIGHTS = {
    "all": lambda counts: counts.sum() * (counts.sum() - 1),
    "within": lambda counts: (counts * (counts - 1)).sum(),
    "between": lambda counts: counts.sum() ** 2 - (counts**2).sum(),
}


@pytest.mark.parametrize("rows", [(10, 10), (3, 30), (1, 20), (4, 9, 17)])
def test_means_are_weighted_by_numbers_of_pairs(
    rng: np.random.Generator, rows: tuple[int, ...]
) -> None:
    batches = [random_batch(rng, n) for n in rows]
    alone = [one_step(build(), x, y) for x, y in batches]
    model = build()
    with Probe(model, num_classes=CLASSES) as probe:
        for x, y in batches:
            probe.batch(labels=y)
            F.cross_entropy(model(x), y).backward()
        probe.step()
    together = probe.history()
    assert together["step"].tolist() == [1, 1]
    assert together["n_rows"].tolist() == [sum(rows)] * 2
    for kind, weight in WEIGHTS.items():
        weights = np.array([weight(torch.bincount(y).numpy()) for _, y in batches])
        measured = weights > 0
        for prefix in ("feature_cos", "grad_cos", "gate_agreement"):
            name = f"{prefix}_{kind}"
            means = np.array([records[name] for records in alone])[measured]
            wanted = weights[measured] @ means / weights.sum() if measured.any() else np.nan
            np.testing.assert_allclose(together[name], wanted, rtol=0, atol=TOLERANCE, err_msg=name)
    means = np.array([records["active_rate"] for records in alone])
    np.testing.assert_allclose(together["active_rate"], np.array(rows) @ means / sum(rows), 1e-12)


def test_pairs_of_different_micro_batches_are_in_no_statistic() -> None:
    """Each micro-batch is one row many times over: every pair within it has cosine 1."""
    model = build()
    generator = torch.Generator().manual_seed(1)
    with Probe(model) as probe:
        for _ in range(4):
            x = torch.randn(1, 6, generator=generator).expand(5, 6)
            probe.batch()
            model(x).square().sum().backward()
        probe.step()
    np.testing.assert_allclose(probe.history()["feature_cos_all"], 1.0, rtol=0, atol=1e-6)
    np.testing.assert_allclose(probe.history()["gate_agreement_all"], 1.0)
    assert (probe.history()["active_rate"] < 1).all()
