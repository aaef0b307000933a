"""One module called several times in a forward: a site per call, forward and backward paired."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from by_hand import assert_record, row, watch_by_hand
from small_models import CLASSES, random_batch
from torch import Tensor, nn

from tfc_fast import Probe


class Shared(nn.Module):
    """One ReLU for three layers of different widths."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 8), nn.Linear(8, 5), nn.Linear(5, 7)])
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.act(layer(x))
        return x


@pytest.mark.parametrize("labelled", [True, False])
def test_a_site_per_call(rng: np.random.Generator, labelled: bool) -> None:
    model = Shared()
    with Probe(model, num_classes=CLASSES if labelled else None) as probe:
        for step in range(3):
            seen = watch_by_hand(model)
            x, y = random_batch(rng)
            probe.batch(labels=y if labelled else None)
            model(x).square().sum().backward()
            probe.step()
            model.act._forward_hooks.clear()
            history = probe.history()
            assert history["site"].tolist() == ["act", "act#1", "act#2"] * (step + 1)
            # Backward comes to the last call first.
            for call, (feature, grad) in enumerate(reversed(seen["act"])):
                actual = row(history, 3 * step + call) | {"dead_window_frac": np.nan}
                expected = reference.site_record(feature, grad, y if labelled else None)
                assert_record(actual, expected | {"dead_window_frac": np.nan})


def test_calls_of_which_some_get_no_gradient() -> None:
    model = Shared()
    x, _ = random_batch(np.random.default_rng(0))
    with Probe(model) as probe:
        hidden = model.act(model.layers[0](x))
        with torch.no_grad():
            model.act(hidden)  # not a call that is counted
        model.act(model.layers[0](x).detach().requires_grad_())  # one that nothing comes back to
        model.act(model.layers[1](hidden)).sum().backward()
        probe.step()
        with pytest.warns(RuntimeWarning, match="'act#2' has a record in a step in which 'act#1'"):
            assert probe.history()["site"].tolist() == ["act", "act#2"]
