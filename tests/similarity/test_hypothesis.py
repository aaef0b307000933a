"""Shapes, layouts in memory, dtypes and labels, drawn by hypothesis, against the slow twins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import reference
import torch
from checks import check_mean_cosine, dtype_name
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tfc_fast import similarity

NUMPY_DTYPES = (np.float16, np.float32, np.float64)
TORCH_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

drawn = settings(deadline=None, max_examples=60)


class Batch(NamedTuple):
    x: Any
    labels: Any


def random_content(draw: st.DrawFn, n: int, d: int) -> np.ndarray:
    """Rows with something in common; some of them zero, not finite, far larger or smaller."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed of the numbers"))
    rows = draw(st.floats(0, 1)) * rng.standard_normal(d) + rng.standard_normal((n, d))
    kinds = draw(st.lists(st.sampled_from(["plain"] * 9 + ["zero", "nan", "inf"]), max_size=n))
    for row, kind in enumerate(kinds):
        at = rng.integers(d)
        if kind == "zero":
            rows[row] = 0
        elif kind != "plain":
            rows[row, at] = float(kind)
    scales = np.array(draw(st.sampled_from([[1.0], [1.0, 1e-3], [1e-4, 1e3]])))
    return rows * rng.choice(scales, (n, 1))


TORCH_LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.T.contiguous().T,
    "every second row": lambda x: torch.stack([x, x + 1], dim=1).flatten(0, 1)[::2],
    "every third column": lambda x: torch.stack([x, x + 1, x + 2], dim=2).flatten(1)[:, ::3],
    "part of wider rows": lambda x: torch.cat([x + 1, x, x + 2], dim=1)[:, len(x.T) : 2 * len(x.T)],
    "after an offset": lambda x: torch.cat([x + 1, x])[len(x) :],
    "one row expanded": lambda x: x[:1].expand(len(x), -1),
    "one column expanded": lambda x: x[:, :1].expand(-1, len(x.T)),
    "images": lambda x: x[:, :, None, None],
    "channels last": lambda x: (
        torch.stack([x, x + 1, x + 2, x + 3], dim=2)
        .unflatten(2, (2, 2))
        .contiguous(memory_format=torch.channels_last)
    ),
}
NUMPY_LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "contiguous": lambda x: x,
    "Fortran order": np.asfortranarray,
    "rows backwards": lambda x: x[::-1],
    "columns backwards": lambda x: x[:, ::-1],
    "rows and columns backwards": lambda x: x[::-1].copy()[::-1, ::-1],
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "every second row, backwards": lambda x: np.repeat(x, 2, axis=0)[::-2],
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
}


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """An array of up to 40 rows, labelled or not, some classes empty."""
    n, d = draw(st.integers(0, 40)), draw(st.integers(1, 70))
    content = random_content(draw, n, d)
    x: Any
    if draw(st.booleans()):
        layout = draw(st.sampled_from(list(NUMPY_LAYOUTS)))
        x = NUMPY_LAYOUTS[layout](content.astype(draw(st.sampled_from(NUMPY_DTYPES))))
    else:
        layout = draw(st.sampled_from(list(TORCH_LAYOUTS)))
        x = TORCH_LAYOUTS[layout](torch.from_numpy(content).to(draw(st.sampled_from(TORCH_DTYPES))))
    if draw(st.booleans()):
        return Batch(x, None)
    classes = draw(st.integers(1, 6))
    labels = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n)), np.int64)
    return Batch(x, labels if isinstance(x, np.ndarray) else torch.from_numpy(labels))


# numpy calls a single row contiguous whichever way it is read.
ONE_ROW_BACKWARDS = Batch(np.ones((1, 3))[::-1], None)


def matrix_tolerance(x: Any) -> float:
    return 1e-12 if dtype_name(x) == "float64" else 1e-6


@drawn
@given(batches())
@example(ONE_ROW_BACKWARDS)
def test_mean_cosine(batch: Batch) -> None:
    check_mean_cosine(*batch)


