from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
from checks import DTYPES, INSTRUCTION_SETS, LARGE_SHAPES, SHAPES
from memory import peak_mib_of
from rows import SCALES, random_rows
from torch import Tensor
from torch.library import opcheck

from tfc_fast import _C
from tfc_fast.similarity import cosine_matrix

# Around whole tiles and panels, and where one tile becomes several.
SIZES = [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 520, 1030]
WIDTHS = [1, 7, 16, 31, 33, 127, 129, 511, 513, 1025, 2100]

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def tolerance(dtype: torch.dtype) -> float:
    return 1e-12 if dtype == torch.float64 else 1e-6


def check(x: Tensor, y: Tensor | None = None) -> Tensor:
    actual = cosine_matrix(x, y)
    assert isinstance(actual, Tensor)
    assert actual.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    expected = reference.cosine_matrix(x, y)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance(x.dtype), equal_nan=True)
    assert not (actual.abs() > 1).any()
    if y is None:
        assert_same_bits(actual, actual.T)
        diagonal = actual.diagonal()
        assert ((diagonal == 1) | (diagonal == 0) | diagonal.isnan()).all()
    return actual


def assert_same_bits(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@each_dtype
@pytest.mark.parametrize(("n", "d"), [shape for shape in SHAPES if shape != (4096, 64)])
def test_every_shape(rng: np.random.Generator, n: int, d: int, dtype: torch.dtype) -> None:
    check(random_rows(rng, n, d, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("n", "d"), [(4096, 64), *LARGE_SHAPES])
def test_large_shapes(rng: np.random.Generator, n: int, d: int, dtype: torch.dtype) -> None:
    check(random_rows(rng, n, d, dtype))


@pytest.mark.usefixtures("products")
@each_dtype
@pytest.mark.parametrize("n", SIZES)
def test_around_whole_tiles(rng: np.random.Generator, n: int, dtype: torch.dtype) -> None:
    for m in (None, *rng.choice(SIZES, 2)):
        d = int(rng.choice(WIDTHS))
        y = None if m is None else random_rows(rng, int(m), d, dtype)
        check(random_rows(rng, n, d, dtype), y)


@pytest.mark.usefixtures("products")
@each_dtype
@pytest.mark.parametrize("d", WIDTHS)
def test_around_whole_panels(rng: np.random.Generator, d: int, dtype: torch.dtype) -> None:
    check(random_rows(rng, 70, d, dtype))
    check(random_rows(rng, 5, d, dtype), random_rows(rng, 33, d, dtype))


@each_dtype
def test_one_row_against_many(rng: np.random.Generator, dtype: torch.dtype) -> None:
    one, many = random_rows(rng, 1, 40, dtype), random_rows(rng, 5000, 40, dtype)
    assert check(one, many).shape == (1, 5000)
    assert check(many, one).shape == (5000, 1)


@pytest.mark.usefixtures("products")
@each_dtype
@pytest.mark.parametrize("d", [1, 2, 31, 67, 300])
def test_every_entry_meets_its_own(rng: np.random.Generator, d: int, dtype: torch.dtype) -> None:
    units = torch.eye(d, dtype=dtype)
    assert_same_bits(check(units), torch.eye(d, dtype=torch.promote_types(dtype, torch.float32)))
    order = torch.from_numpy(rng.permutation(d))
    cosines = check(units, -3 * units[order])
    assert_same_bits(cosines, -units[:, order].to(cosines.dtype))


@pytest.mark.usefixtures("bfloat16_pairs")
@pytest.mark.parametrize("d", [1, 31, 64, 300])
def test_bfloat16_pairs(rng: np.random.Generator, d: int) -> None:
    for n in (2, 33, 64, 150, 300):
        check(random_rows(rng, n, d, torch.bfloat16))
        check(random_rows(rng, n, d, torch.bfloat16), random_rows(rng, 70, d, torch.bfloat16))
    assert_same_bits(check(torch.eye(d, dtype=torch.bfloat16)), torch.eye(d))


@pytest.mark.usefixtures("products")
@each_dtype
def test_scales_mixed_in_one_batch(rng: np.random.Generator, dtype: torch.dtype) -> None:
    for n, m, d in [(131, None, 300), (70, 140, 33)]:
        x, y = (
            None
            if rows is None
            else random_rows(rng, rows, d, torch.float64)
            * torch.from_numpy(rng.choice(SCALES[dtype], (rows, 1)))
            for rows in (n, m)
        )
        assert x is not None
        check(x.to(dtype), None if y is None else y.to(dtype))


@pytest.mark.usefixtures("products")
@each_dtype
def test_entries_of_all_sizes_in_one_row(rng: np.random.Generator, dtype: torch.dtype) -> None:
    # The smallest, scaled as their rows are, vanish; so they do in the cosines.
    most = 4 if dtype == torch.float16 else 38
    for n, d in [(40, 1), (90, 7), (150, 133)]:
        size = rng.uniform(-most, most, (n, d)) * rng.uniform(0, 1, (n, 1))
        check(torch.from_numpy(rng.choice([-1.0, 1.0], (n, d)) * 10**size).to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_denormal_numbers_flushed(
    rng: np.random.Generator, flush_denormal: Callable[[bool], bool], dtype: torch.dtype
) -> None:
    scales = torch.from_numpy(rng.choice([1e-30, 1e-20, 1.0, 1e20, 2e37], (70, 1)))
    x = (random_rows(rng, 70, 133, torch.float64) * scales).to(dtype)
    expected = cosine_matrix(x)
    if not flush_denormal(True):
        pytest.skip("the processor does not flush denormal numbers")
    assert_same_bits(check(x), torch.as_tensor(expected))


@pytest.mark.usefixtures("products")
@each_dtype
def test_rows_of_one_value_have_cosine_one(rng: np.random.Generator, dtype: torch.dtype) -> None:
    # Every product is rounded the same way, so that nothing averages out.
    for d in (*rng.integers(1, 3000, 20), *rng.integers(3000, 60_000, 5)):
        x = torch.full((3, int(d)), rng.uniform(1, 2), dtype=dtype)
        x[1] *= 3
        cosines = cosine_matrix(x)
        assert (cosines - 1).abs().max() <= tolerance(dtype), f"width {d}, value {x[0, 0].item()}"


@pytest.mark.usefixtures("products")
@each_dtype
def test_rows_of_a_few_values_have_cosine_one(rng: np.random.Generator, dtype: torch.dtype) -> None:
    # As above, but here even a few products add up to more digits than a sum has.
    for _ in range(20):
        values = rng.uniform(1, 2, rng.integers(2, 9))
        values *= 2.0 ** -rng.integers(0, 8, len(values))
        row = np.resize(values, rng.integers(100, 4000))
        x = torch.from_numpy(np.tile(row, (3, 1))).to(dtype)
        x[1] *= 2
        cosines = cosine_matrix(x)
        assert (cosines - 1).abs().max() <= tolerance(dtype), f"{x.shape[1]} of {values}"


@each_dtype
def test_nearly_equal_and_opposite_rows(rng: np.random.Generator, dtype: torch.dtype) -> None:
    row, noise = rng.standard_normal(1000), rng.standard_normal((65, 1000))
    x = torch.from_numpy(row + 1e-6 * noise).to(dtype)
    check(torch.cat([x, -x]))


@each_dtype
def test_zero_rows_give_zero_and_bad_rows_nan(rng: np.random.Generator, dtype: torch.dtype) -> None:
    n, d = 150, 37
    x, y = random_rows(rng, n, d, dtype), random_rows(rng, 90, d, dtype)
    for rows in (x, y):
        chosen = rng.choice(len(rows), 8, replace=False)
        rows[chosen[:4]] = 0
        rows[chosen[0]] = -0.0
        for row, bad in zip(chosen[4:], (math.nan, math.inf, -math.inf, math.nan), strict=True):
            rows[int(row), int(rng.integers(d))] = bad
    square, cross = check(x), check(x, y)
    assert int(square.isnan().sum()) == n * n - (n - 4) ** 2
    assert int(cross.isnan().sum()) == n * 90 - (n - 4) * 86
    assert int((square == 0).all(dim=1).sum()) == 0, "a bad row reaches the zero rows too"
    assert int((square.nan_to_num() == 0).all(dim=1).sum()) == 8


@each_dtype
def test_all_zero_and_all_nan(dtype: torch.dtype) -> None:
    assert (check(torch.zeros(5, 3, dtype=dtype)) == 0).all()
    assert check(torch.full((5, 3), math.nan, dtype=dtype)).isnan().all()
    assert check(torch.zeros(4, 0, dtype=dtype)).shape == (4, 4)
    assert check(torch.zeros(0, 3, dtype=dtype), torch.ones(2, 3, dtype=dtype)).shape == (0, 2)


OUTS: dict[str, Callable[[int, int, torch.dtype], Tensor]] = {
    "contiguous": lambda n, m, t: torch.empty(n, m, dtype=t),
    "transposed": lambda n, m, t: torch.empty(m, n, dtype=t).T,
    "rows apart": lambda n, m, t: torch.empty(n, m + 5, dtype=t)[:, 2 : m + 2],
    "columns apart": lambda n, m, t: torch.empty(n, 3 * m, dtype=t)[:, ::3],
    "both apart": lambda n, m, t: torch.empty(2 * m, 3 * n, dtype=t)[::2, ::3].T,
}


@each_dtype
@pytest.mark.parametrize("layout", OUTS)
def test_out_is_written_in_place(rng: np.random.Generator, layout: str, dtype: torch.dtype) -> None:
    for n, m in [(0, None), (1, None), (150, None), (20, 131), (131, 20)]:
        x = random_rows(rng, n, 29, dtype)
        y = None if m is None else random_rows(rng, m, 29, dtype)
        expected = cosine_matrix(x, y)
        assert isinstance(expected, Tensor)
        columns = n if m is None else m
        out = OUTS[layout](n, columns, expected.dtype)
        around = out if out._base is None else out._base
        around.fill_(7)
        assert cosine_matrix(x, y, out=out) is out
        assert_same_bits(out, expected)
        untouched = int((around == 7).sum())
        assert untouched == around.numel() - out.numel(), "wrote beside the view"


def test_numpy_in_numpy_out(rng: np.random.Generator) -> None:
    x = rng.standard_normal((30, 4, 5)).astype(np.float32)
    cosines = cosine_matrix(x)
    assert isinstance(cosines, np.ndarray)
    np.testing.assert_allclose(cosines, reference.cosine_matrix(x), atol=1e-6)
    out = np.full((30, 60), 7, np.float32)
    view = out[:, ::2]
    assert cosine_matrix(x, x[::-1], out=view) is view
    np.testing.assert_allclose(out[:, ::2], reference.cosine_matrix(x, x[::-1]), atol=1e-6)
    assert (out[:, 1::2] == 7).all()


def test_wrong_input_is_refused_by_name() -> None:
    x, out = torch.ones(4, 6), torch.full((4, 4), 7.0)
    shared = torch.ones(4, 4)
    refused: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (TypeError, "x: wanted float16", lambda: cosine_matrix(x.int())),
        (TypeError, "y: wanted a torch", lambda: cosine_matrix(x, [1.0])),  # type: ignore[arg-type]
        (TypeError, "y must have the dtype of x", lambda: cosine_matrix(x, x.double())),
        (ValueError, "rows of y must be as long", lambda: cosine_matrix(x, x[:, :5])),
        (ValueError, "y: wanted at least one dim", lambda: cosine_matrix(x, torch.tensor(1.0))),
        (TypeError, "out: wanted a torch", lambda: cosine_matrix(x, out=[0.0])),  # type: ignore[arg-type]
        (TypeError, "out must be Float", lambda: cosine_matrix(x, out=out.double())),
        (TypeError, "out must be Double", lambda: cosine_matrix(x.double(), out=out)),
        (ValueError, r"out must have shape \[4, 4\]", lambda: cosine_matrix(x, out=out[:3])),
        (ValueError, r"out must have shape \[4, 4\]", lambda: cosine_matrix(x, out=out.flatten())),
        (ValueError, "share memory", lambda: cosine_matrix(x, out=out[:1].expand(4, 4))),
        (ValueError, "shares memory with x", lambda: cosine_matrix(shared, out=shared)),
        (ValueError, "shares memory with y", lambda: cosine_matrix(x[:, :4], shared, out=shared)),
        (ValueError, "requires grad", lambda: cosine_matrix(x, out=out.clone().requires_grad_())),
    ]
    for error, message, call in refused:
        with pytest.raises(error, match=message):
            call()
    assert (out == 7).all()
    assert (shared == 1).all()
    array = np.ones((4, 4), np.float32)
    with pytest.raises(ValueError, match="out: torch cannot write"):
        cosine_matrix(x, out=array[::-1])
    array.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        cosine_matrix(x, out=array)


@pytest.mark.usefixtures("products")
@each_dtype
@pytest.mark.parametrize(("n", "d"), [(9, 2000), (65, 70), (700, 150)])
def test_same_bits_for_any_number_of_threads(
    rng: np.random.Generator,
    set_threads: Callable[[int], None],
    n: int,
    d: int,
    dtype: torch.dtype,
) -> None:
    x, y = random_rows(rng, n, d, dtype), random_rows(rng, 2 * n, d, dtype)
    set_threads(1)
    expected = cosine_matrix(x), cosine_matrix(x, y)
    for threads in (2, 3, 8):
        set_threads(threads)
        for value, wanted in zip((cosine_matrix(x), cosine_matrix(x, y)), expected, strict=True):
            assert isinstance(value, Tensor)
            assert isinstance(wanted, Tensor)
            assert_same_bits(value, wanted)


@each_dtype
def test_every_instruction_set_gives_the_same_bits(
    rng: np.random.Generator, use_instruction_set: Callable[[str], None], dtype: torch.dtype
) -> None:
    x, y = random_rows(rng, 150, 517, dtype), random_rows(rng, 77, 517, dtype)
    x[3] = 0
    x[7, 5] = math.inf
    out = torch.empty(77, 150, dtype=torch.promote_types(dtype, torch.float32)).T
    results = []
    for name in INSTRUCTION_SETS:
        use_instruction_set(name)
        results.append((cosine_matrix(x), cosine_matrix(x, y, out=out).clone()))  # type: ignore[union-attr]
    for result in results[1:]:
        for value, wanted in zip(result, results[0], strict=True):
            assert isinstance(value, Tensor)
            assert isinstance(wanted, Tensor)
            assert_same_bits(value, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_lower_precision_of_products_is_not_taken(
    rng: np.random.Generator, dtype: torch.dtype
) -> None:
    x = random_rows(rng, 100, 300, dtype)
    before = torch.get_float32_matmul_precision()
    _C.use_float_gemm("torch")
    try:
        torch.set_float32_matmul_precision("medium")
        check(x)
    finally:
        torch.set_float32_matmul_precision(before)
        _C.use_float_gemm("onednn")


def test_every_product_that_the_processor_has_is_tested() -> None:
    assert ("fused" in _C.float_gemms()) == ("x86_64_v3" in INSTRUCTION_SETS)
    assert _C.float_gemms()[-1] == "torch"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_without_onednn(rng: np.random.Generator, dtype: torch.dtype) -> None:
    x = random_rows(rng, 100, 300, dtype)
    before = torch.backends.mkldnn.set_flags(_enabled=False)
    try:
        assert "onednn" not in _C.float_gemms()
        check(x)
    finally:
        torch.backends.mkldnn.set_flags(_enabled=before[0])


@each_dtype
def test_is_a_sound_op(rng: np.random.Generator, dtype: torch.dtype) -> None:
    x, y = random_rows(rng, 6, 5, dtype), random_rows(rng, 3, 5, dtype)
    out = torch.empty(6, 3, dtype=torch.promote_types(dtype, torch.float32))
    ops = torch.ops.tfc_fast
    for results in (
        opcheck(ops.cosine_matrix.default, (x, None)),
        opcheck(ops.cosine_matrix.default, (x.view(6, 5, 1)[::2], y)),
        opcheck(ops.cosine_matrix_out.default, (x, y, out)),
    ):
        assert set(results.values()) == {"SUCCESS"}


def test_compiled_by_torch(rng: np.random.Generator) -> None:
    x, y = random_rows(rng, 40, 9, torch.float32), random_rows(rng, 30, 9, torch.float32)

    @torch.compile(fullgraph=True, backend="aot_eager", dynamic=True)
    def scaled(a: Tensor, b: Tensor) -> Tensor:
        out = torch.empty(len(a), len(b))
        cosine_matrix(a, b, out=out)
        cosines = cosine_matrix(a, b)
        assert isinstance(cosines, Tensor)
        return cosines + out

    for rows in (40, 21):
        expected = cosine_matrix(x[:rows], y)
        assert isinstance(expected, Tensor)
        assert_same_bits(scaled(x[:rows], y), 2 * expected)


def test_memory_is_the_result_and_little_more() -> None:
    program = """
import torch
from tfc_fast.similarity import cosine_matrix
x, out = torch.randn(6000, 3000), torch.zeros(6000, 6000)
cosine_matrix(x[:200], out=out[:200, :200])
"""
    peak = peak_mib_of(program, "cosine_matrix(x, out=out)")
    assert peak < 16, "MiB; the unit rows alone would be 69"
