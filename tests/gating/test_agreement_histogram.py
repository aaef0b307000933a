from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import torch
from checks import DTYPES, INSTRUCTION_SETS, random_features, random_labels
from hypothesis import given, settings
from hypothesis import strategies as st
from memory import peak_mib_of
from strategies import laid_out_tensors, optional_labels
from torch import Tensor
from torch.library import opcheck

from tfc_fast.gating import AgreementHistogram, agreement_histogram, gate_stats, pack_gates

KINDS = ("all", "within", "between")


def check(x: Any, labels: Any = None) -> AgreementHistogram:
    histogram = agreement_histogram(x, labels)
    packed = agreement_histogram(pack_gates(x), labels, num_units=math.prod(x.shape[1:]))
    for kind, wanted in reference.agreement_histogram(x, labels).items():
        for actual in (getattr(histogram, kind), getattr(packed, kind)):
            np.testing.assert_array_equal(np.asarray(actual), wanted, err_msg=kind)
            assert np.asarray(actual).dtype == np.int64
    assert histogram.n_rows == packed.n_rows == len(x)
    return histogram


@pytest.mark.parametrize("d", [0, 1, 7, 63, 64, 65, 1000, 4096])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 127, 300])
def test_every_shape(rng: np.random.Generator, n: int, d: int) -> None:
    x = random_features(rng, n, d, DTYPES[int(rng.integers(len(DTYPES)))])
    histogram = check(x)
    np.testing.assert_array_equal(histogram.values, [k / d if d else np.nan for k in range(d + 1)])
    check(x, random_labels(rng, n))


@pytest.mark.parametrize("n", [63, 64, 65, 129, 255, 257, 520, 1600])
def test_around_whole_tiles(rng: np.random.Generator, n: int) -> None:
    check(random_features(rng, n, 70, torch.float32), random_labels(rng, n))


def test_labels_of_every_kind(rng: np.random.Generator) -> None:
    n = 400
    x = random_features(rng, n, 20, torch.float32)
    check(x, torch.zeros(n, dtype=torch.int64))
    check(x, torch.from_numpy(rng.permutation(n)))
    check(x, torch.from_numpy(rng.geometric(0.3, n)))
    check(x, torch.full((n,), 7))
    labels = torch.zeros(n, dtype=torch.int64)
    labels[-1] = 90
    check(x, labels)


@pytest.mark.parametrize("value", [0.0, math.nan, 1.0])
def test_rows_that_are_all_alike(rng: np.random.Generator, value: float) -> None:
    histogram = check(torch.full((90, 33), value), random_labels(rng, 90))
    assert int(histogram.all[-1]) == 90 * 89 // 2
    assert float(histogram.quantile(0.0)) == float(histogram.mean()) == 1


@settings(max_examples=100, deadline=None)
@given(x=laid_out_tensors(), data=st.data())
def test_any_shape_strides_dtype_and_labels(x: Tensor, data: st.DataObject) -> None:
    check(x, data.draw(optional_labels(len(x)), label="labels"))


def test_numpy_in_numpy_out(rng: np.random.Generator) -> None:
    x = rng.standard_normal((30, 4, 5)).astype(np.float32)[::-1, :, ::2]
    histogram = check(x, rng.integers(0, 3, 30))
    for array in (histogram.all, histogram.within, histogram.between, histogram.values):
        assert isinstance(array, np.ndarray)


def test_quantile_cdf_and_mean(rng: np.random.Generator) -> None:
    n, d = 200, 30
    x, labels = random_features(rng, n, d, torch.float32), random_labels(rng, n, 3)
    histogram, stats = agreement_histogram(x, labels), gate_stats(x, labels)
    for kind, counts in reference.agreement_histogram(x, labels).items():
        pairs = np.repeat(np.arange(d + 1) / d, counts)  # the agreement of each, ascending
        shares = np.concatenate([[0, 1], rng.random(50)]).reshape(4, 13)
        quantiles = histogram.quantile(shares, kind)  # type: ignore[arg-type]
        # At least a share q of the pairs is at or below the quantile, and less below it.
        assert isinstance(quantiles, np.ndarray)
        assert quantiles.shape == (4, 13)
        for q, value in zip(shares.flat, quantiles.flat, strict=True):
            assert value in pairs
            assert (pairs <= value).mean() >= q
            assert (pairs < value).mean() < q or value == pairs[0]
        for t in (-0.1, 0.0, 0.4, 1 / 3, *pairs[::500], 1.0, 5.0):
            assert histogram.cdf(t, kind) == (pairs <= t).mean()  # type: ignore[arg-type]
        np.testing.assert_equal(histogram.cdf(np.array([math.nan, 1.0]), kind), [math.nan, 1])  # type: ignore[arg-type]
        agreement = getattr(stats, f"agreement_{kind}")
        assert histogram.mean(kind) == float(agreement)  # type: ignore[arg-type]


