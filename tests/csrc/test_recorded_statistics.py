"""The numbers that the backward ops leave with the recorder are those of the reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import reference
import torch
from checks import COSINE_TOLERANCE, DTYPES, dtype_name
from recording import (
    GRAD_LAYOUTS,
    LAYOUTS,
    STATISTICS,
    end_step,
    make_recorder,
    relu_backward,
    tap_backward,
)
from torch import Tensor

from tfc_fast import _C

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
Backward = Callable[..., object]
each_backward = pytest.mark.parametrize("backward", [relu_backward, tap_backward])

NORM_TOLERANCE = {"float16": 5e-7, "bfloat16": 5e-7, "float32": 5e-7, "float64": 1e-13}


def check_record(actual: dict[str, float], expected: dict[str, float], dtype: str) -> None:
    assert set(expected) == set(STATISTICS)
    for name in STATISTICS:
        absolute = COSINE_TOLERANCE[dtype] if "cos" in name else 0
        relative = NORM_TOLERANCE[dtype] if "norm" in name else 0
        np.testing.assert_allclose(
            actual[name], expected[name], rtol=relative, atol=absolute, err_msg=name
        )


def random_pair(
    rng: np.random.Generator, n: int, d: int, dtype: torch.dtype, *, odd: bool = False
) -> tuple[Tensor, Tensor]:
    """A feature with dead and always open units, and a gradient; `odd`: of all sorts of rows."""
    bias = rng.choice([-100.0, 100.0, *rng.standard_normal(8)], d)
    feature = torch.from_numpy(rng.standard_normal((n, d)) + bias).relu()
    grad = torch.from_numpy(rng.standard_normal((n, d)) + rng.standard_normal(d))
    if odd:
        for x in (feature, grad):
            x *= torch.from_numpy(rng.choice([1.0, 1e-3, 1e-10, 1e-20, 1e-30, 1e30], (n, 1)))
            x[torch.from_numpy(rng.random(n) < 0.1)] = 0
            for bad in (math.nan, math.inf, -math.inf):
                x[torch.from_numpy(rng.random(n) < 0.03), int(rng.integers(d))] = bad
    return feature.to(dtype), grad.to(dtype)


def record(
    backward: Backward,
    pairs: Sequence[tuple[Tensor, Tensor]],
    labels: Sequence[Tensor] | None = None,
    num_classes: int = 0,
) -> dict[str, float]:
    recorder = make_recorder(num_classes=num_classes)
    for i, (feature, grad) in enumerate(pairs):
        recorder.begin_batch(None if labels is None else labels[i])
        backward(recorder, grad, feature, site=1)
    return end_step(recorder, site=1)


@each_dtype
@each_backward
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize(
    ("n", "d"), [(1, 1), (2, 7), (3, 64), (33, 17), (127, 300), (700, 65), (4, 4096), (40, 128)]
)
def test_one_batch(
    rng: np.random.Generator, backward: Backward, n: int, d: int, odd: bool, dtype: torch.dtype
) -> None:
    feature, grad = random_pair(rng, n, d, dtype, odd=odd)
    labels = torch.from_numpy(rng.integers(0, 7, n))
    actual = record(backward, [(feature, grad)], [labels], num_classes=9)
    check_record(actual, reference.site_record(feature, grad, labels), dtype_name(feature))
    actual = record(backward, [(feature, grad)])
    check_record(actual, reference.site_record(feature, grad), dtype_name(feature))


@each_dtype
@each_backward
def test_several_micro_batches(
    rng: np.random.Generator, backward: Backward, dtype: torch.dtype
) -> None:
    pairs = [random_pair(rng, n, 50, dtype, odd=n > 30) for n in (30, 1, 0, 100, 7)]
    labels = [torch.from_numpy(rng.integers(0, 4, len(f))) for f, _ in pairs]
    features, grads = [f for f, _ in pairs], [g for _, g in pairs]
    actual = record(backward, pairs, labels, num_classes=4)
    expected = reference.site_record(features, grads, labels)
    check_record(actual, expected, dtype_name(features[0]))
    assert actual["n_rows"] == 138


@each_backward
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 3, 2), (0,)])
def test_nothing_to_measure(backward: Backward, shape: tuple[int, ...]) -> None:
    x = torch.ones(shape)
    labels = torch.zeros(len(x), dtype=torch.int64)
    actual = record(backward, [(x, x)], [labels], num_classes=2)
    check_record(actual, reference.site_record(x, x, labels), "float32")
    assert math.isnan(actual["dead_frac"])


@each_backward
@pytest.mark.parametrize("feature_layout", LAYOUTS)
@pytest.mark.parametrize("grad_layout", GRAD_LAYOUTS)
def test_every_layout(
    rng: np.random.Generator, backward: Backward, grad_layout: str, feature_layout: str
) -> None:
    feature, grad = (x.view(20, 3, 4, 5) for x in random_pair(rng, 20, 60, torch.float32))
    feature, grad = LAYOUTS[feature_layout](feature), GRAD_LAYOUTS[grad_layout](grad)
    labels = torch.from_numpy(rng.integers(0, 3, 20))
    actual = record(backward, [(feature, grad)], [labels], num_classes=3)
    check_record(actual, reference.site_record(feature, grad, labels), "float32")


@each_backward
def test_rows_bad_in_feature_or_gradient_only(rng: np.random.Generator, backward: Backward) -> None:
    feature, grad = random_pair(rng, 20, 30, torch.float32)
    feature[0, 0] = math.nan  # a bad feature, a good gradient
    grad[1, 1] = math.inf
    feature[2, 2] = grad[2, 3] = -math.inf
    feature[3] = 0
    grad[4] = 0
    feature[5], grad[5, 5] = 0, math.nan
    actual = record(backward, [(feature, grad)])
    check_record(actual, reference.site_record(feature, grad), "float32")
    counts = {name: actual[name] for name in STATISTICS if name.startswith("n_")}
    assert counts == {"n_rows": 20, "n_zero_features": 2, "n_zero_grads": 1, "n_nonfinite": 4}


@each_dtype
def test_gradients_of_a_stuck_network(rng: np.random.Generator, dtype: torch.dtype) -> None:
    # Parallel features, and gradients far below what float32 squares can hold.
    n, d = 128, 256
    feature = torch.from_numpy(np.tile(rng.uniform(0, 1, d), (n, 1))).to(dtype)
    scale = 1e-6 if dtype is torch.float16 else 1e-30
    labels = torch.from_numpy(rng.integers(0, 10, n))
    centres = torch.from_numpy(rng.standard_normal((10, d)))
    grad = (centres[labels] * scale * torch.from_numpy(rng.uniform(0.1, 1, (n, 1)))).to(dtype)
    actual = record(relu_backward, [(feature, grad)], [labels], num_classes=10)
    check_record(actual, reference.site_record(feature, grad, labels), dtype_name(feature))
    assert actual["feature_cos_between"] == pytest.approx(1, rel=0, abs=1e-5)
    assert actual["grad_cos_within"] > 0.8


def test_a_tapped_tensor_that_is_overwritten_is_not_recorded_as_what_it_became(
    rng: np.random.Generator,
) -> None:
    # As in a watched nn.Linear before nn.ReLU(inplace=True): right numbers or an error, no others.
    x = torch.from_numpy(rng.standard_normal((20, 30))).requires_grad_()
    recorder = make_recorder()
    y = _C.tap(x * 1, recorder, 0)
    feature = y.detach().clone()
    try:
        y.relu_().sum().backward()
    except RuntimeError as error:
        assert "inplace" in str(error)  # noqa: PT017
        return
    grad = (feature > 0).double()
    check_record(end_step(recorder), reference.site_record(feature, grad), "float64")


@each_backward
def test_sites_are_kept_apart(rng: np.random.Generator, backward: Backward) -> None:
    recorder = make_recorder(num_sites=3, num_classes=3)
    pairs = {0: random_pair(rng, 20, 7, torch.float64), 2: random_pair(rng, 20, 90, torch.float64)}
    labels = torch.from_numpy(rng.integers(0, 3, 20))
    recorder.begin_batch(labels)
    for site, (feature, grad) in pairs.items():
        backward(recorder, grad, feature, site=site)
    recorder.end_step(0.25)
    values, steps, losses = recorder.drain()
    assert (steps.tolist(), losses.tolist()) == ([1], [0.25])
    assert math.isnan(values[0, 1, STATISTICS.index("n_rows")]), "site 1 was not seen"
    for site, (feature, grad) in pairs.items():
        actual = dict(zip(STATISTICS, values[0, site].tolist(), strict=True))
        check_record(actual, reference.site_record(feature, grad, labels), "float64")


def test_each_step_starts_afresh_and_the_window_looks_back(rng: np.random.Generator) -> None:
    window, n, d = 3, 4, 200
    recorder = make_recorder(window=window)
    past: list[Tensor] = []
    for step in range(1, 9):
        feature = torch.from_numpy(rng.random((n, d)) - 0.95).relu()
        grad = torch.from_numpy(rng.standard_normal((n, d)))
        if step == 5:  # in this step the site takes no part
            recorder.end_step(0.0)
            past.append(torch.zeros(n, d))
            continue
        relu_backward(recorder, grad, feature)
        expected = reference.site_record(feature, grad, earlier=past[1 - window :])
        check_record(end_step(recorder), expected, "float64")
        assert 0 < expected["dead_window_frac"] < expected["dead_frac"] or step == 1
        past.append(feature)


def test_a_discarded_step_leaves_no_trace(rng: np.random.Generator) -> None:
    recorder = make_recorder(num_classes=3)
    feature, grad = random_pair(rng, 20, 40, torch.float32)
    labels = torch.from_numpy(rng.integers(0, 3, 20))
    recorder.begin_batch(labels)
    relu_backward(recorder, 2 * grad, feature.flip(0))
    recorder.discard_step()
    recorder.begin_batch(labels)
    relu_backward(recorder, grad, feature)
    actual = end_step(recorder)
    check_record(actual, reference.site_record(feature, grad, labels), "float32")


def test_a_site_without_room_for_its_units_gets_it_after_the_step(
    rng: np.random.Generator,
) -> None:
    recorder = make_recorder(units=50)
    first, second = random_pair(rng, 20, 40, torch.float64), random_pair(rng, 20, 30, torch.float64)

    def step() -> list[dict[str, float]]:
        for site, (feature, grad) in enumerate((first, second)):
            relu_backward(recorder, grad, feature, site=site)
        recorder.end_step(0.0)
        values, _, _ = recorder.drain()
        return [dict(zip(STATISTICS, row.tolist(), strict=True)) for row in values[0]]

    unplaced = {"dead_frac": math.nan, "always_on_frac": math.nan, "dead_window_frac": math.nan}
    expected = [reference.site_record(f, g) for f, g in (first, second)]
    before = step()
    check_record(before[0], expected[0], "float64")
    check_record(before[1], expected[1] | unplaced, "float64")
    capacity = recorder.units.shape[1]
    assert capacity >= 70
    for actual, wanted in zip(step(), expected, strict=True):
        check_record(actual, wanted, "float64")
    assert recorder.units.shape[1] == capacity


def test_more_columns_than_the_recorder_has_would_be_noticed() -> None:
    assert len(STATISTICS) == _C.STEP_COLUMNS
