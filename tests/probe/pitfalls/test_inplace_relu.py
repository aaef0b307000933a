"""`nn.ReLU(inplace=True)`: gates and features are read from the output."""

from __future__ import annotations

import numpy as np
import reference
import torch.nn.functional as F
from by_hand import assert_record, row, watch_by_hand
from small_models import CLASSES, assert_same_records, batch, build, one_step, random_batch

from tfc_fast import Probe


def test_records_are_those_of_a_relu_that_is_not_in_place() -> None:
    x, y = batch()
    assert_same_records(one_step(build(inplace=True), x, y), one_step(build(), x, y))


def test_records_agree_with_brute_force(rng: np.random.Generator) -> None:
    model = build(inplace=True)
    x, y = random_batch(rng)
    with Probe(model, num_classes=CLASSES) as probe:
        seen = watch_by_hand(model)
        probe.batch(labels=y)
        F.cross_entropy(model(x), y).backward()
        probe.step()
    for index, site in enumerate(probe.sites):
        ((feature, grad),) = seen[site]
        assert_record(row(probe.history(), index), reference.site_record(feature, grad, y))