def test_what_has_no_pairs_is_nan(rng: np.random.Generator) -> None:
    x = random_features(rng, 4, 7, torch.float32)
    for histogram, kind in [
        (check(x[:0]), "all"),
        (check(x[:1]), "all"),
        (check(x), "within"),
        (check(x, torch.arange(4)), "within"),
        (check(x, torch.zeros(4).long()), "between"),
        (check(x[:, :0]), "all"),
    ]:
        assert math.isnan(histogram.mean(kind))  # type: ignore[arg-type]
        assert np.isnan(histogram.quantile(np.array([0.0, 0.5]), kind)).all()  # type: ignore[arg-type]
        assert np.isnan(histogram.cdf(0.5, kind))  # type: ignore[arg-type]


def test_wrong_input_is_refused_by_name() -> None:
    x = torch.ones(4, 70)
    packed, histogram = pack_gates(x), agreement_histogram(x)
    call: Callable[..., object] = agreement_histogram
    refused: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (TypeError, "features_or_packed: wanted float16", lambda: call(x.int())),
        (ValueError, "num_units: needed", lambda: call(packed)),
        (ValueError, r"shape \[n, 1\] for num_units=7", lambda: call(packed, num_units=7)),
        (ValueError, "one label per row", lambda: call(x, torch.zeros(3).long())),
        (ValueError, "label 5", lambda: call(x, torch.arange(4) + 5, num_classes=5)),
        (ValueError, "q: wanted shares", lambda: histogram.quantile(1.5)),
        (ValueError, "q: wanted shares", lambda: histogram.quantile(math.nan)),
        (ValueError, "kind: wanted", lambda: histogram.cdf(0.5, "inside")),  # type: ignore[arg-type]
        (ValueError, "kind: wanted", lambda: histogram.mean("inside")),  # type: ignore[arg-type]
    ]
    for error, message, wrong in refused:
        with pytest.raises(error, match=message):
            wrong()


def test_same_counts_everywhere(
    rng: np.random.Generator,
    set_threads: Callable[[int], None],
    use_instruction_set: Callable[[str], None],
) -> None:
    x, labels = random_features(rng, 700, 150, torch.float32), random_labels(rng, 700)
    for name in INSTRUCTION_SETS:
        use_instruction_set(name)
        for threads in (1, 2, 3):
            set_threads(threads)
            check(x, labels)


def test_is_a_sound_op(rng: np.random.Generator) -> None:
    packed = pack_gates(random_features(rng, 6, 70, torch.float32))
    grouping = torch.ops.tfc_fast.group_labels(random_labels(rng, 6), 5)
    op = torch.ops.tfc_fast.agreement_histogram.default
    for arguments in ((packed, None, None, 70), (packed, *grouping, 70)):
        assert set(opcheck(op, arguments).values()) == {"SUCCESS"}


@pytest.mark.parametrize("d", [1, 20, 127, 128, 4000])
def test_plot(rng: np.random.Generator, d: int) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="plotting is optional")
    matplotlib.use("agg")
    x, labels = random_features(rng, 50, d, torch.float32), random_labels(rng, 50)
    ax = agreement_histogram(x, labels).plot()
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["within classes", "between classes"]
    for patch in ax.patches:
        values, edges, _ = patch.get_data()  # type: ignore[attr-defined]
        assert len(values) <= 128
        assert (values * np.diff(edges)).sum() == pytest.approx(1)
        assert edges[0] < 0
        assert edges[-1] > 1
    assert agreement_histogram(x).plot(ax) is ax
    assert ax.get_legend().get_texts()[-1].get_text() == "all pairs"
    matplotlib.pyplot.close("all")


def test_memory_does_not_grow_with_the_pairs() -> None:
    program = """
import torch
from tfc_fast.gating import agreement_histogram
packed, labels = torch.randint(-(2**62), 2**62, (20000, 2)), torch.randint(0, 10, (20000,))
agreement_histogram(packed[:100], labels[:100], num_classes=10, num_units=128)
"""
    peak = peak_mib_of(
        program, "agreement_histogram(packed, labels, num_classes=10, num_units=128)"
    )
    assert peak < 16, "MiB; the matrix would be 1526"
