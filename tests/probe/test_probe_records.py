"""What a probe records of a real model agrees with brute force on the model's own tensors."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from by_hand import assert_record, row, watch_by_hand
from torch import Tensor, nn

from tfc_fast import Probe


def small_mlp(depth: int = 4, width: int = 24, *, inplace: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    features = 12
    for _ in range(depth - 1):
        layers += [nn.Linear(features, width), nn.ReLU(inplace=inplace)]
        features = width
    return nn.Sequential(*layers, nn.Linear(features, 5))


def random_batch(rng: np.random.Generator, n: int) -> tuple[Tensor, Tensor]:
    x = torch.from_numpy(rng.standard_normal((n, 12)).astype(np.float32))
    return x, torch.from_numpy(rng.integers(0, 5, n))


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x), y)


@pytest.mark.parametrize("micro_batches", [1, 3])
def test_records_agree_with_brute_force(rng: np.random.Generator, micro_batches: int) -> None:
    model = small_mlp()
    with Probe(model, num_classes=5) as probe:
        seen = watch_by_hand(model)
        labels = []
        for _ in range(micro_batches):
            x, y = random_batch(rng, int(rng.integers(2, 70)))
            labels.append(y)
            probe.batch(labels=y)
            loss = loss_of(model, x, y)
            loss.backward()
        probe.step(loss=loss)
    history = probe.history()
    assert history["site"].tolist() == ["1", "3", "5"]
    assert history["step"].tolist() == [1, 1, 1]
    np.testing.assert_allclose(history["loss"], loss.item())
    for index, site in enumerate(history["site"]):
        features, grads = zip(*seen[site], strict=True)
        assert_record(row(history, index), reference.site_record(features, grads, labels))


def test_without_classes_only_means_over_all_pairs_are_measured(rng: np.random.Generator) -> None:
    model = small_mlp()
    with Probe(model) as probe:
        seen = watch_by_hand(model)
        x, y = random_batch(rng, 30)
        loss_of(model, x, y).backward()
        probe.step()
    history = probe.history()
    features, grads = zip(*seen["3"], strict=True)
    assert_record(row(history, 1), reference.site_record(features, grads, None))
    assert np.isnan(history["feature_cos_within"]).all()
    assert np.isnan(history["grad_cos_between"]).all()
    assert np.isnan(history["loss"]).all()


def test_dead_window_looks_back_over_the_last_steps() -> None:
    # One linear layer whose rows are switched on and off from outside, so that the units that are
    # open in each step are known.
    linear = nn.Linear(1, 4, bias=False)
    model = nn.Sequential(linear, nn.ReLU())
    open_units = [{0, 1}, {1}, {2}, set(), set(), {3}]
    with Probe(model, window=3) as probe:
        for units in open_units:
            with torch.no_grad():
                linear.weight.copy_(torch.tensor([[1.0 if j in units else -1.0] for j in range(4)]))
            model(torch.ones(5, 1)).sum().backward()
            probe.step()
    dead_for = [4 - len(set().union(*open_units[max(0, step - 2) : step + 1])) for step in range(6)]
    assert (4 * probe.history()["dead_window_frac"]).tolist() == dead_for
    assert (4 * probe.history()["dead_frac"]).tolist() == [2, 3, 3, 4, 4, 3]


@pytest.mark.parametrize("compiled", [False, True])
def test_wide_sites_get_room_in_the_window_buffer(compiled: bool) -> None:
    # Wider than what is reserved per site. A compiled forward has no say in it, so there the buffer
    # grows after the first step, which has no statistics of single units.
    model = nn.Sequential(nn.Linear(2, 9000), nn.ReLU(), nn.Linear(9000, 3), nn.ReLU())
    run = torch.compile(model, backend="aot_eager") if compiled else model
    with Probe(model) as probe:
        for _ in range(3):
            run(torch.ones(4, 2)).sum().backward()
            probe.step()
    history = probe.history()
    wide = history["site"] == "1"
    first = 1 if compiled else 0
    assert np.isnan(history["dead_window_frac"][wide]).tolist() == [compiled, False, False]
    np.testing.assert_array_equal(
        history["dead_window_frac"][wide][first:], history["dead_frac"][wide][first:].clip(0, 1)
    )
    assert not np.isnan(history["dead_window_frac"][~wide]).any()


def test_every_records_the_first_step_and_each_kth_after(rng: np.random.Generator) -> None:
    model = small_mlp(depth=2)
    with Probe(model, num_classes=5, every=3) as probe:
        for _ in range(8):
            x, y = random_batch(rng, 9)
            probe.batch(labels=y)
            loss = loss_of(model, x, y)
            loss.backward()
            probe.step(loss=loss)
    assert probe.history()["step"].tolist() == [1, 4, 7]
