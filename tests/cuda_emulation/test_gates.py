"""Gates as bits and over a run: the CUDA kernels, run by the emulation, against the reference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
from cuda_emulation import gate_kernels
from cuda_emulation.emulation import Array, Device, EmulationError, Library
from cuda_emulation.kernels import SCALARS
from torch import Tensor

METRICS = ("hamming", "jaccard")
# More shared memory than a block may have: counts in global memory.
NO_SHARED_BYTES = 0
each_dtype = pytest.mark.parametrize("dtype", SCALARS, ids=str)


def random_features(rng: np.random.Generator, n: int, d: int, dtype: torch.dtype) -> Tensor:
    """Rows and units that are open seldom or often, and values on the verge of being open."""
    x = rng.standard_normal((n, d)) + rng.standard_normal((n, 1)) + rng.standard_normal(d)
    info = torch.finfo(dtype)
    least = info.smallest_normal * info.eps  # the least subnormal
    odd = rng.choice(
        [least, -least, info.tiny, np.inf, -np.inf, np.nan, -np.nan, 0.0, -0.0], (n, d)
    )
    return torch.from_numpy(np.where(rng.random((n, d)) < 0.2, odd, x)).to(dtype)


def random_gates(rng: np.random.Generator, n: int, units: int) -> tuple[Array, Tensor]:
    """Packed gates with noise beyond the units, and features that have them."""
    is_open = rng.random((n, units)) < rng.random((n, 1))
    features = torch.from_numpy(is_open.astype(np.float32))
    packed = reference.pack_gates(features).copy()
    if units % 64 and n:
        packed[:, -1] |= rng.integers(0, 2 ** (64 - units % 64 - 1), n) << (units % 64)
    return packed, features


@each_dtype
@pytest.mark.parametrize(
    ("n", "d"),
    [(1, 1), (3, 31), (2, 64), (70, 65), (33, 129), (9, 500), (4, 1024), (2, 2051), (40, 8)],
)
def test_pack_gates(
    library: Library, rng: np.random.Generator, n: int, d: int, dtype: torch.dtype
) -> None:
    x = random_features(rng, n, d, dtype)
    for seed, gap, offset in [(0, 0, 0), (1, -d % 8, 0), (2, 0, 1), (3, 3, 0), (4, 8 + -d % 8, 8)]:
        packed = gate_kernels.pack_gates(Device(library, seed), x, gap=gap, offset=offset)
        np.testing.assert_array_equal(packed, reference.pack_gates(x))


def test_nothing_to_pack(library: Library) -> None:
    for shape in [(0, 5), (5, 0), (0, 0)]:
        packed = gate_kernels.pack_gates(Device(library), torch.ones(shape))
        assert packed.shape == (shape[0], -(-shape[1] // 64))


def check_matrix(
    library: Library, rng: np.random.Generator, n: int, m: int, units: int, seed: int = 0
) -> None:
    left, x = random_gates(rng, n, units)
    right, y = random_gates(rng, m, units)
    for metric in METRICS:
        for other, features in [(None, None), (right, y)]:
            expected = reference.agreement_matrix(x, features, metric).astype(np.float32)
            for gap, transposed in [(0, False), (3, True)]:
                actual = gate_kernels.agreement_matrix(
                    Device(library, seed),
                    *(left, other, units, metric),
                    gap=gap,
                    transposed=transposed,
                )
                np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    ("n", "m", "units"),
    [
        *[(1, 1, 1), (2, 70, 7), (64, 64, 64), (65, 1, 65), (129, 63, 130), (200, 17, 100)],
        # Stages of 16 words: one, one word more, two, and many.
        *[(5, 5, 1023), (66, 3, 1024), (3, 66, 1025), (10, 10, 2048), (7, 7, 5000)],
    ],
)
def test_agreement_matrix(
    library: Library, rng: np.random.Generator, n: int, m: int, units: int
) -> None:
    check_matrix(library, rng, n, m, units, int(rng.integers(100)))


def test_rows_that_differ_in_everything(library: Library) -> None:
    packed = np.zeros((70, 40), np.int64)
    packed[::2] = -1
    for metric in METRICS:
        matrix = gate_kernels.agreement_matrix(Device(library), packed, None, 2559, metric)
        same = np.add.outer(np.arange(70), np.arange(70)) % 2 == 0
        both_shut = np.logical_and.outer(np.arange(70) % 2 == 1, np.arange(70) % 2 == 1)
        expected = np.where(both_shut, np.nan, same) if metric == "jaccard" else same
        np.testing.assert_array_equal(matrix, expected.astype(np.float32))


def test_no_pairs_and_no_units(library: Library) -> None:
    for n, m in [(0, 0), (0, 5), (5, 0)]:
        packed = [np.zeros((rows, 1), np.int64) for rows in (n, m)]
        assert gate_kernels.agreement_matrix(Device(library), *packed, 9, "hamming").size == 0
    nothing = np.zeros((3, 0), np.int64)
    for metric in METRICS:
        assert np.isnan(
            gate_kernels.agreement_matrix(Device(library), nothing, None, 0, metric)
        ).all()
    assert gate_kernels.agreement_histogram(Device(library), nothing, 0).tolist() == [[3], [0]]


@pytest.mark.parametrize("shared_bytes", [100 * 1024, NO_SHARED_BYTES], ids=["shared", "global"])
@pytest.mark.parametrize(
    ("n", "units"), [(0, 5), (1, 5), (2, 70), (64, 64), (65, 20), (300, 100), (150, 1500)]
)
def test_agreement_histogram(
    library: Library, rng: np.random.Generator, n: int, units: int, shared_bytes: int
) -> None:
    packed, x = random_gates(rng, n, units)
    expected = reference.agreement_histogram(x)
    device = Device(library, int(rng.integers(100)))
    counts = gate_kernels.agreement_histogram(device, packed, units, shared_bytes=shared_bytes)
    np.testing.assert_array_equal(counts, [expected["all"], np.zeros(units + 1)])

    labels = rng.integers(0, 6, n)
    expected = reference.agreement_histogram(x, labels)
    order, _ = reference.group_labels(labels, 6)
    counts = gate_kernels.agreement_histogram(
        Device(library, 7),
        *(packed, units, order, labels[order]),
        shared_bytes=shared_bytes,
    )
    np.testing.assert_array_equal(counts, [expected["within"], expected["between"]])


@pytest.mark.parametrize("shared_bytes", [100 * 1024, NO_SHARED_BYTES], ids=["shared", "global"])
def test_histogram_of_rows_that_are_all_alike(library: Library, shared_bytes: int) -> None:
    packed = np.full((130, 2), 5, np.int64)
    counts = gate_kernels.agreement_histogram(
        Device(library), packed, 128, shared_bytes=shared_bytes
    )
    assert counts[0, 128] == counts.sum() == 130 * 129 // 2


@each_dtype
@pytest.mark.parametrize(
    ("n", "d"), [(1, 1), (3, 7), (40, 33), (70, 64), (300, 100), (5, 300), (17, 1000), (600, 3)]
)
def test_update_units(
    library: Library, rng: np.random.Generator, n: int, d: int, dtype: torch.dtype
) -> None:
    device = Device(library, int(rng.integers(100)))
    units, twin = gate_kernels.Units(device, d), reference.UnitActivity(d, 2)
    layouts = [(0, 0, 2), (-d % 8, 0, 40), (0, 1, 1), (3, 0, 100), (8 + -d % 8, 8, 2)]
    for update, (gap, offset, multiprocessors) in enumerate(layouts, 1):
        x = random_features(rng, n, d, dtype)
        x[:, rng.random(d) < 0.6] = 0
        units.update(x, update, 2, gap=gap, offset=offset, multiprocessors=multiprocessors)
        twin.update(x)
        assert units.open_rows.tolist() == [sum(rows) for rows in twin.open_rows]
        assert units.last_active.tolist() == twin.last_active
        assert units.revived.tolist() == twin.revived


def matrix_bytes(library: Library, seed: int, skip: int, rng: np.random.Generator) -> bytes:
    packed, _ = random_gates(rng, 70, 3000)
    device = Device(library, seed, skip)
    return gate_kernels.agreement_matrix(device, packed, None, 3000, "jaccard").tobytes()


def histogram_bytes(library: Library, seed: int, skip: int, rng: np.random.Generator) -> bytes:
    packed, _ = random_gates(rng, 700, 3000)
    labels = np.sort(rng.integers(0, 20, 700))
    device = Device(library, seed, skip)
    counts = gate_kernels.agreement_histogram(device, packed, 3000, np.arange(700), labels)
    return counts.tobytes()


def unit_bytes(library: Library, seed: int, skip: int, rng: np.random.Generator) -> bytes:
    units = gate_kernels.Units(Device(library, seed, skip), 90)
    units.update(random_features(rng, 100, 90, torch.float32), 1, 2)
    return units.open_rows.tobytes()


@pytest.mark.parametrize(
    ("run", "barriers"),
    [(matrix_bytes, 5), (histogram_bytes, 4), (unit_bytes, 1)],
    ids=["matrix", "histogram", "units"],
)
def test_every_barrier_is_needed(
    library: Library, run: Callable[..., bytes], barriers: int
) -> None:
    """Without it, some order of the threads gives other numbers, or the threads do not meet."""
    right = run(library, 0, -1, np.random.default_rng(1))
    needed = 0
    files = ("gate_tiles", "agreement_", "update_units")
    for index, barrier in enumerate(library.barriers()):
        if not barrier.startswith(files):
            continue
        for seed in range(4):
            try:
                if run(library, seed, index, np.random.default_rng(1)) == right:
                    continue
            except EmulationError:
                pass
            needed += 1
            break
    assert needed == barriers
