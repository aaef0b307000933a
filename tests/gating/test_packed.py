from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import torch
from checks import DTYPES, INSTRUCTION_SETS, assert_same_bits, random_features
from hypothesis import given, settings
from strategies import laid_out_tensors
from torch import Tensor
from torch.library import opcheck

from tfc_fast.gating import pack_gates

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def check(features: Any) -> Any:
    packed = pack_gates(features)
    np.testing.assert_array_equal(np.asarray(packed), reference.pack_gates(features))
    return packed


@each_dtype
@pytest.mark.parametrize("n", [0, 1, 2, 3, 127, 300])
@pytest.mark.parametrize("d", [0, 1, 7, 63, 64, 65, 1000, 4096])
def test_every_shape(rng: np.random.Generator, n: int, d: int, dtype: torch.dtype) -> None:
    packed = check(random_features(rng, n, d, dtype))
    assert packed.dtype == torch.int64
    assert packed.shape == (n, math.ceil(d / 64))


@each_dtype
@pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)
def test_a_gate_is_open_above_zero_only(
    rng: np.random.Generator,
    use_instruction_set: Callable[[str], None],
    flush_denormal: Callable[[bool], bool],
    instruction_set: str,
    dtype: torch.dtype,
) -> None:
    info = torch.finfo(dtype)
    least = info.smallest_normal * info.eps  # the least subnormal
    values = [info.max, math.inf, info.tiny, least, 1.0, 0.0, math.nan]
    x = torch.from_numpy(rng.choice(values, (30, 131)) * rng.choice([-1, 1], (30, 131))).to(dtype)
    x[:, ::7] = torch.tensor(math.nan).copysign(torch.tensor(-1.0)).to(dtype)
    use_instruction_set(instruction_set)
    packed = check(x)
    assert flush_denormal(True)
    flushed = pack_gates(x)
    flush_denormal(False)
    assert torch.equal(flushed, packed)


@settings(max_examples=150, deadline=None)
@given(x=laid_out_tensors())
def test_any_shape_strides_and_dtype(x: Tensor) -> None:
    check(x)


def test_rows_need_not_be_copied(rng: np.random.Generator) -> None:
    whole = random_features(rng, 200, 300, torch.float32)
    for view in (whole[::3, 17:150], whole.view(200, 3, 100)[5:, 1:], whole[:1].expand(9, 300)):
        check(view)
    check(whole.T)


def test_numpy_in_numpy_out(rng: np.random.Generator) -> None:
    x = rng.standard_normal((30, 9, 15)).astype(np.float32)[::-1, :, ::2]
    assert isinstance(check(x), np.ndarray)


@each_dtype
def test_same_bits_everywhere(
    rng: np.random.Generator,
    set_threads: Callable[[int], None],
    use_instruction_set: Callable[[str], None],
    dtype: torch.dtype,
) -> None:
    x = random_features(rng, 700, 203, dtype)
    expected = check(x)
    for name in INSTRUCTION_SETS:
        use_instruction_set(name)
        for threads in (1, 2, 3):
            set_threads(threads)
            assert_same_bits(pack_gates(x), expected, f"{name}, {threads} threads")


def test_wrong_input_is_refused_by_name() -> None:
    refused: list[tuple[type[Exception], str, Any]] = [
        (TypeError, "features: wanted float16", torch.ones(3, 4).int()),
        (TypeError, "features: wanted a torch", [1.0, 2.0]),
        (ValueError, "features: wanted at least one dim", torch.tensor(1.0)),
    ]
    for error, message, features in refused:
        with pytest.raises(error, match=message):
            pack_gates(features)


@each_dtype
def test_is_a_sound_op(rng: np.random.Generator, dtype: torch.dtype) -> None:
    x = random_features(rng, 6, 70, dtype)
    for features in (x, x.view(6, 7, 10)[::2]):
        results = opcheck(torch.ops.tfc_fast.pack_gates.default, (features,))
        assert set(results.values()) == {"SUCCESS"}
