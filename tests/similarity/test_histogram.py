from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import reference
import torch
from checks import DTYPES, INSTRUCTION_SETS, random_labels
from memory import peak_mib_of
from rows import rows_at_all_angles
from torch.library import opcheck

from tfc_fast.similarity import CosineHistogram, cosine_histogram

KINDS = ("all", "within", "between")
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def cosines_of_pairs(x: Any, labels: Any = None) -> dict[str, npt.NDArray[np.float64]]:
    """The cosines of all pairs of valid rows, each once, by kind."""
    cosines = reference.cosine_matrix(x)
    valid = np.isfinite(cosines.diagonal()) & (cosines.diagonal() != 0)
    cosines = cosines[np.ix_(valid, valid)]
    pairs = np.triu(np.ones(cosines.shape, bool), 1)
    if labels is None:
        return {"all": cosines[pairs], "within": np.empty(0), "between": np.empty(0)}
    y = np.asarray(labels)[valid]
    same = y[:, None] == y
    return {
        "all": cosines[pairs],
        "within": cosines[pairs & same],
        "between": cosines[pairs & ~same],
    }


def check(x: Any, labels: Any = None, *, bins: int = 256) -> CosineHistogram:
    """Every cosine is in its bin; only one near an edge may be in the bin beside it."""
    histogram = cosine_histogram(x, labels, bins=bins)
    edges = np.asarray(histogram.edges)
    np.testing.assert_array_equal(edges, (2 * np.arange(bins + 1) - bins) / bins)
    near = 1e-12 if "float64" in str(x.dtype) else 1e-6
    for kind, cosines in cosines_of_pairs(x, labels).items():
        counts = np.asarray(getattr(histogram, kind))
        assert counts.dtype == np.int64
        assert counts.sum() == len(cosines), kind
        # Pairs below each inner edge, by the counts and as few and as many as there can be.
        below = np.cumsum(counts)[:-1]
        cosines = np.sort(cosines)
        assert (below >= np.searchsorted(cosines, edges[1:-1] - near)).all(), kind
        assert (below <= np.searchsorted(cosines, edges[1:-1] + near)).all(), kind
    means = reference.mean_cosine(x)
    found = histogram.n_rows, histogram.n_zero, histogram.n_nonfinite
    assert found == (means.n_rows, means.n_zero, means.n_nonfinite)
    return histogram


@each_dtype
@pytest.mark.parametrize("d", [1, 7, 64, 1000, 4096])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 127, 300])
def test_every_shape(rng: np.random.Generator, n: int, d: int, dtype: torch.dtype) -> None:
    x = rows_at_all_angles(rng, n, d, dtype)
    check(x)
    check(x, random_labels(rng, n), bins=int(rng.integers(1, 1000)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "d"), [(127, 200_000), (2500, 3), (2500, 201)])
def test_large_shapes(rng: np.random.Generator, n: int, d: int, dtype: torch.dtype) -> None:
    check(rows_at_all_angles(rng, n, d, dtype), random_labels(rng, n))


@each_dtype
@pytest.mark.parametrize("bins", [1, 2, 3, 10, 255, 65536])
def test_every_number_of_bins(rng: np.random.Generator, bins: int, dtype: torch.dtype) -> None:
    check(rows_at_all_angles(rng, 150, 5, dtype), random_labels(rng, 150), bins=bins)


@each_dtype
def test_labels_of_every_kind(rng: np.random.Generator, dtype: torch.dtype) -> None:
    n = 400
    x = rows_at_all_angles(rng, n, 20, dtype)
    check(x, torch.zeros(n, dtype=torch.int64))
    check(x, torch.from_numpy(rng.permutation(n)))
    check(x, torch.from_numpy(rng.geometric(0.3, n)))
    check(x, torch.full((n,), 7))
    labels = torch.zeros(n, dtype=torch.int64)
    labels[-1] = 90
    check(x, labels)


def test_labels_that_tell_the_rows_apart(rng: np.random.Generator) -> None:
    # Two bundles at right angles: a mistake in the grouping cannot hide.
    labels = torch.from_numpy(rng.permutation(np.repeat([0, 4], [330, 701])))
    x = torch.zeros(1031, 20)
    x[labels == 0, :10] = 1
    x[labels == 4, 10:] = 1
    histogram = cosine_histogram(x, labels, bins=3)
    within = 330 * 329 // 2 + 701 * 700 // 2
    assert np.asarray(histogram.within).tolist() == [0, 0, within]
    assert np.asarray(histogram.between).tolist() == [0, 330 * 701, 0]


