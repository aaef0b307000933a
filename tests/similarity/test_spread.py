from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
from checks import DTYPES, INSTRUCTION_SETS, random_labels
from memory import peak_mib_of
from rows import SCALES, rows_at_all_angles
from torch import Tensor
from torch.library import opcheck

from tfc_fast.similarity import CosineSpread, cosine_spread, mean_cosine

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def check(x: Tensor, labels: Tensor | None = None) -> CosineSpread:
    """Right to 1e-3 of the deviation, down to 1e-8; to the rounding of a cosine if that is less."""
    actual, expected = cosine_spread(x, labels), reference.cosine_spread(x, labels)
    assert [int(count) for count in actual[3:]] == list(expected[3:])
    for name, value, wanted in zip(CosineSpread._fields[:3], actual, expected, strict=False):
        np.testing.assert_allclose(
            float(value), wanted, rtol=1e-3, atol=1e-11, equal_nan=True, err_msg=name
        )
        if wanted > 1e-2:
            # Of few cosines of order 1, which deviate little by chance, each is rounded by itself.
            np.testing.assert_allclose(float(value), wanted, rtol=1e-6, atol=1e-7, err_msg=name)
    return actual


@each_dtype
@pytest.mark.parametrize("d", [1, 7, 64, 1000, 4096])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 127, 300])
def test_every_shape(rng: np.random.Generator, n: int, d: int, dtype: torch.dtype) -> None:
    x = rows_at_all_angles(rng, n, d, dtype)
    assert math.isnan(check(x).all) == (n < 2)
    check(x, random_labels(rng, n))


@pytest.mark.parametrize(
    ("n", "d"), [(20, 200_000), (100, 200_000), (1500, 3), (1500, 40), (1000, 1000)]
)
def test_large_shapes(rng: np.random.Generator, n: int, d: int) -> None:
    check(rows_at_all_angles(rng, n, d, torch.float32), random_labels(rng, n))


@each_dtype
@pytest.mark.parametrize(("n", "d"), [(250, 65), (700, 130), (900, 300)])
def test_more_rows_than_units(rng: np.random.Generator, n: int, d: int, dtype: torch.dtype) -> None:
    # The products of units are the smaller matrix here, and several tiles.
    check(rows_at_all_angles(rng, n, d, dtype))
    check(rows_at_all_angles(rng, n, d, dtype), random_labels(rng, n, 3))


def test_four_thousand_rows(rng: np.random.Generator) -> None:
    for d in (1, 7, 64):
        x, labels = rows_at_all_angles(rng, 4096, d, torch.float32), random_labels(rng, 4096)
        units = reference._Rows(x).units
        cosines = units @ units.T
        pairs = np.triu(np.ones_like(cosines, dtype=bool), 1)
        same = labels.numpy()[:, None] == labels.numpy()
        wanted = [cosines[pairs & kind].std() for kind in (pairs, same, ~same)]
        np.testing.assert_allclose(cosine_spread(x, labels)[:3], wanted, rtol=1e-6)


@each_dtype
def test_scales(rng: np.random.Generator, dtype: torch.dtype) -> None:
    for scale in SCALES[dtype]:
        x = (rows_at_all_angles(rng, 60, 33, torch.float64) * scale).to(dtype)
        assert int(check(x, random_labels(rng, 60)).n_rows) == 60
    scales = torch.from_numpy(rng.choice(SCALES[dtype], (131, 1)))
    x = (rows_at_all_angles(rng, 131, 33, torch.float64) * scales).to(dtype)
    check(x, random_labels(rng, 131))


@pytest.mark.parametrize("d", [3, 40, 700])
@pytest.mark.parametrize("n", [5, 60, 700])
@pytest.mark.parametrize("deviation", [1e-2, 1e-4, 1e-6, 1e-8])
def test_nearly_parallel_rows(rng: np.random.Generator, deviation: float, n: int, d: int) -> None:
    # Squares of the cosines would give 0 here, or many times the truth.
    direction = rng.standard_normal(d)
    size = math.sqrt(deviation * d**0.5) * np.linalg.norm(direction) / math.sqrt(d)
    x = torch.from_numpy(direction + size * rng.standard_normal((n, d)))
    labels = random_labels(rng, n)
    for rows in (x, x.float()):
        spread = check(rows, labels)
        assert deviation / 30 < float(spread.all) < deviation * 30


@each_dtype
def test_bundles_that_collapse_apart(rng: np.random.Generator, dtype: torch.dtype) -> None:
    # Classes at all angles to each other, each nearly one direction.
    labels = random_labels(rng, 200)
    centres = torch.from_numpy(rng.standard_normal((5, 50)))
    for size in (1e-1, 1e-2, 1e-3):
        own = torch.from_numpy(rng.standard_normal((200, 50)))
        check((centres[labels] + size * own).to(dtype), labels)


