"""What the functional statistics take: layouts, numpy arrays, labels, torch.compile; and refuse."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference
import torch
from checks import CHECKS, DTYPES, assert_same_bits, check_gate_stats, check_mean_cosine
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import laid_out_tensors, optional_labels
from torch import Tensor

from tfc_fast.gating import gate_stats
from tfc_fast.similarity import mean_cosine

FUNCTIONS = [pytest.param(mean_cosine, "x", id="mean_cosine")]
FUNCTIONS += [pytest.param(gate_stats, "features", id="gate_stats")]
each_check = pytest.mark.parametrize("check", CHECKS, ids=["mean_cosine", "gate_stats"])
each_function = pytest.mark.parametrize(("function", "name"), FUNCTIONS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)

# Each takes some elements of a tensor [8, 6, 5, 4] and lays them out its own way.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "2-D": lambda x: x.reshape(8, -1),
    "1-D": lambda x: x.flatten(),
    "1-D strided": lambda x: x.flatten()[::3],
    "1-D expanded": lambda x: x[0, 0, 0, :1].expand(7),
    "every other row": lambda x: x[::2],
    "rows apart": lambda x: x.reshape(40, -1)[1:, :19],
    "every third unit": lambda x: x.reshape(8, -1)[:, ::3],
    "transposed": lambda x: x.reshape(8, -1).t(),
    "permuted": lambda x: x.permute(3, 1, 0, 2),
    "inner sliced": lambda x: x[:, 1:, 1:, 1:],
    "inner merged": lambda x: x[:, :, :, :].transpose(0, 1),
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "channels last sliced": lambda x: x.to(memory_format=torch.channels_last)[1:, 2:],
    "expanded rows": lambda x: x[:1].expand(8, -1, -1, -1),
    "expanded units": lambda x: x[:, :1, :, :1].expand(-1, 3, -1, 9),
    "expanded": lambda x: x[:1, :1, :1, :1].expand(3, 4, 5, 6),
    "one unit": lambda x: x[:, 2, 3, 1:2],
    "one unit of a row": lambda x: x[:, 2, 3, 1],
    "unaligned": lambda x: x.flatten()[1:].view(-1)[: 7 * 17].view(7, 17),
    "overlapping": lambda x: x.flatten().unfold(0, 20, 3),
    "diagonal": lambda x: x.diagonal(dim1=1, dim2=2),
    "no width": lambda x: x[:, :, :0],
    "no rows": lambda x: x[:0],
    "no rows, no width": lambda x: x[:0, :0],
    "parameter": torch.nn.Parameter,
}


@each_check
@each_dtype
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(
    rng: np.random.Generator, check: Callable[..., Any], layout: str, dtype: torch.dtype
) -> None:
    x = torch.from_numpy(rng.standard_normal((8, 6, 5, 4))).to(dtype)
    laid_out = LAYOUTS[layout](x)
    labels = torch.from_numpy(rng.integers(0, 3, len(laid_out)))
    before = x.clone()
    check(laid_out, labels)
    assert_same_bits(x, before, "the input was changed")


@each_check
def test_lazily_negated_tensor(rng: np.random.Generator, check: Callable[..., Any]) -> None:
    x = torch.from_numpy(rng.standard_normal((9, 5, 2))).float()
    negated = torch.view_as_complex(x).conj().imag
    assert negated.is_neg()
    check(negated, torch.from_numpy(rng.integers(0, 3, 9)))


def read_only(x: np.ndarray) -> np.ndarray:
    x = x.copy()
    x.flags.writeable = False
    return x


def field_of_a_record(x: np.ndarray) -> np.ndarray:
    records = np.zeros(x.shape, [("value", x.dtype), ("flag", np.int8)])
    records["value"] = x
    return records["value"]


NUMPY_LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": lambda x: x,
    "Fortran": np.asfortranarray,
    "rows reversed": lambda x: x[::-1],
    "units reversed": lambda x: x[:, ::-1],
    "both reversed": lambda x: x[::-2, ::-3],
    "read-only": read_only,
    "transposed": lambda x: x.T,
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "3-D": lambda x: x.reshape(12, 3, 5),
    "1-D": lambda x: x[:, 0],
    "no rows": lambda x: x[:0],
    "no width": lambda x: x[:, :0],
    "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
    "field of a record": field_of_a_record,
}


@each_check
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("layout", NUMPY_LAYOUTS)
def test_numpy_arrays(
    rng: np.random.Generator, check: Callable[..., Any], layout: str, dtype: type[np.generic]
) -> None:
    x = NUMPY_LAYOUTS[layout](rng.standard_normal((12, 15)).astype(dtype))
    result = check(x, rng.integers(0, 3, len(x)))
    means, counts = result[: 3 if check is check_mean_cosine else 6], result[len(result) // 2 :]
    assert all(type(value) is np.float64 for value in means)
    assert type(counts[-1]) is np.int64


@each_check
def test_numpy_and_torch_mix(rng: np.random.Generator, check: Callable[..., Any]) -> None:
    x, labels = rng.standard_normal((20, 6)), rng.integers(0, 3, 20)
    assert isinstance(check(x, torch.from_numpy(labels))[0], np.float64)
    assert isinstance(check(torch.from_numpy(x), labels)[0], Tensor)
    check(x, labels[::-1])


@each_check
@pytest.mark.parametrize("with_num_classes", [False, True])
@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
)
def test_label_dtypes(
    rng: np.random.Generator, check: Callable[..., Any], dtype: str, with_num_classes: bool
) -> None:
    x, labels = rng.standard_normal((20, 6)), rng.integers(0, 100, 20).astype(dtype)
    num_classes = 128 if with_num_classes else None
    check(x, labels, num_classes=num_classes)
    check(torch.from_numpy(x), torch.from_numpy(labels)[::1], num_classes=num_classes)


@each_check
def test_label_layouts(rng: np.random.Generator, check: Callable[..., Any]) -> None:
    x = torch.from_numpy(rng.standard_normal((20, 6)))
    check(x, torch.from_numpy(rng.integers(0, 3, 60))[::3])
    check(x, torch.from_numpy(rng.integers(0, 3, (20, 4)))[:, 1])
    check(x, torch.tensor([2]).expand(20))


@settings(max_examples=250, deadline=None)
@given(x=laid_out_tensors(), data=st.data())
def test_any_shape_strides_dtype_and_labels(x: Tensor, data: st.DataObject) -> None:
    labels = data.draw(optional_labels(len(x)), label="labels")
    num_classes = None if labels is None else data.draw(st.sampled_from([None, 5, 9]))
    check_mean_cosine(x, labels, num_classes=num_classes)
    check_gate_stats(x, labels, num_classes=num_classes)


@each_dtype
@each_function
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_to_one_graph(
    rng: np.random.Generator,
    function: Callable[..., tuple[Tensor, ...]],
    name: str,
    dtype: torch.dtype,
    dynamic: bool,
) -> None:
    def with_labels(x: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        return function(x, labels, num_classes=4)

    def without_labels(x: Tensor) -> tuple[Tensor, ...]:
        return function(x)

    torch.compiler.reset()
    options = {"fullgraph": True, "backend": "aot_eager", "dynamic": dynamic}
    compiled = torch.compile(with_labels, **options)
    compiled_without = torch.compile(without_labels, **options)
    for n in (40, 50):
        x = torch.from_numpy(rng.standard_normal((n, 3, 7))).to(dtype)
        labels = torch.from_numpy(rng.integers(0, 4, n))
        for got, wanted in (
            (compiled(x, labels), with_labels(x, labels)),
            (compiled_without(x), without_labels(x)),
        ):
            assert type(got) is type(wanted)
            for a, b in zip(got, wanted, strict=True):
                assert_same_bits(a, b)


@each_function
@pytest.mark.parametrize("dynamic", [False, True])
def test_num_classes_may_change_between_compiled_calls(
    rng: np.random.Generator,
    function: Callable[..., tuple[Tensor, ...]],
    name: str,
    dynamic: bool,
) -> None:
    def call(x: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, ...]:
        return function(x, labels, num_classes=num_classes)

    torch.compiler.reset()
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    x, labels = torch.from_numpy(rng.standard_normal((40, 7))), torch.arange(40) % 4
    for num_classes in (4, 5, 6):
        for a, b in zip(compiled(x, labels, num_classes), call(x, labels, 4), strict=True):
            assert_same_bits(a, b)


def sparse_csr(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return x.to_sparse_csr()


def nested(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors")
        return torch.nested.nested_tensor([x[0], x[1, :2]])


X = torch.arange(12.0).view(4, 3)
BAD_ARRAYS: dict[str, tuple[Any, type[Exception], str]] = {
    "integers": (X.int(), TypeError, "torch.int32"),
    "booleans": (X > 0, TypeError, "torch.bool"),
    "complex": (X.cfloat(), TypeError, "torch.complex64"),
    "float8": (X.to(torch.float8_e4m3fn), TypeError, "float8"),
    "scalar": (torch.tensor(1.0), ValueError, "dimension"),
    "sparse": (X.to_sparse(), TypeError, "sparse_coo"),
    "sparse csr": (sparse_csr(X), TypeError, "sparse_csr"),
    "nested": (nested(X), TypeError, "nested"),
    "list": ([[1.0, 2.0]], TypeError, "list"),
    "None": (None, TypeError, "NoneType"),
    "number": (1.0, TypeError, "float"),
    "numpy integers": (X.int().numpy(), TypeError, "int32"),
    "numpy scalar": (np.array(1.0), ValueError, "dimension"),
    "numpy strings": (np.array(["a", "b"]), TypeError, "U1"),
    "numpy objects": (np.array([object()]), TypeError, "object"),
    "numpy long double": (
        X.numpy().astype(np.longdouble),
        TypeError,
        np.dtype(np.longdouble).name,
    ),
}


@each_function
@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_refuses_what_are_no_rows(function: Callable[..., Any], name: str, case: str) -> None:
    value, error, given_value = BAD_ARRAYS[case]
    with pytest.raises(error, match=rf"^{name}: .*{given_value}"):
        function(value)


Y = torch.tensor([0, 1, 0, 1])
BAD_LABELS: dict[str, tuple[Any, int | None, type[Exception], str]] = {
    "float": (Y.float(), None, TypeError, "labels: .*float32"),
    "bool": (Y.bool(), None, TypeError, "labels: .*bool"),
    "complex": (Y.cfloat(), None, TypeError, "labels: .*complex64"),
    "list": ([0, 1, 0, 1], None, TypeError, "labels: .*list"),
    "numpy float": (Y.double().numpy(), None, TypeError, "labels: .*float64"),
    "sparse": (Y.to_sparse(), None, TypeError, "labels: .*sparse"),
    "sparse, with num_classes": (Y.to_sparse(), 2, TypeError, "labels: .*sparse"),
    "meta": (Y.to("meta"), None, ValueError, "labels: .*meta"),
    "meta, with num_classes": (Y.to("meta"), 2, ValueError, "labels: .*meta"),
    "2-D": (Y[:, None], None, ValueError, r"labels: .*\[4\].*\[4, 1\]"),
    "scalar": (torch.tensor(1), None, ValueError, r"labels: .*\[4\].*\[\]"),
    "too few": (Y[:3], None, ValueError, r"labels: .*\[4\].*\[3\]"),
    "too many": (Y.repeat(2), 2, ValueError, r"labels: .*\[4\].*\[8\]"),
    "negative": (
        torch.tensor([0, 1, -1, 1]),
        None,
        ValueError,
        "labels: row 2 has label -1; labels",
    ),
    "negative, given": (torch.tensor([0, 1, -1, 1]), 2, ValueError, "labels: row 2 has label -1, "),
    "all negative": (-1 - Y, None, ValueError, "labels: row 0 has label -1; .* from 0, none may"),
    "least": (torch.tensor([0, 0, 0, -(2**63)]), 2, ValueError, "labels: row 3"),
    "too large": (Y, 1, ValueError, r"labels: row 1 has label 1, .*num_classes=1"),
    "absurdly large": (Y * 2**62, None, ValueError, "labels: .*4611686018427387904"),
    "largest": (Y * (2**63 - 1), None, ValueError, "labels: .*9223372036854775807"),
    "num_classes without labels": (None, 2, ValueError, "num_classes: .*without labels"),
    "num_classes 0": (Y, 0, ValueError, "num_classes: .*0"),
    "num_classes -1": (Y, -1, ValueError, "num_classes: .*-1"),
    "num_classes absurd": (Y, 2**62, ValueError, "num_classes: .*4611686018427387904"),
    "num_classes beyond int64": (Y, 2**70, ValueError, "num_classes: .*1180591620717411303424"),
    "num_classes float": (Y, 2.0, TypeError, "num_classes: .*float"),  # type: ignore[dict-item]
    "num_classes bool": (Y, True, TypeError, "num_classes: .*bool"),
}


@each_function
@pytest.mark.parametrize("case", BAD_LABELS)
def test_refuses_wrong_labels(function: Callable[..., Any], name: str, case: str) -> None:
    labels, num_classes, error, message = BAD_LABELS[case]
    with pytest.raises(error, match=f"^{message}"):
        function(X, labels, num_classes=num_classes)


@each_function
def test_labels_on_meta_need_num_classes(function: Callable[..., Any], name: str) -> None:
    with pytest.raises(ValueError, match=r"^labels: on meta, .*; pass num_classes|^x: is on meta"):
        function(X.to("meta"), Y.to("meta"))


def test_group_labels_sorts_rows_by_class(rng: np.random.Generator) -> None:
    for n, num_classes in ((0, 1), (1, 1), (1, 4), (127, 1), (127, 10), (127, 500), (4096, 3)):
        labels = torch.from_numpy(rng.integers(0, num_classes, n))
        order, class_ptr = torch.ops.tfc_fast.group_labels(labels, num_classes)
        wanted_order, wanted_ptr = reference.group_labels(labels, num_classes)
        np.testing.assert_array_equal(order.numpy(), wanted_order)
        np.testing.assert_array_equal(class_ptr.numpy(), wanted_ptr)
        assert order.dtype == class_ptr.dtype == torch.int64


def test_whole_numbers_are_told_how_to_become_floats() -> None:
    for x, how in (
        (np.ones((3, 4), int), "x.astype(numpy.float32)"),
        (torch.ones(3, 4).long(), "x.float()"),
    ):
        with pytest.raises(TypeError, match=re.escape(f"convert it with {how}")):
            mean_cosine(x)
