from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from checks import (
    DTYPES,
    INSTRUCTION_SETS,
    LARGE_SHAPES,
    SHAPES,
    check_gate_stats,
    random_features,
    random_labels,
)
from torch import Tensor

from tfc_fast.gating import gate_stats


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_every_shape(rng: np.random.Generator, n: int, d: int, dtype: torch.dtype) -> None:
    stats = check_gate_stats(random_features(rng, n, d, dtype), random_labels(rng, n))
    assert int(stats.n_rows) == n
    assert math.isnan(stats.active_rate) == (n == 0)


@pytest.mark.parametrize(("n", "d"), LARGE_SHAPES)
def test_large_shapes(rng: np.random.Generator, n: int, d: int) -> None:
    check_gate_stats(random_features(rng, n, d, torch.float32), random_labels(rng, n))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d", [1, 15, 16, 17, 33, 63, 64, 65, 127, 128, 129, 300])
def test_widths_around_lanes_and_strips(
    rng: np.random.Generator, d: int, dtype: torch.dtype
) -> None:
    for n in (31, 32, 33, 100):
        check_gate_stats(random_features(rng, n, d, dtype), random_labels(rng, n))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gate_is_open_above_zero_only(rng: np.random.Generator, dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    least = info.smallest_normal * info.eps  # the least subnormal
    is_open = {info.max: 1, math.inf: 1, info.tiny: 1, least: 1, 1.0: 1}
    is_open |= {-value: 0 for value in is_open} | {0.0: 0, math.nan: 0}
    for value, wanted in is_open.items():
        x = torch.full((3, 50), value, dtype=dtype)
        assert float(check_gate_stats(x).active_rate) == wanted, value
    assert float(gate_stats(torch.full((3, 50), -0.0, dtype=dtype)).active_rate) == 0
    values = rng.choice([*is_open, -0.0], (200, 131))
    check_gate_stats(torch.from_numpy(values).to(dtype), random_labels(rng, 200))


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_flushing_denormals_shuts_no_gate(
    flush_denormal: Callable[[bool], bool],
    use_instruction_set: Callable[[str], None],
    instruction_set: str,
) -> None:
    x = torch.full((3, 50), 1e-6, dtype=torch.float16)  # a subnormal half is a normal float
    use_instruction_set(instruction_set)
    assert flush_denormal(True)
    stats = gate_stats(x)
    flush_denormal(False)
    assert float(stats.active_rate) == 1


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dead_and_always_on_units(rng: np.random.Generator, dtype: torch.dtype) -> None:
    n, d = 97, 200
    x = torch.from_numpy(rng.uniform(0.5, 1, (n, d)))
    x[torch.from_numpy(rng.integers(0, n, d)), torch.arange(d)] = 0  # shut once, else open
    x[:, :30] = 0
    x[:, 30:35] = 1
    stats = check_gate_stats(x.to(dtype), random_labels(rng, n))
    assert float(stats.dead_frac) == 30 / 200
    assert float(stats.always_on_frac) == 5 / 200
    x[int(rng.integers(n)), :30] = 1  # open once: dead no more
    assert float(check_gate_stats(x.to(dtype)).dead_frac) == 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_has_no_pairs_is_nan(rng: np.random.Generator, dtype: torch.dtype) -> None:
    x = random_features(rng, 4, 7, dtype)

    def is_nan(x: Tensor, labels: list[int] | None) -> list[bool]:
        y = None if labels is None else torch.tensor(labels, dtype=torch.int64)
        return [math.isnan(value) for value in check_gate_stats(x, y)[:6]]

    measured = [False, False, False]
    assert is_nan(x[:0], None) == [True] * 6
    assert is_nan(x[:0], []) == [True] * 6
    assert is_nan(x[:1], [3]) == [*measured, True, True, True]
    assert is_nan(x, None) == [*measured, False, True, True]
    assert is_nan(x, [2, 2, 2, 2]) == [*measured, False, False, True]
    assert is_nan(x, [3, 0, 2, 1]) == [*measured, False, True, False]
    assert is_nan(x, [0, 1, 1, 1]) == [*measured, False, False, False]
    assert is_nan(x[:, :0], [0, 1, 1, 1]) == [True] * 6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_uneven_and_empty_classes(rng: np.random.Generator, dtype: torch.dtype) -> None:
    n = 500
    x = random_features(rng, n, 65, dtype)
    labels = torch.full((n,), 7)
    labels[int(rng.integers(n))] = 3
    check_gate_stats(x, labels)
    check_gate_stats(x, labels, num_classes=1000)
    check_gate_stats(x, torch.from_numpy(rng.permutation(n)))
    check_gate_stats(x, torch.from_numpy(rng.geometric(0.5, n)))


def test_labels_that_tell_the_rows_apart(rng: np.random.Generator) -> None:
    labels = torch.from_numpy(rng.permutation(np.repeat([0, 4], [33, 70])))
    x = torch.zeros(103, 20)
    x[labels == 0, :15] = 1
    stats = gate_stats(x, labels)
    assert float(stats.agreement_within) == 1
    assert float(stats.agreement_between) == 0.25


def test_rows_that_are_zero_or_not_finite_count_like_any_other(rng: np.random.Generator) -> None:
    x = random_features(rng, 50, 40, torch.float32)
    x[3] = 0
    x[4, 5] = math.nan
    x[5, 6] = math.inf
    assert int(check_gate_stats(x, random_labels(rng, 50)).n_rows) == 50


def test_results_are_detached_scalars(rng: np.random.Generator) -> None:
    x = random_features(rng, 5, 4, torch.bfloat16).requires_grad_()
    stats = gate_stats(x, torch.tensor([0, 0, 1, 1, 1]))
    assert [value.dtype for value in stats] == 6 * [torch.float64] + [torch.int64]
    assert all(value.shape == () and not value.requires_grad for value in stats)
