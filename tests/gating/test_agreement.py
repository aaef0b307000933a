from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import pytest
import reference
import torch
from checks import DTYPES, INSTRUCTION_SETS, assert_same_bits, random_features
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import laid_out_tensors
from torch import Tensor
from torch.library import opcheck

from tfc_fast.gating import agreement_matrix, pack_gates

METRICS: tuple[Literal["hamming", "jaccard"], ...] = ("hamming", "jaccard")
WIDTHS = [1, 7, 63, 64, 65, 1000, 4096]
# Around blocks, panels and whole tiles, and where one tile becomes several.
SIZES = [1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 129, 520]

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_metric = pytest.mark.parametrize("metric", METRICS)


def random_dtype(rng: np.random.Generator) -> torch.dtype:
    return DTYPES[int(rng.integers(len(DTYPES)))]


def units_of(x: Any) -> int:
    return math.prod(x.shape[1:])


def check(x: Any, y: Any = None) -> dict[str, Any]:
    """By both metrics, from features, from packed gates, and from one of each."""
    results = {}
    for metric in METRICS:
        # As float64 the quotient is so near that rounding it again gives the nearest float32.
        expected = reference.agreement_matrix(x, y, metric).astype(np.float32)
        actual = agreement_matrix(x, y, metric=metric)
        assert actual.dtype in (torch.float32, np.float32)
        np.testing.assert_array_equal(np.asarray(actual), expected)
        packed_y = None if y is None else pack_gates(y)
        for right in (y, packed_y):
            packed = agreement_matrix(pack_gates(x), right, num_units=units_of(x), metric=metric)
            assert_same_bits(packed, actual)
        if y is None:
            assert_same_bits(actual, actual.T)
        results[metric] = actual
    return results


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.parametrize("n", [0, 1, 2, 3, 127, 300])
def test_every_shape(rng: np.random.Generator, n: int, d: int) -> None:
    x = random_features(rng, n, d, random_dtype(rng))
    check(x)
    check(x, random_features(rng, 5, d, random_dtype(rng)))


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
@pytest.mark.parametrize("n", SIZES)
def test_around_whole_tiles(
    rng: np.random.Generator,
    use_instruction_set: Callable[[str], None],
    n: int,
    instruction_set: str,
) -> None:
    use_instruction_set(instruction_set)
    m, d = int(rng.choice(SIZES)), int(rng.choice([1, 65, 130]))
    check(random_features(rng, n, d, torch.float32))
    check(random_features(rng, n, d, torch.float32), random_features(rng, m, d, torch.float32))


# 31 words, after which byte counters are full; 128, after which a row is cut.
@pytest.mark.parametrize("d", [1920, 1984, 1985, 3969, 8192, 8193, 20_000])
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_long_rows(
    rng: np.random.Generator,
    use_instruction_set: Callable[[str], None],
    instruction_set: str,
    d: int,
) -> None:
    use_instruction_set(instruction_set)
    x = random_features(rng, 21, d, torch.float32)
    check(x)
    check(x, x[:5])


@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_rows_that_differ_in_everything(
    use_instruction_set: Callable[[str], None], instruction_set: str
) -> None:
    # The most that any counter has to hold.
    use_instruction_set(instruction_set)
    x = torch.zeros(2, 20_000)
    x[1] = 1
    for agreement in check(x).values():
        assert agreement[0, 1] == 0
        assert agreement[1, 1] == 1


@each_metric
def test_each_fraction_is_rounded_once(
    rng: np.random.Generator, metric: Literal["hamming", "jaccard"]
) -> None:
    # 2^24 + 10 units are more than float32 can count.
    for n, d in [(60, 997), (3, 2**24 + 10)]:
        packed = torch.from_numpy(rng.integers(-(2**63), 2**63, (n, math.ceil(d / 64))))
        agreement = np.asarray(agreement_matrix(packed, num_units=d, metric=metric))
        bits = np.unpackbits(packed.numpy().view(np.uint8), axis=1, bitorder="little")[:, :d]
        for i, j in zip(*np.triu_indices(n), strict=True):
            a, b = bits[i].astype(bool), bits[j].astype(bool)
            if metric == "hamming":
                exact = Fraction(int((a == b).sum()), d)
            else:
                exact = Fraction(int((a & b).sum()), int((a | b).sum()))
            value = agreement[i, j]
            error = abs(Fraction(float(value)) - exact)
            for other in (np.nextafter(value, np.float32(2)), np.nextafter(value, np.float32(-1))):
                assert error <= abs(Fraction(float(other)) - exact)


