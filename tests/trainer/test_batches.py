from __future__ import annotations

import pytest
import torch

from tfc_fast.trainer.batches import Batches, epoch_order


def test_order_depends_on_seed_and_epoch_alone() -> None:
    orders = {
        (seed, epoch): tuple(epoch_order(seed, epoch, 50).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(set(orders.values())) == len(orders)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    for (seed, epoch), order in reversed(orders.items()):
        assert tuple(epoch_order(seed, epoch, 50).tolist()) == order
        assert sorted(order) == list(range(50))
    assert torch.equal(torch.get_rng_state(), state)


def test_an_epoch_has_each_sample_at_most_once_with_its_own_label() -> None:
    inputs = torch.arange(23.0)[:, None]
    batches = Batches(inputs, torch.arange(23), batch_size=5, seed=1)
    assert batches.per_epoch == 4
    seen = []
    for step in range(1, 5):
        x, y = batches.at(step)
        assert torch.equal(x[:, 0].long(), y)
        assert len(y) == 5
        seen += y.tolist()
    assert len(set(seen)) == 20


def test_a_step_can_be_asked_for_in_any_order() -> None:
    def new() -> Batches:
        return Batches(torch.arange(12.0)[:, None], torch.arange(12), batch_size=4, seed=3)

    one = new()
    forward = [one.at(step)[1] for step in range(1, 10)]
    backward = [new().at(step)[1] for step in range(9, 0, -1)][::-1]
    for a, b in zip(forward, backward, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(torch.stack(forward[:3]), torch.stack(forward[3:6]))


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size: 11 given, the data set has only 10 samples"):
        Batches(torch.zeros(10, 2), torch.zeros(10, dtype=torch.int64), batch_size=11, seed=0)
