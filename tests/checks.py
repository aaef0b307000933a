"""Comparisons of the package's functions with their twins in `reference`, shared by the tests."""

from __future__ import annotations

import numpy as np
import reference
import torch
from reference import Array
from torch import Tensor

from tfc_fast import _C
from tfc_fast.gating import GateStats, gate_stats
from tfc_fast.similarity import CosineMeans, mean_cosine

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

# The row counts and widths of NUMERICS.md. 4096 rows are compared in 8 million pairs, so only
# float32 goes through all widths that the time allows.
SHAPES = [(n, d) for n in (0, 1, 2, 3) for d in (1, 7, 64, 1000, 4096, 200_000)]
SHAPES += [(127, d) for d in (1, 7, 64, 1000, 4096)] + [(4096, 64)]
LARGE_SHAPES = [(127, 200_000), (4096, 1), (4096, 7), (4096, 1000)]

INSTRUCTION_SETS = _C.build_info()["instruction_sets_available"].split()

# Absolute, for every mean of cosines.
COSINE_TOLERANCE = {"float16": 1e-5, "bfloat16": 1e-5, "float32": 1e-6, "float64": 1e-12}


def random_labels(rng: np.random.Generator, n: int, num_classes: int = 5) -> Tensor:
    return torch.from_numpy(rng.integers(0, num_classes, n))


def random_features(rng: np.random.Generator, n: int, d: int, dtype: torch.dtype) -> Tensor:
    """Units of which some are dead, some always on, and the others anything in between."""
    bias = rng.choice([-100.0, 100.0, *rng.standard_normal(8)], d)
    return torch.from_numpy(rng.standard_normal((n, d)) + bias).relu().to(dtype)


def check_mean_cosine(
    x: Array, labels: Array | None = None, *, num_classes: int | None = None
) -> CosineMeans:
    actual = mean_cosine(x, labels, num_classes=num_classes)
    compare_cosine_means(actual, reference.mean_cosine(x, labels), dtype_name(x))
    return actual


def compare_cosine_means(actual: CosineMeans, expected: reference.CosineMeans, dtype: str) -> None:
    counts = [int(count) for count in actual[3:]]
    assert counts == list(expected[3:]), f"rows, zero, nonfinite: {counts}, wanted {expected[3:]}"
    tolerance = COSINE_TOLERANCE[dtype]
    for name, value, wanted in zip(CosineMeans._fields[:3], actual, expected, strict=False):
        np.testing.assert_allclose(
            value.item(), wanted, rtol=0, atol=tolerance, equal_nan=True, err_msg=name
        )
        assert not abs(value.item()) > 1, f"{name} = {value.item()!r}"


def check_gate_stats(
    features: Array, labels: Array | None = None, *, num_classes: int | None = None
) -> GateStats:
    actual = gate_stats(features, labels, num_classes=num_classes)
    expected = reference.gate_stats(features, labels)
    for name, value, wanted in zip(GateStats._fields, actual, expected, strict=True):
        # A quotient of exact whole numbers, rounded once: equal to the last bit.
        np.testing.assert_equal(float(value), float(wanted), err_msg=name)
    return actual


CHECKS = (check_mean_cosine, check_gate_stats)


def dtype_name(x: Array) -> str:
    return x.dtype.name if isinstance(x, np.ndarray) else str(x.dtype).removeprefix("torch.")


def assert_same_bits(actual: Array, expected: Array, message: str = "") -> None:
    """Tells -0.0 from 0.0 and one NaN from another."""
    a, b = torch.as_tensor(actual).detach(), torch.as_tensor(expected).detach()
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    a, b = (x.contiguous().view(whole).numpy() for x in (a, b))
    np.testing.assert_array_equal(a, b, err_msg=message)