@each_dtype
def test_zero_and_bad_rows_are_left_out(rng: np.random.Generator, dtype: torch.dtype) -> None:
    x = rows_at_all_angles(rng, 200, 33, dtype)
    x[torch.from_numpy(rng.choice(200, 30, replace=False))] = 0
    for bad in (math.nan, math.inf, -math.inf):
        x[int(rng.integers(200)), int(rng.integers(33))] = bad
    check(x)
    check(x, random_labels(rng, 200))
    for nothing in (torch.zeros(9, 4, dtype=dtype), torch.full((9, 4), math.nan, dtype=dtype)):
        histogram = check(nothing, random_labels(rng, 9))
        assert histogram.n_rows == 0
        assert math.isnan(float(histogram.quantile(0.5)))
        assert math.isnan(float(histogram.cdf(0.5)))


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scales_mixed_in_one_batch(rng: np.random.Generator, dtype: torch.dtype) -> None:
    # Labels put the rows into another order than their scales.
    scale = torch.from_numpy(rng.choice([1, 1e-10, 1e-20, 1e-30, 1e-38, 1e30, 2e37], (150, 1)))
    x = (rows_at_all_angles(rng, 150, 41, torch.float64) * scale).to(dtype)
    check(x, random_labels(rng, 150))


@pytest.mark.usefixtures("bfloat16_pairs")
def test_counts_of_bfloat16_pairs(rng: np.random.Generator) -> None:
    for n, d in ((40, 7), (200, 65), (300, 128)):
        check(rows_at_all_angles(rng, n, d, torch.bfloat16), random_labels(rng, n))


def test_the_ends_belong_to_the_outer_bins() -> None:
    x = torch.tensor([[1.0], [2.0], [-3.0]])
    for bins in (1, 2, 7, 65536):
        counts = np.asarray(cosine_histogram(x, bins=bins).all)
        assert counts.sum() == 3
        if bins > 1:
            assert (counts[0], counts[-1]) == (2, 1)


def test_numpy_in_numpy_out(rng: np.random.Generator) -> None:
    x = rng.standard_normal((30, 4, 5)).astype(np.float32)[::-1, :, ::2]
    histogram = check(x, rng.integers(0, 3, 30))
    for array in (histogram.all, histogram.within, histogram.between, histogram.edges):
        assert isinstance(array, np.ndarray)


def test_quantile_and_cdf(rng: np.random.Generator) -> None:
    n = 500
    x, labels = rows_at_all_angles(rng, n, 30, torch.float32), random_labels(rng, n, 3)
    histogram = cosine_histogram(x, labels, bins=400)
    shares = np.array([[0.0, 0.01, 0.3], [0.5, 0.99, 1.0]])
    for kind, cosines in cosines_of_pairs(x, labels).items():
        quantiles = histogram.quantile(shares, kind)  # type: ignore[arg-type]
        np.testing.assert_allclose(quantiles, np.quantile(cosines, shares), atol=2.01 / 400 + 1e-3)
        for t in (-1.0, -0.3, 0.0, 0.4, 1.0):
            share = float(histogram.cdf(t, kind))  # type: ignore[arg-type]
            least, most = ((cosines <= t + step).mean() for step in (-0.006, 0.006))
            assert least <= share <= most
        np.testing.assert_allclose(histogram.cdf(quantiles, kind), shares, atol=1e-9)  # type: ignore[arg-type]
    assert float(histogram.cdf(-5.0)) == 0
    assert float(histogram.cdf(5.0)) == 1
    assert math.isnan(float(histogram.cdf(math.nan)))


