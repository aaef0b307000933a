"""Results in memory of the caller: nothing is overwritten that is still to be read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tfc_fast.gating import agreement_matrix
from tfc_fast.similarity import cosine_matrix

FUNCTIONS = {"cosine_matrix": cosine_matrix, "agreement_matrix": agreement_matrix}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=list(FUNCTIONS))

N = 40
OVERLAPPING: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "the same": lambda b: (b[:N, :N], b[:N, :N]),
    "the same rows": lambda b: (b[:N, :N], b[:N, N // 2 : N + N // 2]),
    "rows that begin in the last one": lambda b: (b[:N, :N], b[N - 1 : 2 * N - 1, :N]),
    "columns": lambda b: (b[:N, :N], b[:N, :N].T),
    "images": lambda b: (b[:N, :N].view(N, 4, 10), b[:N, :N]),
}
BESIDE: dict[str, Callable[[Tensor], tuple[Tensor, Tensor]]] = {
    "rows below": lambda b: (b[:N, :N], b[N : 2 * N, :N]),
    "columns beside": lambda b: (b[:N, :N], b[:N, N : 2 * N]),
    "columns before, a row later": lambda b: (b[:N, N : 2 * N], b[1 : N + 1, :N]),
}


def buffer(rng: np.random.Generator) -> Tensor:
    return torch.from_numpy(rng.standard_normal((2 * N, 2 * N)).astype(np.float32))


@pytest.mark.parametrize("as_numpy", [False, True])
@pytest.mark.parametrize("case", OVERLAPPING)
def test_input_and_output_may_not_overlap(
    rng: np.random.Generator, case: str, as_numpy: bool
) -> None:
    memory = buffer(rng)
    before = memory.clone()
    x, out = OVERLAPPING[case](memory)
    with pytest.raises(ValueError, match="out shares memory with x"):
        cosine_matrix(x.numpy(), out=out.numpy()) if as_numpy else cosine_matrix(x, out=out)
    with pytest.raises(ValueError, match="out shares memory with y"):
        cosine_matrix(torch.ones(N, N), x.flatten(1), out=out)
    assert torch.equal(memory, before)


def test_packed_gates_and_output_may_not_overlap() -> None:
    memory = torch.zeros(40, 40, dtype=torch.int32)
    packed = memory.view(torch.int64)[:, :5]
    with pytest.raises(ValueError, match="out shares memory with x"):
        agreement_matrix(packed, num_units=320, out=memory.view(torch.float32))
    beside = torch.zeros(40, 60, dtype=torch.int32)
    packed, out = beside.view(torch.int64)[:, :10], beside.view(torch.float32)[:, 20:]
    assert (agreement_matrix(packed, num_units=640, out=out) == torch.ones(40, 40)).all()


@each_function
@pytest.mark.parametrize("case", BESIDE)
def test_they_may_lie_beside_each_other(
    rng: np.random.Generator, case: str, function: Callable[..., Any]
) -> None:
    x, out = BESIDE[case](buffer(rng))
    expected = function(x.clone())
    assert function(x, out=out) is out
    assert torch.equal(out, expected)


@each_function
def test_entries_of_the_output_may_not_overlap(function: Callable[..., Any]) -> None:
    x, memory = torch.ones(30, 4), torch.zeros(2000)
    for strides in ((1, 1), (29, 1), (1, 29), (0, 1), (1, 0), (2, 3)):
        with pytest.raises(ValueError, match="several entries of out share memory"):
            function(x, out=memory.as_strided((30, 30), strides))
    for strides in ((30, 1), (1, 30), (60, 2), (1, 31)):
        out = memory.as_strided((30, 30), strides)
        function(x, out=out)
        assert (out == 1).all()
    function(x[:1], out=memory.as_strided((1, 1), (0, 0)))
    function(x[:0], out=memory.as_strided((0, 0), (1, 1)))
