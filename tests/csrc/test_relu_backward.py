"""What flows back through the probe's ops is what flows back without them, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from checks import DTYPES, assert_same_bits
from recording import (
    GRAD_LAYOUTS,
    LAYOUTS,
    end_step,
    make_recorder,
    random_bit_patterns,
    relu_backward,
    without_times,
)
from torch import Tensor

from tfc_fast import _C

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
labelled_or_not = pytest.mark.parametrize("num_classes", [0, 4])

SHAPES = [(1,), (7,), (3, 1), (1, 40), (5, 15), (6, 16), (7, 17), (70, 33), (4, 300), (2, 5, 3)]
SHAPES += [(9, 3, 4, 5), (0, 5), (5, 0), (0,), (3, 0, 2)]


def same_as_relu(grad: Tensor, result: Tensor, num_classes: int = 0) -> None:
    recorder = make_recorder(num_classes=num_classes)
    if num_classes:
        recorder.begin_batch(torch.arange(len(grad) - 1, -1, -1) * 7 % num_classes)
    actual = relu_backward(recorder, grad, result)
    expected = torch.ops.aten.threshold_backward(grad, result, 0)
    assert actual.dtype == expected.dtype
    assert actual.stride() == expected.stride()
    assert_same_bits(actual, expected)
    assert end_step(recorder)["n_rows"] == len(grad), "nothing was recorded"


@each_dtype
@labelled_or_not
@pytest.mark.parametrize("finite", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_any_numbers(
    rng: np.random.Generator,
    shape: tuple[int, ...],
    finite: bool,
    num_classes: int,
    dtype: torch.dtype,
) -> None:
    grad = random_bit_patterns(rng, shape, dtype, finite=finite)
    result = random_bit_patterns(rng, shape, dtype, finite=finite)
    same_as_relu(grad, result, num_classes)


@each_dtype
def test_every_pair_of_special_numbers(dtype: torch.dtype) -> None:
    info = torch.finfo(dtype)
    least = info.smallest_normal * info.eps
    numbers = [0.0, least, info.tiny, 1.0, info.max, torch.inf, torch.nan]
    special = torch.tensor(numbers + [-x for x in numbers], dtype=dtype)
    grad, result = torch.meshgrid(special, special, indexing="ij")
    same_as_relu(grad.contiguous(), result.contiguous())
    # One row each, so that rows without NaN or Inf go the usual way.
    same_as_relu(grad.reshape(-1, 1), result.reshape(-1, 1))
    finite = grad.isfinite() & result.isfinite()
    same_as_relu(grad[finite].reshape(5, -1), result[finite].reshape(5, -1))


@each_dtype
@pytest.mark.parametrize("shape", [(6, 3, 4, 5), (6, 1, 4, 5), (6, 3, 1, 1), (1, 3, 2, 2)])
@pytest.mark.parametrize("result_layout", LAYOUTS)
@pytest.mark.parametrize("grad_layout", GRAD_LAYOUTS)
def test_every_layout(
    rng: np.random.Generator,
    grad_layout: str,
    result_layout: str,
    shape: tuple[int, ...],
    dtype: torch.dtype,
) -> None:
    # The strides count too: what is computed next chooses its way, and so its rounding, by them.
    for finite in (False, True):
        grad = GRAD_LAYOUTS[grad_layout](random_bit_patterns(rng, shape, dtype, finite=finite))
        result = LAYOUTS[result_layout](random_bit_patterns(rng, shape, dtype, finite=finite))
        same_as_relu(grad, result, num_classes=4)


@pytest.mark.parametrize("result_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("grad_dtype", DTYPES, ids=str)
def test_dtypes_that_differ(
    rng: np.random.Generator, grad_dtype: torch.dtype, result_dtype: torch.dtype
) -> None:
    grad = torch.from_numpy(rng.standard_normal((8, 20))).to(grad_dtype)
    result = torch.from_numpy(rng.standard_normal((8, 20))).relu().to(result_dtype)
    same_as_relu(grad, result)


def test_lazily_negated_gradient(rng: np.random.Generator) -> None:
    grad = torch.from_numpy(rng.standard_normal((8, 20))).cfloat().mul(1j).conj().imag
    assert grad.is_neg()
    same_as_relu(grad, torch.from_numpy(rng.standard_normal((8, 20))).float().relu())


@each_dtype
def test_steps_that_are_not_recorded(rng: np.random.Generator, dtype: torch.dtype) -> None:
    recorder = make_recorder(every=2)
    recorder.end_step(0.0)  # the first step is recorded, the second is not
    before = without_times(recorder.sites)
    grad = random_bit_patterns(rng, (20, 33), dtype)
    result = random_bit_patterns(rng, (20, 33), dtype)
    actual = relu_backward(recorder, grad, result)
    assert_same_bits(actual, torch.ops.aten.threshold_backward(grad, result, 0))
    assert_same_bits(without_times(recorder.sites), before)


# ---- through autograd ------------------------------------------------------------------------

Forward = Callable[[Tensor, _C.Recorder, int], Tensor]
FORWARDS: dict[str, tuple[Forward, Callable[[Tensor], Tensor]]] = {
    "relu_probe": (_C.relu_probe, torch.relu),
    "relu_probe_inplace": (lambda x, r, i: _C.relu_probe_inplace(x.clone(), r, i), torch.relu),
    "tap": (_C.tap, lambda x: x),
}
each_forward = pytest.mark.parametrize("name", FORWARDS)


@each_dtype
@each_forward
def test_output_and_gradient_through_autograd(
    rng: np.random.Generator, name: str, dtype: torch.dtype
) -> None:
    probed, plain = FORWARDS[name]
    recorder = make_recorder()
    x = random_bit_patterns(rng, (30, 5, 7), dtype).requires_grad_()
    grad = random_bit_patterns(rng, (30, 5, 7), dtype)
    for layout in (lambda t: t, lambda t: t.transpose(0, 2)):
        y, wanted_y = probed(layout(x), recorder, 0), plain(layout(x))
        assert_same_bits(y, wanted_y)
        (actual,) = torch.autograd.grad(y, x, layout(grad))
        (expected,) = torch.autograd.grad(wanted_y, x, layout(grad))
        assert_same_bits(actual, expected)
        assert end_step(recorder)["n_rows"] == len(y)
        recorder = make_recorder()


@each_forward
def test_second_derivatives(rng: np.random.Generator, name: str) -> None:
    probed, plain = FORWARDS[name]
    recorder = make_recorder()
    x = torch.from_numpy(rng.standard_normal((6, 9))).requires_grad_()

    def penalty(function: Callable[[Tensor], Tensor]) -> Tensor:
        (grad,) = torch.autograd.grad((function(x) ** 3).sum(), x, create_graph=True)
        return torch.autograd.grad((grad**2).sum(), x)[0]

    assert_same_bits(penalty(lambda t: probed(t, recorder, 0)), penalty(plain))


@pytest.mark.parametrize("name", ["relu_probe", "relu_probe_inplace"])
def test_changing_the_output_before_backward_is_an_error(name: str) -> None:
    y = FORWARDS[name][0](torch.ones(3, 4, requires_grad=True), make_recorder(), 0)
    z = y * 1
    with torch.no_grad():
        y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


@each_forward
def test_a_gradient_that_never_comes_is_not_recorded(name: str) -> None:
    recorder = make_recorder()
    x = torch.ones(3, 4, requires_grad=True)
    y = FORWARDS[name][0](x, recorder, 0)
    (x.sum() + 0 * y.detach().sum()).backward()
    assert np.isnan(end_step(recorder)["n_rows"])
