"""Batches of one row or one class, without rows, and a last one that is short."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from by_hand import assert_record, row, watch_by_hand
from small_models import CLASSES, batch, build, one_step, random_batch

from tfc_fast import Probe
from tfc_fast.records import COLUMNS

OF_PAIRS = [name for name in COLUMNS if "_cos_" in name or "_agreement_" in name]


def test_of_one_row_nothing_that_needs_a_pair_is_measured(rng: np.random.Generator) -> None:
    records = one_step(build(), *random_batch(rng, 1))
    assert records["n_rows"].tolist() == [1, 1]
    for name in OF_PAIRS:
        assert np.isnan(records[name]).all(), name
    for name in ("feature_norm_mean", "active_rate", "dead_frac", "dead_window_frac"):
        assert not np.isnan(records[name]).any(), name


def test_of_one_class_nothing_between_classes_is_measured() -> None:
    x, y = batch()
    records = one_step(build(), x, torch.full_like(y, 1))
    for name in OF_PAIRS:
        assert np.isnan(records[name]).all() == name.endswith("_between"), name
    for name in ("feature_cos", "grad_cos", "gate_agreement"):
        np.testing.assert_allclose(records[f"{name}_within"], records[f"{name}_all"], atol=1e-12)


def test_of_a_row_per_class_nothing_within_classes_is_measured() -> None:
    x, _ = batch(CLASSES)
    records = one_step(build(), x, torch.arange(CLASSES))
    for name in OF_PAIRS:
        assert np.isnan(records[name]).all() == name.endswith("_within"), name


def test_without_rows_there_are_counts_only() -> None:
    records = one_step(build(), torch.empty(0, 6), torch.empty(0, dtype=torch.int64))
    assert records["site"].tolist() == ["1", "3"]
    for name in COLUMNS[3:]:
        wanted = 0 if name.startswith("n_") else np.nan
        np.testing.assert_array_equal(records[name], [wanted, wanted], err_msg=name)


@pytest.mark.filterwarnings("error")
def test_a_short_last_batch(rng: np.random.Generator) -> None:
    model = build()
    with Probe(model, num_classes=CLASSES) as probe:
        for index, rows in enumerate((32, 32, 5, 32, 1)):
            for module in model:
                module._forward_hooks.clear()
            seen = watch_by_hand(model)
            x, y = random_batch(rng, rows)
            probe.batch(labels=y)
            F.cross_entropy(model(x), y).backward()
            probe.step()
            history = probe.history()
            assert history["n_rows"].tolist()[-2:] == [rows, rows]
            for place, site in enumerate(probe.sites):
                ((feature, grad),) = seen[site]
                of_window = {"dead_window_frac": np.nan}
                actual = row(history, 2 * index + place) | of_window
                assert_record(actual, reference.site_record(feature, grad, y) | of_window)