@pytest.mark.parametrize("d", [5, 60])
@pytest.mark.parametrize("few", [1, 4])
@pytest.mark.parametrize("deviation", [1e-1, 1e-4, 1e-7])
def test_nearly_all_rows_in_one_class(
    rng: np.random.Generator, deviation: float, few: int, d: int
) -> None:
    # Products with the own mean, which the pairs between classes leave out, are nearly all of them.
    n = 800
    direction = rng.standard_normal(d)
    x = torch.from_numpy(direction + math.sqrt(deviation) * rng.standard_normal((n, d)))
    labels = torch.zeros(n, dtype=torch.long)
    labels[torch.from_numpy(rng.permutation(n)[:few])] = 1
    x[labels == 1] += math.sqrt(deviation)
    for rows in (x, x.float(), -x.bfloat16()):
        check(rows, labels)


@pytest.mark.parametrize("leak", [1e-2, 1e-5, 1e-7, 3e-8])
def test_nearly_orthogonal_planes(rng: np.random.Generator, leak: float) -> None:
    # Wide apart within each class, hardly so between them: what is left of large sums of products.
    n = 600
    angles = rng.uniform(0, 2 * np.pi, n)
    labels = torch.arange(n) % 2
    x = torch.zeros(n, 4, dtype=torch.float64)
    for plane in (0, 1):
        of_plane = (labels == plane).numpy()
        x[of_plane, 2 * plane] = torch.from_numpy(np.cos(angles[of_plane]))
        x[of_plane, 2 * plane + 1] = torch.from_numpy(np.sin(angles[of_plane]))
    x += leak * torch.from_numpy(rng.standard_normal((n, 4)))
    for rows in (x, x.float()):
        check(rows, labels)


@pytest.mark.parametrize("noise", [1e-2, 1e-5, 1e-7, 2e-8])
def test_many_classes_of_few_rows(rng: np.random.Generator, noise: float) -> None:
    # Three rows at 120 degrees: the same cosine for all pairs of a class, but for the noise.
    corners = torch.tensor([[1.0, 0.0], [-0.5, 3**0.5 / 2], [-0.5, -(3**0.5) / 2]]).double()
    x = corners.repeat(300, 1)
    x = torch.cat([x, torch.zeros(len(x), 2, dtype=torch.float64)], dim=1)
    x += noise * torch.from_numpy(rng.standard_normal(tuple(x.shape)))
    check(x, torch.arange(300).repeat_interleave(3))


@each_dtype
@pytest.mark.parametrize("n", [2, 3, 32, 300])
def test_equal_rows_have_no_spread(rng: np.random.Generator, n: int, dtype: torch.dtype) -> None:
    spread = cosine_spread(
        rows_at_all_angles(rng, 1, 100, dtype).repeat(n, 1), random_labels(rng, n, 2)
    )
    for deviation in spread[:3]:
        assert math.isnan(deviation) or 0 <= float(deviation) < 1e-11


def test_orthogonal_and_opposite_rows() -> None:
    assert float(cosine_spread(torch.eye(70)).all) < 1e-8
    # Half of the pairs but one have cosine 1, the others -1.
    x = torch.ones(100, 30) * torch.tensor([1.0, -1.0]).repeat(50)[:, None]
    same = 2 * 50 * 49 / (100 * 99)
    assert float(cosine_spread(x).all) == pytest.approx(2 * math.sqrt(same * (1 - same)), rel=1e-6)


@each_dtype
def test_labels_of_every_kind(rng: np.random.Generator, dtype: torch.dtype) -> None:
    n = 200
    for d in (20, 300):
        x = rows_at_all_angles(rng, n, d, dtype)
        one_class = check(x, torch.zeros(n, dtype=torch.int64))
        assert math.isnan(one_class.between)
        assert float(one_class.within) == float(one_class.all)
        assert math.isnan(check(x, torch.from_numpy(rng.permutation(n))).within)
        check(x, torch.from_numpy(rng.geometric(0.3, n)))
        labels = torch.zeros(n, dtype=torch.int64)
        labels[-1] = 90
        check(x, labels)
        labels[-2:] = 91
        check(x, labels)


@each_dtype
def test_zero_and_bad_rows_are_left_out(rng: np.random.Generator, dtype: torch.dtype) -> None:
    x = rows_at_all_angles(rng, 200, 33, dtype)
    x[torch.from_numpy(rng.choice(200, 30, replace=False))] = 0
    for bad in (math.nan, math.inf, -math.inf):
        x[int(rng.integers(200)), int(rng.integers(33))] = bad
    check(x)
    check(x, random_labels(rng, 200))
    for nothing in (torch.zeros(9, 4, dtype=dtype), torch.full((9, 4), math.nan, dtype=dtype)):
        spread = check(nothing, random_labels(rng, 9))
        assert int(spread.n_rows) == 0
        assert all(math.isnan(deviation) for deviation in spread[:3])


