"""The functions on a GPU: the reference's numbers, the CPU's results, nothing that waits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import torch
from checks import (
    COSINE_TOLERANCE,
    DTYPES,
    compare_cosine_means,
    dtype_name,
    random_features,
    random_labels,
)
from rows import SCALES, all_sorts_of_rows, random_rows
from torch import Tensor

from tfc_fast import gating, similarity

# torch says so whenever it is asked to watch.
pytestmark = pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")

# Widths on both sides of whole vectors, of a block's columns, and of what one block can hold.
WIDTHS = (1, 7, 64, 130, 1000, 4096, 4100, 8200, 200_000)
SHAPES = [(n, d) for n in (0, 1, 2, 3) for d in WIDTHS] + [(127, d) for d in WIDTHS]
SHAPES += [(4096, 7), (4096, 256), (4096, 1000)]

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_shape = pytest.mark.parametrize(("n", "d"), SHAPES)


def check_mean_cosine(x: Tensor, y: Tensor | None, device: torch.device) -> None:
    actual = similarity.mean_cosine(x.to(device), None if y is None else y.to(device))
    assert {value.device.type for value in actual} == {"cuda"}
    compare_cosine_means(actual, reference.mean_cosine(x, y), dtype_name(x))


def check_gate_stats(x: Tensor, y: Tensor | None, device: torch.device) -> None:
    actual = gating.gate_stats(x.to(device), None if y is None else y.to(device))
    assert {value.device.type for value in actual} == {"cuda"}
    expected = reference.gate_stats(x, y)
    for name, value, wanted in zip(actual._fields, actual, expected, strict=True):
        np.testing.assert_equal(float(value), float(wanted), err_msg=name)


@each_dtype
@each_shape
def test_mean_cosine(
    rng: np.random.Generator, device: torch.device, n: int, d: int, dtype: torch.dtype
) -> None:
    check_mean_cosine(random_rows(rng, n, d, dtype), random_labels(rng, n), device)


@each_dtype
@pytest.mark.parametrize("d", [7, 300, 5000])
def test_mean_cosine_of_rows_of_all_sorts(
    rng: np.random.Generator, device: torch.device, d: int, dtype: torch.dtype
) -> None:
    for scales in ([SCALES[dtype][0]], SCALES[dtype]):
        x = all_sorts_of_rows(rng, 211, d, dtype, {dtype: scales})
        check_mean_cosine(x, random_labels(rng, 211), device)
        check_mean_cosine(x, None, device)


@each_dtype
def test_mean_cosine_of_equal_rows_is_one(device: torch.device, dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 2, 1000, dtype=dtype).expand(500, 1000)
    check_mean_cosine(x, torch.arange(500) % 3, device)


@pytest.mark.parametrize("layout", ["rows apart", "rows that begin anywhere", "transposed"])
@each_dtype
def test_mean_cosine_of_any_strides(
    rng: np.random.Generator, device: torch.device, dtype: torch.dtype, layout: str
) -> None:
    x = random_rows(rng, 100, 515, dtype).to(device)
    views = {"rows apart": x[:, :512], "rows that begin anywhere": x[:, 1:514], "transposed": x.T}
    view = views[layout]
    actual = similarity.mean_cosine(view)
    compare_cosine_means(actual, reference.mean_cosine(view.cpu()), dtype_name(x))


@each_dtype
@each_shape
def test_gate_stats(
    rng: np.random.Generator, device: torch.device, n: int, d: int, dtype: torch.dtype
) -> None:
    check_gate_stats(random_features(rng, n, d, dtype), random_labels(rng, n), device)


def test_many_rows_agree_with_the_cpu(rng: np.random.Generator, device: torch.device) -> None:
    x, y = random_features(rng, 60_000, 500, torch.float32), random_labels(rng, 60_000, 100)
    for function in (similarity.mean_cosine, gating.gate_stats):
        expected, actual = function(x, y), function(x.to(device), y.to(device))
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a.cpu(), b, rtol=0, atol=1e-6, equal_nan=True)


def test_same_bits_every_time_and_on_every_stream(
    rng: np.random.Generator, device: torch.device
) -> None:
    x, y = random_rows(rng, 5000, 777, torch.float32).to(device), random_labels(rng, 5000)
    y = y.to(device)
    expected = [float(value) for value in similarity.mean_cosine(x, y)]
    streams = [torch.cuda.Stream() for _ in range(4)]
    torch.cuda.synchronize()
    results = []
    for stream in streams * 5:
        with torch.cuda.stream(stream):
            results.append(similarity.mean_cosine(x, y))
    torch.cuda.synchronize()
    assert all([float(value) for value in result] == expected for result in results)


def test_without_labels_nothing_waits(
    rng: np.random.Generator, device: torch.device, no_waiting: None
) -> None:
    x = torch.ones(100, 64, device=device)
    for result in (similarity.mean_cosine(x), gating.gate_stats(x)):
        assert {value.device.type for value in result} == {"cuda"}


def test_a_label_out_of_range_is_an_error(device: torch.device) -> None:
    x, y = torch.ones(3, 4, device=device), torch.tensor([0, 7, 1], device=device)
    with pytest.raises(ValueError, match="labels"):
        similarity.mean_cosine(x, y, num_classes=3)


def fields(histogram: Any) -> list[Tensor]:
    return [value for value in vars(histogram).values() if isinstance(value, Tensor)]


def accumulated(x: Tensor, y: Tensor) -> list[Tensor]:
    accumulator = similarity.CosineAccumulator(x.shape[1], 5)
    accumulator.update(x[:50], y[:50])
    accumulator.update(x[50:], y[50:])
    return [*accumulator.compute()]


def activity(x: Tensor, y: Tensor) -> list[Tensor]:
    units = gating.UnitActivity(x.shape[1], window=3)
    for rows in x.split(30):
        units.update(rows)
    return [units.active_rate, units.dead_window]


def gradient_of(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], list[Tensor]]:
    def gradient(x: Tensor, _: Tensor) -> list[Tensor]:
        x = x.clone().requires_grad_()
        function(x).backward()
        assert x.grad is not None
        return [x.grad]

    return gradient


FUNCTIONS: dict[str, Callable[[Tensor, Tensor], list[Tensor]]] = {
    "mean_cosine": lambda x, y: [*similarity.mean_cosine(x, y)],
    "mean_cosine, gradient": gradient_of(lambda x: similarity.mean_cosine(x).all),
    "cosine_matrix": lambda x, y: [similarity.cosine_matrix(x)],
    "cosine_matrix of two": lambda x, y: [similarity.cosine_matrix(x, x[:50] + 1)],
    "cosine_matrix, gradient": gradient_of(
        lambda x: (similarity.cosine_matrix(x, x.detach() + 1) ** 2).sum()
    ),
    "cosine_spread": lambda x, y: [*similarity.cosine_spread(x, y)],
    "cross_cosine": lambda x, y: [*similarity.cross_cosine(x, x[:50] + 1, y, y[:50])],
    "paired_cosine": lambda x, y: [*similarity.paired_cosine(x, x.flip(0))],
    "CosineAccumulator": accumulated,
    "gate_stats": lambda x, y: [*gating.gate_stats(x, y)],
    "pack_gates": lambda x, y: [gating.pack_gates(x)],
    "agreement_matrix": lambda x, y: [gating.agreement_matrix(x)],
    "agreement_histogram": lambda x, y: fields(gating.agreement_histogram(x, y)),
    "UnitActivity": activity,
}


# Weight of the cosines of a row in what is differentiated, for each of its 130 rows: 2 / n^2 in the
# mean of all, at most 4 in the sum of squares.
WEIGHTS = {"mean_cosine, gradient": 2 / 130**2, "cosine_matrix, gradient": 4.0}


@pytest.mark.parametrize("name", FUNCTIONS)
@each_dtype
def test_results_are_the_cpus_and_on_the_gpu(
    rng: np.random.Generator, device: torch.device, dtype: torch.dtype, name: str
) -> None:
    function = FUNCTIONS[name]
    x, y = random_features(rng, 130, 90, dtype), random_labels(rng, 130)
    actual, expected = function(x.to(device), y.to(device)), function(x, y)
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.device.type == "cuda"
        if name in WEIGHTS:
            check_gradient(a.cpu(), b, x, WEIGHTS[name] * len(x))
        else:
            atol = 2 * COSINE_TOLERANCE[dtype_name(x)]
            torch.testing.assert_close(a.cpu(), b, rtol=0, atol=atol, equal_nan=True)


def check_gradient(actual: Tensor, expected: Tensor, x: Tensor, weight: float) -> None:
    """Of a sum of cosines, of which each row has at most that weight in all.

    The gradient of a row is its weighted sum of unit rows, less the part along the row, over its
    norm: what is taken away may leave little, so errors are those of the sum; then it is rounded.
    """
    finfo = torch.finfo(x.dtype)
    eps = torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps
    norms = x.double().norm(dim=1, keepdim=True)
    a, b = actual.double(), expected.double()
    rounding = (finfo.eps * b.abs() + finfo.smallest_normal * finfo.eps) * norms
    torch.testing.assert_close(a.isnan(), b.isnan())
    assert ((a - b).nan_to_num().abs() * norms <= 8 * eps * weight + rounding).all()


def test_the_histogram_counts_the_cpus_pairs(
    rng: np.random.Generator, device: torch.device
) -> None:
    x, y = random_rows(rng, 300, 90, torch.float32), random_labels(rng, 300)
    expected = similarity.cosine_histogram(x, y, bins=16)
    actual = similarity.cosine_histogram(x.to(device), y.to(device), bins=16)
    for name in ("all", "within", "between"):
        a, b = getattr(actual, name).cpu(), getattr(expected, name)
        assert int(a.sum()) == int(b.sum())
        # A cosine within 1e-6 of an edge may fall on either side of it.
        assert int((a - b).abs().max()) <= 2, name
