from __future__ import annotations

import math

import pytest
import torch

from tfc_fast.trainer.objective import chance_loss, loss_function


def test_mse_is_the_mean_squared_distance_to_one_hot_targets() -> None:
    output = torch.tensor([[0.5, 0.0, -1.0], [0.0, 2.0, 1.0]], dtype=torch.float64)
    labels = torch.tensor([0, 2])
    wanted = (0.25 + 0.0 + 1.0 + 0.0 + 4.0 + 0.0) / 6
    assert loss_function("mse")(output, labels).item() == pytest.approx(wanted, rel=1e-12)


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(ValueError, match="loss: 'hinge' given, one of cross_entropy, mse"):
        loss_function("hinge")


@pytest.mark.parametrize("name", ["cross_entropy", "mse"])
def test_chance_loss_is_the_loss_of_the_best_constant_output(name: str) -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 3])
    frequency = torch.tensor([3, 2, 0, 1], dtype=torch.float64) / 6
    constant = torch.log(frequency + 1e-30) if name == "cross_entropy" else frequency
    loss = loss_function(name)(constant.expand(6, 4), labels).item()
    assert chance_loss(name, labels, 4) == pytest.approx(loss, rel=1e-9)


def test_chance_loss_of_balanced_classes_is_the_logarithm_of_their_number() -> None:
    assert chance_loss("cross_entropy", torch.arange(100) % 5, 5) == pytest.approx(math.log(5))