@drawn
@given(batches(), st.integers(0, 40))
@example(ONE_ROW_BACKWARDS, 0)
def test_cosine_matrix(batch: Batch, others: int) -> None:
    x = batch.x
    for y in (None, x[:others]):
        actual, expected = similarity.cosine_matrix(x, y), reference.cosine_matrix(x, y)
        assert type(actual) is type(x)
        np.testing.assert_allclose(
            actual, expected, rtol=0, atol=matrix_tolerance(x), equal_nan=True
        )


@drawn
@given(batches(), st.integers(1, 300))
@example(ONE_ROW_BACKWARDS, 2)
def test_cosine_histogram(batch: Batch, bins: int) -> None:
    x, labels = batch
    histogram = similarity.cosine_histogram(x, labels, bins=bins)
    means = reference.mean_cosine(x, labels)
    assert [histogram.n_rows, histogram.n_zero, histogram.n_nonfinite] == list(means[3:])
    cosines, pairs = pairs_by_kind(x, labels)
    inner_edges, near = np.asarray(histogram.edges)[1:-1], matrix_tolerance(x)
    for kind, mask in pairs.items():
        counts = np.asarray(getattr(histogram, kind))
        values = np.sort(cosines[mask])
        assert counts.sum() == len(values), kind
        # A cosine beside an edge may be counted on either side of it; no other may.
        below = np.cumsum(counts)[:-1]
        assert (below >= np.searchsorted(values, inner_edges - near)).all(), kind
        assert (below <= np.searchsorted(values, inner_edges + near)).all(), kind


def pairs_by_kind(x: Any, labels: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    cosines = reference.cosine_matrix(x)
    valid = np.isfinite(cosines.diagonal()) & (cosines.diagonal() != 0)
    pairs = np.triu(valid[:, None] & valid, 1)
    y = np.zeros(len(x)) if labels is None else np.asarray(labels)
    same = y[:, None] == y
    labelled = labels is not None
    return cosines, {
        "all": pairs,
        "within": pairs & same & labelled,
        "between": pairs & ~same & labelled,
    }


@drawn
@given(batches())
def test_cosine_spread(batch: Batch) -> None:
    check_cosine_spread(*batch)


@drawn
@given(batches(), st.floats(-4, 0), st.sampled_from([np.float32, np.float64]))
def test_cosine_spread_of_nearly_parallel_rows(
    batch: Batch, exponent: float, dtype: type[np.floating[Any]]
) -> None:
    # Down to a deviation of 1e-8, about the square of the distance of two rows.
    content = np.asarray(batch.x.tolist(), np.float64).reshape(batch.x.shape)
    check_cosine_spread((1 + 10**exponent * content).astype(dtype), batch.labels)


def check_cosine_spread(x: Any, labels: Any) -> None:
    actual = similarity.cosine_spread(x, labels)
    expected = reference.cosine_spread(x, labels)
    assert [int(count) for count in actual[3:]] == list(expected[3:])
    for kind in ("all", "within", "between"):
        value, wanted = float(getattr(actual, kind)), getattr(expected, kind)
        # The relative error is bounded down to a deviation of 1e-8.
        np.testing.assert_allclose(value, wanted, rtol=1e-3, atol=1e-11, err_msg=kind)


def test_the_twin_of_the_spread_sees_what_float64_cosines_hide() -> None:
    # Angles 0, a and 3a to one direction, hence 1 - cos = a^2/2, 4a^2/2 and 9a^2/2.
    a = 1e-6
    x = np.array([[1, 0], [np.cos(a), np.sin(a)], [np.cos(3 * a), np.sin(3 * a)]])
    expected = a**2 / 2 * np.std([1, 4, 9])
    assert reference.cosine_spread(x).all == pytest.approx(expected, rel=1e-6)
    assert reference.cosine_spread(x, np.array([0, 0, 1])).within == 0
