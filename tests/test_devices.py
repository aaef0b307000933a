"""State and results lie where the rows are, not on torch's default device; meta has no rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tfc_fast import gating, similarity

X = torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
Y = torch.tensor([0, 1, 0, 1])
PACKED = torch.tensor([[5], [3], [6], [7]])


def accumulated() -> list[Any]:
    accumulator = similarity.CosineAccumulator(3, 2)
    accumulator.update(X, Y)
    accumulator.merge(similarity.CosineAccumulator(3, 2))
    accumulator.load_state_dict(accumulator.state_dict())
    return [*accumulator.compute(), *accumulator.state_dict().values()]


def activity() -> list[Any]:
    units = gating.UnitActivity(3, window=1)
    units.update(X)
    units.load_state_dict(units.state_dict())
    results = (units.active_rate, units.dead_window, units.dead_window_frac)
    return [*results, *units.state_dict().values()]


def drift() -> list[Any]:
    of_features = similarity.FeatureDrift()
    return [of_features.update(X), of_features.update(X.flip(0)), of_features.update(X.numpy())]


def fields(histogram: Any) -> list[Any]:
    return list(vars(histogram).values())


RESULTS: dict[str, Callable[[], list[Any]]] = {
    "CosineAccumulator": accumulated,
    "UnitActivity": activity,
    "FeatureDrift": drift,
    "mean_cosine": lambda: [*similarity.mean_cosine(X, Y)],
    "cosine_spread": lambda: [*similarity.cosine_spread(X, Y)],
    "cross_cosine": lambda: [*similarity.cross_cosine(X, X)],
    "paired_cosine": lambda: [*similarity.paired_cosine(X, X)],
    "cosine_matrix": lambda: [similarity.cosine_matrix(X)],
    "cosine_histogram": lambda: fields(similarity.cosine_histogram(X, Y, bins=4)),
    "cosine_histogram of numpy": lambda: fields(similarity.cosine_histogram(X.numpy(), bins=4)),
    "gate_stats": lambda: [*gating.gate_stats(X, Y)],
    "agreement_matrix": lambda: [gating.agreement_matrix(PACKED, num_units=3)],
    "agreement_histogram": lambda: fields(gating.agreement_histogram(PACKED, Y, num_units=3)),
    "agreement_histogram of numpy": lambda: fields(gating.agreement_histogram(X.numpy())),
}


@pytest.mark.parametrize("name", RESULTS)
def test_nothing_lies_on_the_default_device(name: str) -> None:
    expected = RESULTS[name]()
    try:
        torch.set_default_device("meta")
        results = RESULTS[name]()
        # Asked here, since a comparison is made on the default device, too.
        devices = {value.device.type for value in results if isinstance(value, Tensor)}
    finally:
        torch.set_default_device(None)
    assert devices <= {"cpu"}
    for value, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(value, wanted)


def test_what_keeps_a_state_refuses_meta() -> None:
    accumulator, labelled = similarity.CosineAccumulator(3), similarity.CosineAccumulator(3, 2)
    units, of_features = gating.UnitActivity(3), similarity.FeatureDrift()
    nothing = X.to("meta")
    of_features.update(X)
    before = [str(each.state_dict()) for each in (accumulator, labelled, units)]
    refused: list[tuple[str, Callable[[], object]]] = [
        ("x: is on meta", lambda: accumulator.update(nothing)),
        ("x: is on meta", lambda: labelled.update(nothing, Y.to("meta"))),
        ("labels: on meta", lambda: labelled.update(X, Y.to("meta"))),
        ("features: is on meta", lambda: units.update(nothing)),
        ("features: is on meta", lambda: of_features.update(nothing)),
        ("features: is on meta", lambda: similarity.FeatureDrift().update(nothing)),
        ("x: is on meta", lambda: similarity.cosine_histogram(nothing)),
    ]
    for message, call in refused:
        with pytest.raises(ValueError, match=f"^{message}"):
            call()
    assert [str(each.state_dict()) for each in (accumulator, labelled, units)] == before
    assert float(of_features.update(X)) == 1, "a refused update must not count"


def test_a_state_on_meta_is_refused() -> None:
    accumulator, units = similarity.CosineAccumulator(3), gating.UnitActivity(3)
    for each, name in ((accumulator, "lost"), (units, "revived")):
        state = each.state_dict()
        with pytest.raises(ValueError, match=f"^state: {name}: is on meta"):
            each.load_state_dict({**state, name: state[name].to("meta")})


def test_rows_of_another_device_are_refused() -> None:
    # Where there is no GPU, meta stands for it.
    accumulator, of_features = similarity.CosineAccumulator(3), similarity.FeatureDrift()
    accumulator.update(X)
    accumulator._place(torch.device("meta"))
    of_features.update(X)
    of_features._ring[0] = X.to("meta")
    with pytest.raises(
        ValueError, match=r"^x: on cpu, .* before were on meta; move them, or .*merge"
    ):
        accumulator.update(X)
    with pytest.raises(ValueError, match=r"^features: wanted on meta as before, got on cpu"):
        of_features.update(X)


def test_an_accumulator_lies_where_its_first_rows_are() -> None:
    accumulator, other = similarity.CosineAccumulator(3), similarity.CosineAccumulator(3)
    other._place(torch.device("meta"))
    accumulator.merge(other)
    assert {part.device.type for part in accumulator._state()} == {"meta"}
    accumulator.reset()
    assert {part.device.type for part in accumulator._state()} == {"cpu"}
    accumulator.update(X)
    assert int(accumulator.compute().n_rows) == 4
