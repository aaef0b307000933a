"""The same bits for any number of threads, for every instruction set, and in every run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from checks import DTYPES, INSTRUCTION_SETS, assert_same_bits
from recording import end_step, make_recorder, relu_backward
from torch import Tensor

from tfc_fast import _C
from tfc_fast.gating import gate_stats
from tfc_fast.similarity import mean_cosine

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# Small ones that one thread does alone, tails of all lengths, and enough for many threads.
SHAPES = [(1, 1), (5, 7), (33, 31), (70, 257), (1000, 300), (64, 20_000), (4000, 13)]


def random_rows(rng: np.random.Generator, n: int, d: int, dtype: torch.dtype) -> Tensor:
    """All sorts of rows, so that every way through the loops is taken."""
    x = rng.standard_normal((n, d)) + rng.standard_normal(d)
    x *= rng.choice([1.0, 1e-6, 1e-10, 1e-20, 1e-30, 1e-42, 1e30, 3e37], (n, 1))
    x[rng.random(n) < 0.05] = 0
    x[rng.random(n) < 0.02, rng.integers(d)] = np.nan
    return torch.from_numpy(x).to(dtype)


def everything(feature: Tensor, grad: Tensor, labels: Tensor) -> list[Tensor]:
    """All that the kernels compute."""
    recorder = make_recorder(num_classes=10, units=feature.shape[1])
    recorder.begin_batch(labels)
    grad_in = relu_backward(recorder, grad, feature)
    record = torch.tensor(list(end_step(recorder).values()), dtype=torch.float64)
    results = [*mean_cosine(grad, labels), *mean_cosine(grad), *gate_stats(feature, labels)]
    return [grad_in, record, *results]


def check_everything(batch: Sequence[Tensor], expected: Sequence[Tensor], message: str) -> None:
    for actual, wanted in zip(everything(*batch), expected, strict=True):
        assert_same_bits(actual, wanted, message)


@pytest.fixture
def batch(rng: np.random.Generator, shape: tuple[int, int], dtype: torch.dtype) -> list[Tensor]:
    n, d = shape
    labels = torch.from_numpy(rng.integers(0, 10, n))
    return [random_rows(rng, n, d, dtype).relu(), random_rows(rng, n, d, dtype), labels]


@each_dtype
@pytest.mark.parametrize("shape", SHAPES)
def test_any_number_of_threads(batch: list[Tensor], set_threads: Callable[[int], None]) -> None:
    set_threads(1)
    expected = everything(*batch)
    for threads in (1, 2, 3, 8):
        set_threads(threads)
        check_everything(batch, expected, f"{threads} threads")


@each_dtype
@pytest.mark.parametrize("shape", SHAPES)
def test_every_instruction_set(
    batch: list[Tensor], use_instruction_set: Callable[[str], None]
) -> None:
    use_instruction_set(INSTRUCTION_SETS[0])
    assert _C.build_info()["instruction_set"] == INSTRUCTION_SETS[0]
    expected = everything(*batch)
    for name in INSTRUCTION_SETS[1:]:
        use_instruction_set(name)
        assert _C.build_info()["instruction_set"] == name
        check_everything(batch, expected, name)


@each_dtype
@pytest.mark.parametrize("shape", SHAPES)
def test_wherever_the_rows_lie(batch: list[Tensor]) -> None:
    feature, grad, labels = batch
    expected = everything(*batch)
    moved = [torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape) for x in (feature, grad)]
    moved[0].copy_(feature)
    moved[1].copy_(grad)
    check_everything([*moved, labels], expected, "other addresses")


def test_an_unknown_instruction_set_is_refused_with_the_choice_there_is() -> None:
    before = _C.build_info()["instruction_set"]
    with pytest.raises(ValueError, match=f"'mmx' is not available.*{', '.join(INSTRUCTION_SETS)}"):
        _C.use_instruction_set("mmx")
    assert _C.build_info()["instruction_set"] == before


def import_with(monkeypatch: pytest.MonkeyPatch, name: str) -> subprocess.CompletedProcess[str]:
    monkeypatch.setenv("TFC_FAST_INSTRUCTION_SET", name)
    program = "from tfc_fast import _C; print(_C.build_info()['instruction_set'])"
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_environment_chooses_the_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, wanted in ((INSTRUCTION_SETS[0], INSTRUCTION_SETS[0]), ("", INSTRUCTION_SETS[-1])):
        assert import_with(monkeypatch, name).stdout.strip() == wanted


def test_a_wrong_name_in_the_environment_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    result = import_with(monkeypatch, "avx9000")
    assert result.returncode == 1
    last_line = result.stderr.strip().splitlines()[-1]
    for word in ("avx9000", *INSTRUCTION_SETS):
        assert word in last_line
