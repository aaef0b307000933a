"""Long runs: memory stays as it is."""

from __future__ import annotations

import gc
import weakref

import psutil
import torch
from torch import nn

from tfc_fast import Probe, tap


def test_no_tensor_outlives_its_step() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    with Probe(model) as probe:
        out = model(torch.ones(2, 4))
        loss = out.sum()
        feature = weakref.ref(tap(out, "out"))
        storage = weakref.ref(out.untyped_storage())
        loss.backward()
        probe.step(loss=loss)
        del out, loss
        gc.collect()
        assert feature() is None
        assert storage() is None


def test_memory_stays_flat() -> None:
    process = psutil.Process()
    model = nn.Sequential(*[layer for _ in range(4) for layer in (nn.Linear(8, 8), nn.ReLU())])
    x, y = torch.randn(16, 8), torch.arange(16) % 4
    sizes = []
    with Probe(model, num_classes=4, history_records=2000) as probe:
        for step in range(20_000):
            probe.batch(labels=y)
            loss = model(x).sum()
            loss.backward()
            probe.step(loss=loss)
            if step >= 4000 and step % 1000 == 999:
                gc.collect()
                sizes.append(process.memory_info().rss)
    # A leak of one float64 per site and step would be 0.5 MB.
    assert max(sizes) - min(sizes) < 0.5 * 2**20, sizes