def test_quantiles_of_few_pairs_lie_where_pairs_are() -> None:
    histogram = cosine_histogram(torch.tensor([[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]), bins=8)
    assert float(histogram.quantile(0.0)) == -1.0
    assert -1 <= float(histogram.quantile(0.5)) <= -0.75
    assert 0.75 <= float(histogram.quantile(0.7)) <= 1.0
    assert float(histogram.quantile(1.0)) == 1.0


def test_wrong_input_is_refused_by_name(rng: np.random.Generator) -> None:
    x = torch.ones(4, 6)
    histogram = cosine_histogram(x)
    refused: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (TypeError, "x: wanted float16", lambda: cosine_histogram(x.int())),
        (ValueError, "bins: wanted 1", lambda: cosine_histogram(x, bins=0)),
        (ValueError, "bins: wanted 1", lambda: cosine_histogram(x, bins=65537)),
        (TypeError, "bins: wanted an int", lambda: cosine_histogram(x, bins=2.5)),  # type: ignore[arg-type]
        (TypeError, "bins: wanted an int", lambda: cosine_histogram(x, bins=True)),
        (ValueError, "one label per row", lambda: cosine_histogram(x, torch.zeros(3).long())),
        (ValueError, "label 5", lambda: cosine_histogram(x, torch.arange(4) + 5, num_classes=5)),
        (ValueError, "q: wanted shares", lambda: histogram.quantile(1.5)),
        (ValueError, "q: wanted shares", lambda: histogram.quantile(math.nan)),
        (ValueError, "kind: wanted", lambda: histogram.cdf(0.5, "inside")),  # type: ignore[arg-type]
    ]
    for error, message, call in refused:
        with pytest.raises(error, match=message):
            call()


@each_dtype
@pytest.mark.parametrize("n", [60, 700])
def test_same_counts_for_any_number_of_threads(
    rng: np.random.Generator, set_threads: Callable[[int], None], n: int, dtype: torch.dtype
) -> None:
    x, labels = rows_at_all_angles(rng, n, 100, dtype), random_labels(rng, n)
    set_threads(1)
    expected = cosine_histogram(x, labels)
    for threads in (2, 3, 8):
        set_threads(threads)
        assert_same_counts(cosine_histogram(x, labels), expected)


@each_dtype
def test_every_instruction_set_gives_the_same_counts(
    rng: np.random.Generator, use_instruction_set: Callable[[str], None], dtype: torch.dtype
) -> None:
    x, labels = rows_at_all_angles(rng, 300, 517, dtype), random_labels(rng, 300)
    results = []
    for name in INSTRUCTION_SETS:
        use_instruction_set(name)
        results.append(cosine_histogram(x, labels))
    for result in results[1:]:
        assert_same_counts(result, results[0])


def assert_same_counts(actual: CosineHistogram, expected: CosineHistogram) -> None:
    for kind in KINDS:
        np.testing.assert_array_equal(getattr(actual, kind), getattr(expected, kind))


@each_dtype
def test_is_a_sound_op(rng: np.random.Generator, dtype: torch.dtype) -> None:
    x = rows_at_all_angles(rng, 6, 5, dtype)
    grouping = torch.ops.tfc_fast.group_labels(random_labels(rng, 6), 5)
    op = torch.ops.tfc_fast.cosine_histogram.default
    for arguments in ((x, None, None, 10), (x.view(6, 5, 1), *grouping, 7)):
        assert set(opcheck(op, arguments).values()) == {"SUCCESS"}


def test_plot(rng: np.random.Generator) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="plotting is optional")
    matplotlib.use("agg")
    x, labels = rows_at_all_angles(rng, 50, 4, torch.float32), random_labels(rng, 50)
    ax = cosine_histogram(x, labels, bins=20).plot()
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "within classes",
        "between classes",
    ]
    for patch in ax.patches:
        values, edges, _ = patch.get_data()  # type: ignore[attr-defined]
        assert (values * np.diff(edges)).sum() == pytest.approx(1)
    assert cosine_histogram(x, bins=20).plot(ax) is ax
    assert ax.get_legend().get_texts()[-1].get_text() == "all pairs"


def test_memory_does_not_grow_with_the_pairs() -> None:
    program = """
import torch
from tfc_fast.similarity import cosine_histogram
x, labels = torch.randn(20000, 64), torch.randint(0, 10, (20000,))
cosine_histogram(x[:100], labels[:100], num_classes=10)
"""
    peak = peak_mib_of(program, "cosine_histogram(x, labels, num_classes=10)")
    assert peak < 16, "MiB; the matrix would be 1526"


@pytest.mark.usefixtures("products")
@each_dtype
def test_counts_by_each_product(rng: np.random.Generator, dtype: torch.dtype) -> None:
    check(rows_at_all_angles(rng, 200, 65, dtype), random_labels(rng, 200))
