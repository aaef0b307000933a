"""The CUDA kernels, run by the emulation, against the float64 reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import reference
import torch
from cuda_emulation.emulation import Library
from cuda_emulation.kernels import STATISTICS, Measured, measure
from torch import Tensor

COSINE_TOLERANCE = {
    torch.float32: 1e-6,
    torch.float16: 1e-5,
    torch.bfloat16: 1e-5,
    torch.float64: 1e-12,
}
DTYPES = tuple(COSINE_TOLERANCE)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


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


def check_record(
    measured: Measured, expected: dict[str, float], dtype: torch.dtype, only: str = ""
) -> None:
    relative = 1e-13 if dtype == torch.float64 else 5e-7
    for name in STATISTICS:
        if only and name.split("_")[0] not in only.split():
            continue
        np.testing.assert_allclose(
            measured.record[name],
            expected[name],
            rtol=relative if "norm" in name else 0,
            atol=COSINE_TOLERANCE[dtype] if "cos" in name else 0,
            err_msg=name,
        )


def check_backward(
    library: Library,
    feature: Tensor,
    grad: Tensor,
    labels: np.ndarray | None = None,
    num_classes: int = 0,
    **options: Any,
) -> Measured:
    measured = measure(library, "relu_backward", feature, grad, labels, num_classes, **options)
    check_record(measured, reference.site_record(feature, grad, labels), feature.dtype)
    expected = torch.where(feature <= 0, torch.zeros_like(grad), grad)
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[grad.element_size()]
    assert measured.grad_in is not None
    assert torch.equal(measured.grad_in.view(whole), expected.view(whole))
    return measured


@each_dtype
@pytest.mark.parametrize("odd", [False, True], ids=["usual", "odd"])
@pytest.mark.parametrize(
    ("n", "d"),
    [(1, 1), (2, 7), (3, 64), (50, 33), (37, 100), (130, 17), (9, 257), (17, 1000), (5, 2050)],
)
def test_relu_backward(
    library: Library, rng: np.random.Generator, n: int, d: int, odd: bool, dtype: torch.dtype
) -> None:
    feature, grad = random_pair(rng, n, d, dtype, odd=odd)
    check_backward(library, feature, grad)
    check_backward(library, feature, grad, rng.integers(0, 7, n), 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("seeds", [(1, 2, 3)])
def test_same_bits_for_every_order_of_threads(
    library: Library, rng: np.random.Generator, dtype: torch.dtype, seeds: tuple[int, ...]
) -> None:
    feature, grad = random_pair(rng, 70, 150, dtype, odd=True)
    labels = rng.integers(0, 5, 70)
    runs = [check_backward(library, feature, grad, labels, 5, seed=seed) for seed in seeds]
    assert len({run.bits for run in runs}) == 1


@pytest.mark.parametrize("num_classes", [1, 2, 9, 300])
def test_classes_that_are_looked_up(
    library: Library, rng: np.random.Generator, num_classes: int
) -> None:
    feature, grad = random_pair(rng, 90, 20, torch.float32)
    labels = rng.integers(0, num_classes, 90)
    runs = [
        check_backward(library, feature, grad, labels, num_classes, label_at=label_at)
        for label_at in (True, False)
    ]
    assert runs[0].bits == runs[1].bits


@each_dtype
@pytest.mark.parametrize(("gap", "offset"), [(3, 0), (0, 1), (8, 8), (5, 3)])
def test_rows_that_are_not_aligned(
    library: Library, rng: np.random.Generator, gap: int, offset: int, dtype: torch.dtype
) -> None:
    feature, grad = random_pair(rng, 11, 45, dtype)
    check_backward(library, feature, grad, rng.integers(0, 3, 11), 3, gap=gap, offset=offset)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_grad_in_may_be_the_memory_of_the_gradient(
    library: Library, rng: np.random.Generator, dtype: torch.dtype
) -> None:
    for d in (64, 45):
        feature, grad = random_pair(rng, 30, d, dtype)
        check_backward(library, feature, grad, in_place=True)


def test_a_nan_in_the_feature_lets_the_gradient_through(library: Library) -> None:
    numbers = torch.tensor([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, math.nan, math.inf, -math.inf])
    feature, grad = (
        x.reshape(9, 9).clone() for x in torch.meshgrid(numbers, numbers, indexing="ij")
    )
    check_backward(library, feature, grad)
    check_backward(library, feature.reshape(-1, 1), grad.reshape(-1, 1))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("job", ["relu_backward", "pair", "feature"])
def test_nothing_to_measure(library: Library, shape: tuple[int, int], job: str) -> None:
    x = torch.ones(shape)
    grad = None if job == "feature" else x
    for labels in (None, np.zeros(shape[0], np.int64)):
        measured = measure(library, job, x, grad, labels, 2)
        if job != "feature":
            check_record(measured, reference.site_record(x, x, labels), torch.float32)
        assert math.isnan(measured.record["dead_frac"])


@each_dtype
@pytest.mark.parametrize("job", ["cosine", "gates", "feature", "pair"])
@pytest.mark.parametrize("labelled", [False, True])
def test_other_jobs(
    library: Library, rng: np.random.Generator, job: str, labelled: bool, dtype: torch.dtype
) -> None:
    feature, grad = random_pair(rng, 43, 90, dtype, odd=True)
    labels = rng.integers(0, 6, 43) if labelled else None
    pair = job == "pair"
    measured = measure(library, job, feature, grad if pair else None, labels, 6)
    # Alone, a feature answers for its own rows only.
    expected = reference.site_record(feature, grad if pair else feature, labels)
    gates = "gate active dead always"
    only = {"cosine": "feature", "gates": gates, "feature": f"feature {gates}"}.get(job, "")
    if job in ("cosine", "gates"):  # no window, or no norms
        only = only.replace("dead always", "") if job == "cosine" else only
    check_record(measured, expected, dtype, only)
    if job in ("cosine", "feature"):
        assert measured.record["n_zero_features"] == expected["n_zero_features"]
        assert measured.record["n_nonfinite"] == expected["n_nonfinite"]
    if job in ("gates", "feature"):
        stats = reference.gate_stats(feature, labels)
        assert measured.unit_counts == [stats.dead_frac * 90, stats.always_on_frac * 90]


CLASSES = {
    "one class": lambda rng, n: np.zeros(n, np.int64),
    "one row each": lambda rng, n: rng.permutation(n),
    "empty classes": lambda rng, n: rng.choice([0, n // 2, n - 1], n),
    "small classes": lambda rng, n: np.arange(n) // 3,
    "one row apart": lambda rng, n: (np.arange(n) == n // 2).astype(np.int64),
    "halves": lambda rng, n: np.arange(n) * 2 // n,
}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("n", [3, 64, 301])
@pytest.mark.parametrize("multiprocessors", [1, 40])
def test_classes_and_chunks_in_every_position(
    library: Library, rng: np.random.Generator, name: str, n: int, multiprocessors: int
) -> None:
    feature, grad = random_pair(rng, n, 20, torch.float32)
    labels = CLASSES[name](rng, n)
    check_backward(library, feature, grad, labels, n, multiprocessors=multiprocessors)


@pytest.mark.parametrize("scale", [1.0, 1e-10, 1e-20, 1e-30, 1e-41, 1e30, 3e38])
def test_rows_that_are_all_alike(library: Library, rng: np.random.Generator, scale: float) -> None:
    row = rng.standard_normal(100)
    for rows in (np.tile(row, (90, 1)), np.full((90, 100), 1.0)):
        x = torch.from_numpy(rows / np.abs(rows).max() * scale).float()
        check_backward(library, x.abs(), x, rng.integers(0, 3, 90), 3)


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e-160, 1e160, 1e305])
def test_ends_of_float64(library: Library, rng: np.random.Generator, scale: float) -> None:
    x = torch.from_numpy(rng.uniform(0.5, 1, (10, 9)) * scale)
    check_backward(library, x, -x, rng.integers(0, 3, 10), 3)


@pytest.mark.parametrize(
    ("dtype", "job", "width", "fused", "rows_at_once"),
    [
        (torch.float32, "relu_backward", 2048, 1, 4),
        (torch.float32, "relu_backward", 2500, 1, 2),
        (torch.float32, "relu_backward", 4100, 0, 4),
        (torch.float32, "cosine", 5000, 1, 1),
        (torch.bfloat16, "relu_backward", 2500, 1, 4),
        (torch.bfloat16, "relu_backward", 4100, 0, 4),
        (torch.float16, "cosine", 5000, 1, 1),
        (torch.float64, "relu_backward", 30, 0, 2),
    ],
    ids=str,
)
def test_long_rows_and_the_way_they_take(
    library: Library,
    rng: np.random.Generator,
    *,
    dtype: torch.dtype,
    job: str,
    width: int,
    fused: int,
    rows_at_once: int,
) -> None:
    feature, grad = random_pair(rng, 9, width, dtype, odd=True)
    labels = rng.integers(0, 3, 9)
    if job == "cosine":
        measured = measure(library, job, feature, None, labels, 3)
        check_record(measured, reference.site_record(feature, grad, labels), dtype, "feature")
    else:
        measured = check_backward(library, feature, grad, labels, 3)
    assert (measured.plan.fused, measured.plan.rows_at_once) == (fused, rows_at_once)
    assert (measured.plan.tiles > 1) == (width == 4100)


def test_a_device_with_little_shared_memory(library: Library, rng: np.random.Generator) -> None:
    feature, grad = random_pair(rng, 20, 1000, torch.float32)
    measured = check_backward(
        library, feature, grad, rng.integers(0, 3, 20), 3, shared_bytes=16 * 1024
    )
    assert not measured.plan.fused
