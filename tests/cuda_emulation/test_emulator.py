"""The emulation does what CUDA does, and finds what is wrong with a kernel."""

from __future__ import annotations

import ctypes
import math

import numpy as np
import pytest
import torch
from cuda_emulation.emulation import Device, EmulationError, Library
from cuda_emulation.kernels import measure


def run_reverse(library: Library, seed: int, skip_barrier: int = -1) -> tuple[np.ndarray, int]:
    device = Device(library, seed, skip_barrier)
    address, values = device.state(np.arange(64, dtype=np.float32))
    device.call("emulation_run_reverse", ctypes.c_void_p(address), ctypes.c_int(64))
    return values, device.skipped


def test_threads_meet_at_a_barrier(library: Library) -> None:
    for seed in range(5):
        assert (run_reverse(library, seed)[0] == np.arange(64)[::-1]).all()


def test_without_its_barrier_a_kernel_goes_wrong(library: Library) -> None:
    run_reverse(library, 0)
    # Of all barriers that tests have met so far, in whatever order, that of this kernel.
    (index,) = (i for i in range(len(library.barriers())) if run_reverse(library, 0, i)[1] > 0)
    wrong = 0
    for seed in range(5):
        values, skipped = run_reverse(library, seed, index)
        assert skipped == 64
        wrong += (values != np.arange(64)[::-1]).any()
    assert wrong == 5


def test_warp_operations(library: Library, rng: np.random.Generator) -> None:
    values = rng.integers(0, 1000, 64).astype(np.int32)
    device = Device(library, 3)
    source = device.place(values)
    target, results = device.empty((64, 6), np.uint32)
    device.call("emulation_run_warp_operations", ctypes.c_void_p(source), ctypes.c_void_p(target))
    for i in range(64):
        warp, lane = values[i // 32 * 32 : i // 32 * 32 + 32], i % 32
        ballot = sum(1 << k for k in range(32) if warp[k] & 1)
        down = warp[lane + 3] if lane + 3 < 32 else warp[lane]
        expected = [ballot, warp[lane ^ 5], down, warp[9], warp.sum(), ballot.bit_count()]
        assert results[i].tolist() == expected


def test_half_precision(library: Library) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    wanted = bits.view(np.float16).astype(np.float32)
    convert = library.functions.kernels_half_to_float
    actual = np.array([convert(ctypes.c_uint16(int(b))) for b in bits], np.float32)
    np.testing.assert_array_equal(actual, wanted)


def test_rounding_to_half_precision(library: Library, rng: np.random.Generator) -> None:
    values = rng.standard_normal(3000) * 10.0 ** rng.uniform(-9, 6, 3000)
    ties = np.arange(1 << 15, dtype=np.uint16).view(np.float16).astype(np.float64)[:31744:97]
    ties = np.concatenate([ties, (ties + np.nextafter(ties.astype(np.float16), 65504)) / 2])
    special = [0.0, -0.0, math.inf, -math.inf, math.nan, 65504.0, 65519.0, 65520.0, -7e4, 3e38]
    for number in np.concatenate([values, ties, special]).astype(np.float32):
        wanted = torch.tensor(number)
        half = library.functions.kernels_float_to_half(ctypes.c_float(number)) & 0xFFFF
        brain = library.functions.kernels_to_bfloat16(ctypes.c_double(number)) & 0xFFFF
        for bits, dtype in ((half, torch.float16), (brain, torch.bfloat16)):
            actual = torch.tensor([bits], dtype=torch.int32).to(torch.int16).view(dtype)[0]
            torch.testing.assert_close(actual, wanted.to(dtype), rtol=0, atol=0, equal_nan=True)


FAULTS = [
    (1, "out of bounds: read 4 bytes"),
    (2, "misaligned: 16 bytes"),
    (3, "read only"),
    (4, "divergent barriers"),
    (5, "thread 3 has ended"),
    (6, "waits at __shfl_xor_sync"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS)
def test_faults_are_found(library: Library, fault: int, message: str) -> None:
    device = Device(library, 1)
    address = device.place(np.zeros(64, np.float32))
    with pytest.raises(EmulationError, match=message):
        device.call("emulation_run_faulty", fault, ctypes.c_void_p(address), ctypes.c_int(64))


def test_every_barrier_of_the_passes_is_needed(library: Library, rng: np.random.Generator) -> None:
    """Without it, some order of the threads gives other numbers, or the threads do not meet."""
    x = torch.from_numpy(rng.standard_normal((300, 200))).float()
    x[3] *= 1e-30
    labels = rng.integers(0, 50, 300)

    def run(seed: int, skip: int) -> bytes | None:
        try:
            measured = measure(
                library, "pair", x.relu(), x, labels, 50, seed=seed, skip_barrier=skip
            )
        except EmulationError:
            return None
        return measured.bits

    right = run(0, -1)
    needed = 0
    for index, barrier in enumerate(library.barriers()):
        results = [run(seed, index) for seed in range(10)]
        # Those of other kernels are never come to.
        if library.functions.emulation_skipped() and not barrier.startswith("end_step"):
            needed += 1
            assert any(bits != right for bits in results), f"{barrier} can be left out unnoticed"
    assert needed > 5