def test_bits_beyond_the_units_are_ignored(rng: np.random.Generator) -> None:
    x = random_features(rng, 40, 70, torch.float32)
    packed = pack_gates(x)
    noisy = packed.clone()  # type: ignore[union-attr]
    noisy[:, 1] |= torch.from_numpy(rng.integers(0, 2**56, 40)) << 6
    for metric in METRICS:
        wanted = agreement_matrix(packed, num_units=70, metric=metric)
        assert_same_bits(agreement_matrix(noisy, num_units=70, metric=metric), wanted)
        assert_same_bits(agreement_matrix(packed, noisy, num_units=70, metric=metric), wanted)


@each_dtype
def test_rows_with_no_open_unit(dtype: torch.dtype) -> None:
    for nothing in (torch.zeros(5, 9, dtype=dtype), torch.full((5, 9), math.nan, dtype=dtype)):
        agreement = check(nothing)
        assert (agreement["hamming"] == 1).all()
        assert agreement["jaccard"].isnan().all()
    one = torch.ones(1, 9, dtype=dtype)
    assert (check(torch.zeros(2, 9, dtype=dtype), one)["jaccard"] == 0).all()


def test_rows_of_no_unit() -> None:
    for agreement in check(torch.zeros(4, 0)).values():
        assert agreement.shape == (4, 4)
        assert agreement.isnan().all()


