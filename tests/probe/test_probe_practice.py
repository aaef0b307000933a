"""Several probes, a forward too many, and batches that come from other processes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_models import CLASSES, assert_same_records, batch, build, one_step
from torch.utils.data import DataLoader, TensorDataset
from training import train_steps

from tfc_fast import Probe


def test_two_forwards_with_one_batch_are_still_an_error() -> None:
    x, y = batch()
    model = build()
    with Probe(model, num_classes=CLASSES) as probe:
        probe.batch(labels=y)
        F.cross_entropy(model(x), y).backward()
        with pytest.raises(ValueError, match="labels are missing"):
            F.cross_entropy(model(x), y).backward()


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


def test_workers_of_a_loader_are_no_matter() -> None:
    x, y = batch()

    def train(workers: int) -> Probe:
        model = build()
        loader = DataLoader(TensorDataset(x, y), batch_size=4, num_workers=workers)
        with Probe(model, num_classes=CLASSES) as probe:
            for _ in range(2):  # its workers begin anew, as copies of this process
                optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
                train_steps(model, optimizer, loader, probe)
        return probe

    assert_same_records(train(2).history(), train(0).history())
