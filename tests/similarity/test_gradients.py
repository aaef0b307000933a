"""Gradients of mean_cosine and cosine_matrix, which serve in a loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
from checks import DTYPES, INSTRUCTION_SETS, assert_same_bits, random_labels
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import all_sorts_of_rows, random_rows
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.library import opcheck

from tfc_fast.similarity import cosine_matrix, mean_cosine

# Without those at which the gradient is beyond the dtype.
SCALES = {
    torch.float16: (1.0, 1e-2, 5e3),
    torch.bfloat16: (1.0, 1e-10, 1e-20, 1e-30, 1e30, 2e37),
    torch.float32: (1.0, 1e-10, 1e-20, 1e-30, 1e30, 2e37),
    torch.float64: (1.0, 1e-10, 1e-20, 1e-30, 1e30, 1e-100, 1e100, 1e-300, 1e300),
}
# Relative to the largest entry, or term of one, each row times its norm. Half precision is rounded
# at the end.
TOLERANCE = {torch.float16: 2e-3, torch.bfloat16: 8e-3, torch.float32: 2e-6, torch.float64: 1e-12}

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def means_of(x: Tensor, labels: Tensor | None = None) -> Tensor:
    """All, within and between as one tensor; NaN, which would spoil a loss, taken for 0."""
    means = mean_cosine(x, labels, num_classes=None if labels is None else 9)
    return torch.stack(list(means[:3])).nan_to_num()  # type: ignore[arg-type]


def compare(grad: Tensor, expected: reference.Floats, x: Tensor, terms: float) -> None:
    assert (grad.dtype, grad.shape) == (x.dtype, x.shape)
    rows = grad.double().reshape(expected.shape).numpy()
    # Divided where it might over- or underflow: 1e300 times 1e-300 is near 1.
    scaled = rows * reference.norms(x)
    size = max(np.abs(expected).max(initial=0), terms)
    # What the dtype itself loses: a large row has a gradient that is subnormal in it, or 0.
    least = torch.finfo(x.dtype).smallest_normal * torch.finfo(x.dtype).eps * reference.norms(x)
    error = np.abs(scaled - expected) - least
    assert (error <= TOLERANCE[x.dtype] * size).all(), f"off by {error.max() / size}"
    left_out = (expected == 0).all(axis=1)
    assert not rows[left_out & ~np.isfinite(reference.as_float64(x)).all(axis=1)].any()
    assert not rows[(reference.as_float64(x) == 0).all(axis=1)].any()


def check_means(x: Tensor, labels: Tensor | None, weights: Tensor) -> Tensor:
    """The first derivative by our own op, and by what is differentiable again."""
    x = x.detach().requires_grad_()
    expected = reference.mean_cosine_gradient(weights.tolist(), x, labels)
    for again in (True, False):
        loss = (means_of(x, labels) * weights).sum()
        (grad,) = torch.autograd.grad(loss, x, create_graph=again)
        compare(grad.detach(), expected, x, float(weights.abs().sum()) / max(len(x), 1))
    return grad


def check_matrix(x: Tensor, y: Tensor | None, weights: Tensor) -> None:
    inputs = [t.detach().requires_grad_() for t in (x, y) if t is not None]
    terms = float(weights.abs().sum(dim=1).max()) if weights.numel() else 1.0
    for again in (False, True):
        grads = torch.autograd.grad(cosine_matrix(*inputs), inputs, weights, create_graph=again)
        compare(grads[0].detach(), reference.cosine_matrix_gradient(weights, x, y), x, terms)
        if y is not None:
            compare(grads[1].detach(), reference.cosine_matrix_gradient(weights.T, y, x), y, terms)


def matrix_weights(rng: np.random.Generator, x: Tensor, y: Tensor | None) -> Tensor:
    n, m = len(x), len(x if y is None else y)
    return torch.from_numpy(rng.standard_normal((n, m))).to(
        torch.float64 if x.dtype == torch.float64 else torch.float32
    )


# ---- first derivative ------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("d", [1, 7, 16, 33, 300])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 127, 300])
def test_every_shape(rng: np.random.Generator, n: int, d: int, dtype: torch.dtype) -> None:
    x, weights = (
        all_sorts_of_rows(rng, n, d, dtype, SCALES),
        torch.from_numpy(rng.standard_normal(3)),
    )
    check_means(x, random_labels(rng, n), weights)
    check_means(x, None, weights)
    y = all_sorts_of_rows(rng, n // 2 + 1, d, dtype, SCALES)
    check_matrix(x, None, matrix_weights(rng, x, None))
    check_matrix(x, y, matrix_weights(rng, x, y))


def test_large_shapes(rng: np.random.Generator) -> None:
    weights = torch.from_numpy(rng.standard_normal(3))
    for n, d in [(4096, 64), (20, 200_000)]:
        x = random_rows(rng, n, d, torch.float32)
        check_means(x, random_labels(rng, n), weights)


@each_dtype
def test_every_scale(rng: np.random.Generator, dtype: torch.dtype) -> None:
    for scale in SCALES[dtype]:
        x = (random_rows(rng, 40, 50, torch.float64) * scale).to(dtype)
        grad = check_means(x, random_labels(rng, 40), torch.ones(3, dtype=torch.float64))
        if scale != 2e37 and dtype != torch.float16:
            assert (grad.abs().amax(dim=1) * scale > 1e-6).all(), "a gradient is lost"
        check_matrix(x, None, matrix_weights(rng, x, None))


def test_a_gradient_beyond_the_dtype_is_inf() -> None:
    x = torch.tensor([[1e-42, 0.0], [1e-42, 1e-42], [1.0, 2.0]], requires_grad=True)
    mean_cosine(x).all.backward()  # type: ignore[union-attr]
    assert x.grad is not None
    assert x.grad[0, 1].item() == math.inf
    assert x.grad[1].isinf().all()
    assert x.grad[2].isfinite().all()


@each_dtype
def test_equal_and_nearly_equal_rows(rng: np.random.Generator, dtype: torch.dtype) -> None:
    row, noise = rng.standard_normal(100), rng.standard_normal((60, 100))
    labels = random_labels(rng, 60)
    for size in (0.0, 1e-6):
        x = torch.from_numpy(row + size * noise).to(dtype).requires_grad_()
        expected = reference.mean_cosine_gradient([1, 1, 1], x, labels)
        (grad,) = torch.autograd.grad(means_of(x, labels).sum(), x)
        # It vanishes where all rows are alike: compared with the size of its terms, 1 / n.
        scaled = grad.double().numpy() * reference.norms(x)
        np.testing.assert_allclose(scaled, expected, rtol=0, atol=TOLERANCE[dtype] * 3 / 60)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_shape_strides_dtype_and_labels(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    dtype = data.draw(st.sampled_from(DTYPES))
    d, sides = data.draw(st.integers(1, 40)), []
    for _ in range(2):
        n, step = data.draw(st.integers(0, 30)), data.draw(st.integers(1, 3))
        x = all_sorts_of_rows(rng, 2 * n, step * d, dtype, SCALES)[::2, ::step]
        sides.append(x.t().contiguous().t() if data.draw(st.booleans()) else x)
    x, y = sides[0].unflatten(1, (1, d)), data.draw(st.sampled_from([None, sides[1]]))
    labels = random_labels(rng, len(x), data.draw(st.integers(1, 9)))
    weights = torch.from_numpy(rng.standard_normal(3))
    check_means(x, data.draw(st.sampled_from([None, labels])), weights)
    check_matrix(x, y, matrix_weights(rng, x, y))


def test_a_mean_over_no_pairs_gives_no_gradient() -> None:
    x = torch.eye(3, 4, requires_grad=True)
    means = mean_cosine(x, torch.tensor([0, 1, 2]))
    assert math.isnan(means.within.item())
    (nothing,) = torch.autograd.grad(means.within, x, retain_graph=True)  # type: ignore[type-var]
    (something,) = torch.autograd.grad(means.between, x)  # type: ignore[type-var]
    assert (nothing == 0).all()
    assert (something != 0).any()


def test_a_nan_in_the_matrix_stays_with_its_row(rng: np.random.Generator) -> None:
    x = random_rows(rng, 6, 5, torch.float32)
    x[2, 1], x[4] = math.nan, 0
    x.requires_grad_()
    cosines = cosine_matrix(x)
    assert isinstance(cosines, Tensor)
    cosines.square().sum().backward()  # the gradient of the matrix has NaN in row and column 2
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert (x.grad == 0).all(dim=1).tolist() == [False, False, True, False, True, False]


# ---- derivatives of it -----------------------------------------------------------------------


@pytest.mark.parametrize("case", ["plain", "left out", "tiny", "alone"])
def test_gradcheck(rng: np.random.Generator, case: str) -> None:
    n = 1 if case == "alone" else 7
    x = random_rows(rng, n, 5, torch.float64)
    y = random_rows(rng, 3, 5, torch.float64)
    if case == "left out":
        x[1], x[3, 2], x[5, 0], y[2] = 0, math.nan, math.inf, 0
    scale = 1e-140 if case == "tiny" else 1.0
    # Only rows that take part are varied: a step away from zero is a step into another function.
    varied = torch.ones(n, 1, dtype=torch.bool)
    if case == "left out":
        varied[[1, 3, 5]] = False
    labels = random_labels(rng, n, 3)
    inputs = [torch.where(varied, x, 1.0).requires_grad_(), torch.where(y != 0, y, 1.0)]

    def of(rows: Tensor) -> Tensor:
        return torch.where(varied, rows, x) * scale

    functions: list[Callable[[Tensor], Tensor]] = [
        lambda rows: means_of(of(rows), labels),
        lambda rows: means_of(of(rows)),
        lambda rows: cosine_matrix(of(rows)).nan_to_num(),  # type: ignore[union-attr]
        lambda rows: cosine_matrix(of(rows), y).nan_to_num(),  # type: ignore[union-attr]
    ]
    for function in functions:
        assert gradcheck(function, (inputs[0],))
        assert gradgradcheck(function, (inputs[0],))
    if case == "plain":
        both = (inputs[0], y.requires_grad_())
        assert gradcheck(cosine_matrix, both)
        assert gradgradcheck(cosine_matrix, both)


@each_dtype
def test_second_derivatives_are_of_the_dtype(rng: np.random.Generator, dtype: torch.dtype) -> None:
    x = random_rows(rng, 8, 5, dtype).requires_grad_()
    for loss in (means_of(x, random_labels(rng, 8)).sum(), cosine_matrix(x).sum()):  # type: ignore[union-attr]
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        (second,) = torch.autograd.grad(grad.float().square().sum(), x)
        assert second.dtype == dtype
        assert second.isfinite().all()
        assert (second != 0).any()


# ---- how they are called ---------------------------------------------------------------------


def test_only_what_requires_grad_has_one(rng: np.random.Generator) -> None:
    x, y = random_rows(rng, 5, 4, torch.float32), random_rows(rng, 3, 4, torch.float32)
    for x_needs, y_needs in ((True, False), (False, True)):
        a, b = x.clone().requires_grad_(x_needs), y.clone().requires_grad_(y_needs)
        cosine_matrix(a, b).sum().backward()  # type: ignore[union-attr]
        assert (a.grad is not None, b.grad is not None) == (x_needs, y_needs)
    a = x.clone().requires_grad_()
    with torch.no_grad():
        assert not mean_cosine(a).all.requires_grad  # type: ignore[union-attr]
        assert not cosine_matrix(a).requires_grad  # type: ignore[union-attr]
    array = cosine_matrix(x.numpy(), a)
    assert isinstance(array, np.ndarray)


def test_changing_the_input_before_backward_is_noticed(rng: np.random.Generator) -> None:
    for function in (means_of, cosine_matrix):
        x = random_rows(rng, 5, 4, torch.float32).requires_grad_()
        rows = x * 1
        loss = function(rows).sum()  # type: ignore[union-attr]
        rows.detach().zero_()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()


def test_out_is_refused_where_a_gradient_is_wanted(rng: np.random.Generator) -> None:
    x = random_rows(rng, 5, 4, torch.float32)
    needs, out = x.clone().requires_grad_(), torch.full((5, 5), 7.0)
    for arguments, name in (((needs,), "x"), ((x, needs), "y")):
        with pytest.raises(ValueError, match=f"out: .*{name} requires grad.*{name}.detach"):
            cosine_matrix(*arguments, out=out)
        assert (out == 7).all()
    with torch.no_grad():
        cosine_matrix(needs, out=out)
    assert_same_bits(out, cosine_matrix(x))


@each_dtype
@pytest.mark.parametrize(("n", "d"), [(5, 7), (700, 257), (40, 9000)])
def test_same_bits_for_threads_and_instruction_sets(
    rng: np.random.Generator,
    set_threads: Callable[[int], None],
    use_instruction_set: Callable[[str], None],
    n: int,
    d: int,
    dtype: torch.dtype,
) -> None:
    x = all_sorts_of_rows(rng, n, d, dtype, SCALES).requires_grad_()
    labels, results = random_labels(rng, n), []
    last = INSTRUCTION_SETS[-1]
    for threads, name in [*((1, name) for name in INSTRUCTION_SETS), (2, last), (3, last)]:
        set_threads(threads)
        use_instruction_set(name)
        grads = torch.autograd.grad(means_of(x, labels).sum(), x)
        results.append([*grads, *torch.autograd.grad(means_of(x).sum(), x)])
    for result in results[1:]:
        for value, wanted in zip(result, results[0], strict=True):
            assert_same_bits(value, wanted)


# torch 2.14's opcheck looks at the .grad of its own copies.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@each_dtype
def test_are_sound_ops(rng: np.random.Generator, dtype: torch.dtype) -> None:
    x, y = random_rows(rng, 6, 5, dtype), random_rows(rng, 3, 5, dtype)
    ops = torch.ops.tfc_fast
    groups = ops.group_labels(torch.tensor([0, 1, 0, 1, 0, 0]), 3)
    means, matrix = torch.from_numpy(rng.standard_normal(6)), matrix_weights(rng, x, y)
    for results in (
        opcheck(ops.mean_cosine_backward.default, (means, x, *groups)),
        opcheck(ops.mean_cosine_backward.default, (means, x.view(6, 5, 1)[::2], None, None)),
        opcheck(ops.cosine_matrix_backward.default, (matrix, x, y)),
        opcheck(ops.cosine_matrix_backward.default, (matrix.T, y, x)),
        opcheck(ops.mean_cosine.default, (x.requires_grad_(), *groups)),
        opcheck(ops.cosine_matrix.default, (x, None)),
        opcheck(ops.cosine_matrix.default, (x, y.requires_grad_())),
    ):
        assert set(results.values()) == {"SUCCESS"}


@each_dtype
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_by_torch(rng: np.random.Generator, dynamic: bool, dtype: torch.dtype) -> None:
    def loss(x: Tensor, labels: Tensor) -> Tensor:
        means = mean_cosine(x, labels, num_classes=5)
        cosines = cosine_matrix(x)
        return means.all + means.between - 2 * means.within + cosines.double().square().sum()  # type: ignore[operator, return-value, union-attr]

    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for n in (40, 50):
        x = random_rows(rng, n, 9, dtype).requires_grad_()
        labels = random_labels(rng, n)
        values = [(f(x, labels), *torch.autograd.grad(f(x, labels), x)) for f in (compiled, loss)]
        for value, wanted in zip(*values, strict=True):
            torch.testing.assert_close(value, wanted, rtol=1e-6, atol=0)


def test_as_a_loss_it_drives_rows_apart(rng: np.random.Generator) -> None:
    x = torch.from_numpy(1 + 0.1 * rng.standard_normal((10, 20))).float().requires_grad_()
    optimizer = torch.optim.SGD([x], lr=20.0)
    before = mean_cosine(x).all.item()
    for _ in range(50):
        optimizer.zero_grad()
        mean_cosine(x).all.backward()  # type: ignore[union-attr]
        optimizer.step()
    assert before > 0.9
    assert mean_cosine(x).all.item() < 0