@settings(max_examples=80, deadline=None)
@given(x=laid_out_tensors(), data=st.data())
def test_any_shape_strides_and_dtype(x: Tensor, data: st.DataObject) -> None:
    y = data.draw(st.sampled_from([None, x.flip(0), x[: len(x) // 2]]), label="y")
    check(x, y)


def test_packed_gates_of_any_strides(rng: np.random.Generator) -> None:
    packed = torch.from_numpy(rng.integers(-(2**63), 2**63, (60, 8)))
    for view in (packed[::3, 2:5], packed[:, ::2], packed[:8].T, packed[:1].expand(20, 8)):
        d = 64 * view.shape[1] - 5
        for y in (None, view.flip(0)):
            result = agreement_matrix(view, y, num_units=d)
            copied = None if y is None else y.contiguous()
            assert_same_bits(result, agreement_matrix(view.contiguous(), copied, num_units=d))


@each_metric
def test_out_is_written_in_place(
    rng: np.random.Generator, metric: Literal["hamming", "jaccard"]
) -> None:
    outs: list[Callable[[int, int], Tensor]] = [
        lambda n, m: torch.empty(n, m),
        lambda n, m: torch.empty(m, n).T,
        lambda n, m: torch.empty(n, m + 5)[:, 2 : m + 2],
        lambda n, m: torch.empty(2 * m, 3 * n)[::2, ::3].T,
    ]
    for n, m in [(0, None), (1, None), (150, None), (20, 131), (131, 20)]:
        x = random_features(rng, n, 29, torch.float32)
        y = None if m is None else random_features(rng, m, 29, torch.float32)
        expected = agreement_matrix(x, y, metric=metric)
        for make in outs:
            out = make(n, n if m is None else m)
            around = out if out._base is None else out._base
            around.fill_(7)
            assert agreement_matrix(x, y, metric=metric, out=out) is out
            assert_same_bits(out, expected)
            assert int((around == 7).sum()) == around.numel() - out.numel()


def test_numpy_in_numpy_out(rng: np.random.Generator) -> None:
    x = rng.standard_normal((30, 4, 5)).astype(np.float32)[::-1]
    for agreement in check(x, x[::2]).values():
        assert isinstance(agreement, np.ndarray)
    out = np.full((30, 60), 7, np.float32)
    view = out[:, ::2]
    assert agreement_matrix(x, out=view) is view
    np.testing.assert_array_equal(view, reference.agreement_matrix(x).astype(np.float32))
    assert (out[:, 1::2] == 7).all()


@each_metric
@pytest.mark.parametrize(("n", "d"), [(9, 2000), (65, 70), (700, 150)])
def test_same_bits_everywhere(
    rng: np.random.Generator,
    set_threads: Callable[[int], None],
    use_instruction_set: Callable[[str], None],
    n: int,
    d: int,
    metric: Literal["hamming", "jaccard"],
) -> None:
    x, y = (random_features(rng, rows, d, torch.float16) for rows in (n, 2 * n))
    expected = [agreement_matrix(x, other, metric=metric) for other in (None, y)]
    for name in INSTRUCTION_SETS:
        use_instruction_set(name)
        for threads in (1, 2, 3):
            set_threads(threads)
            for other, wanted in zip((None, y), expected, strict=True):
                actual = agreement_matrix(x, other, metric=metric)
                assert_same_bits(actual, wanted, f"{name}, {threads} threads")


def test_wrong_input_is_refused_by_name() -> None:
    x, out = torch.ones(4, 70), torch.full((4, 4), 7.0)
    packed = pack_gates(x)
    assert isinstance(packed, Tensor)
    shared = torch.ones(4, 4)
    matrix: Callable[..., object] = agreement_matrix
    refused: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (TypeError, "features_or_packed: wanted float16", lambda: matrix(x.int())),
        (TypeError, "features_or_packed: wanted a torch", lambda: matrix([1.0])),
        (TypeError, "y: wanted a torch", lambda: matrix(x, [1.0])),
        (ValueError, "y: wanted at least one dim", lambda: matrix(x, torch.tensor(1.0))),
        (ValueError, "num_units: needed, since features_or_packed", lambda: matrix(packed)),
        (ValueError, "num_units: needed, since y is int64", lambda: matrix(x, packed)),
        (ValueError, "num_units: got 9.*70 values", lambda: matrix(x, num_units=9)),
        (ValueError, "num_units: wanted at least 0", lambda: matrix(packed, num_units=-1)),
        (TypeError, "num_units: wanted an int", lambda: matrix(packed, num_units=70.0)),
        (ValueError, r"shape \[n, 1\] for num_units=64", lambda: matrix(packed, num_units=64)),
        (ValueError, r"got shape \[8\]", lambda: matrix(packed.flatten(), num_units=70)),
        (
            ValueError,
            "num_units must be 0",
            lambda: matrix(packed[:, :1].expand(4, 2**23), num_units=2**29),
        ),
        (ValueError, "y: rows have 60 units", lambda: matrix(x, x[:, :60])),
        (ValueError, "metric: wanted 'hamming' or 'jaccard'", lambda: matrix(x, metric="dice")),
        (TypeError, "out: wanted a torch", lambda: matrix(x, out=[0.0])),
        (TypeError, "out must be Float", lambda: matrix(x, out=out.double())),
        (ValueError, r"out must have shape \[4, 4\]", lambda: matrix(x, out=out[:3])),
        (ValueError, "share memory", lambda: matrix(x, out=out[:1].expand(4, 4))),
        (ValueError, "requires grad", lambda: matrix(x, out=out.clone().requires_grad_())),
    ]
    for error, message, call in refused:
        with pytest.raises(error, match=message):
            call()
    assert (out == 7).all()
    words = torch.zeros(4, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="out shares memory with x"):
        agreement_matrix(words, num_units=70, out=words.view(torch.float32))
    agreement_matrix(shared, out=shared)  # features are packed first


@each_metric
def test_is_a_sound_op(rng: np.random.Generator, metric: str) -> None:
    ops, jaccard = torch.ops.tfc_fast, metric == "jaccard"
    x, y = (ops.pack_gates(random_features(rng, rows, 70, torch.float32) + 1) for rows in (6, 3))
    for results in (
        opcheck(ops.agreement_matrix.default, (x, None, 70, jaccard)),
        opcheck(ops.agreement_matrix.default, (x[::2], y, 70, jaccard)),
        opcheck(ops.agreement_matrix_out.default, (x, y, 70, jaccard, torch.empty(6, 3))),
    ):
        assert set(results.values()) == {"SUCCESS"}


def test_compiled_by_torch(rng: np.random.Generator) -> None:
    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def doubled(a: Tensor) -> Tensor:
        agreement = agreement_matrix(a)
        assert isinstance(agreement, Tensor)
        return 2 * agreement

    for rows in (40, 21):
        x = random_features(rng, rows, 9, torch.float32)
        np.testing.assert_array_equal(doubled(x), 2 * reference.agreement_matrix(x).astype("f4"))