def test_three_pairs_of_known_cosines() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]])
    assert float(mean_cosine(x).all) == pytest.approx((1 + 0.6 + 0.6) / 3, abs=1e-7)
    assert float(cosine_spread(x).all) == pytest.approx(np.std([1, 0.6, 0.6]), rel=1e-6)


def test_numpy_in_numpy_out(rng: np.random.Generator) -> None:
    x = rng.standard_normal((30, 4, 5)).astype(np.float32)[::-1, :, ::2]
    spread = cosine_spread(x, rng.integers(0, 3, 30))
    wanted = cosine_spread(torch.from_numpy(np.ascontiguousarray(x)))
    assert all(isinstance(value, (np.float64, np.int64)) for value in spread)
    assert float(spread.all) == pytest.approx(float(wanted.all), rel=1e-6)


def test_wrong_input_is_refused_by_name() -> None:
    x = torch.ones(4, 6)
    refused: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (TypeError, "x: wanted float16", lambda: cosine_spread(x.int())),
        (ValueError, "x: wanted at least one dimension", lambda: cosine_spread(torch.tensor(1.0))),
        (ValueError, "one label per row", lambda: cosine_spread(x, torch.zeros(3).long())),
        (ValueError, "label 5", lambda: cosine_spread(x, torch.arange(4) + 5, num_classes=5)),
        (ValueError, "num_classes: given without", lambda: cosine_spread(x, num_classes=5)),
    ]
    for error, message, call in refused:
        with pytest.raises(error, match=message):
            call()


@each_dtype
@pytest.mark.usefixtures("products")
@pytest.mark.parametrize(("n", "d"), [(60, 100), (200, 16), (1700, 100), (700, 100), (100, 700)])
def test_same_bits_for_any_number_of_threads(
    rng: np.random.Generator, set_threads: Callable[[int], None], n: int, d: int, dtype: torch.dtype
) -> None:
    x, labels = rows_at_all_angles(rng, n, d, dtype), random_labels(rng, n)
    set_threads(1)
    expected = cosine_spread(x, labels)
    for threads in (2, 3, 8):
        set_threads(threads)
        assert cosine_spread(x, labels) == expected


@each_dtype
@pytest.mark.parametrize(("n", "d"), [(300, 517), (700, 100)])
def test_every_instruction_set_gives_the_same_bits(
    rng: np.random.Generator,
    use_instruction_set: Callable[[str], None],
    n: int,
    d: int,
    dtype: torch.dtype,
) -> None:
    x, labels = rows_at_all_angles(rng, n, d, dtype), random_labels(rng, n)
    results = []
    for name in INSTRUCTION_SETS:
        use_instruction_set(name)
        results.append(cosine_spread(x, labels))
    assert all(result == results[0] for result in results)


@pytest.mark.usefixtures("products")
def test_each_product(rng: np.random.Generator) -> None:
    for n, d in ((200, 65), (65, 200)):
        check(rows_at_all_angles(rng, n, d, torch.float32), random_labels(rng, n))


@each_dtype
def test_is_a_sound_op(rng: np.random.Generator, dtype: torch.dtype) -> None:
    x = rows_at_all_angles(rng, 12, 5, dtype)
    grouping = torch.ops.tfc_fast.group_labels(torch.arange(12) % 5, 5)
    op = torch.ops.tfc_fast.cosine_spread.default
    assert set(opcheck(op, (x.view(12, 5, 1), *grouping)).values()) == {"SUCCESS"}
    # Without labels two results are NaN, which opcheck takes for different from itself.
    without_values = ("test_schema", "test_autograd_registration", "test_faketensor")
    results = opcheck(op, (x, None, None), test_utils=without_values)
    assert set(results.values()) == {"SUCCESS"}


# The second's unit rows, 86 MiB, are too many to be made in advance. The last adds up products of
# units, of a class and of all, in tiles that take 48 MiB together.
@pytest.mark.parametrize(("n", "d", "most"), [(20000, 64, 14), (4500, 5000, 14), (6000, 2048, 52)])
def test_memory_does_not_grow_with_the_pairs(n: int, d: int, most: int) -> None:
    program = f"""
import torch
from tfc_fast.similarity import cosine_spread
x, labels = torch.randn({n}, {d}), torch.randint(0, 10, ({n},))
cosine_spread(x[:100], labels[:100], num_classes=10)
"""
    peak = peak_mib_of(program, "cosine_spread(x, labels, num_classes=10)")
    assert peak < most, f"MiB; the matrix would be {n * n * 4 / 2**20:.0f}"
