"""How the ops are registered, and that they refuse state which does not fit."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from checks import DTYPES
from recording import GRAD_LAYOUTS, LAYOUTS, end_step, make_recorder, relu_backward, tap_backward
from torch import Tensor
from torch.library import opcheck

from tfc_fast import _C

OPS = torch.ops.tfc_fast
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
labelled_or_not = pytest.mark.parametrize("num_classes", [0, 3])

LABELS = torch.tensor([2, 0, 1, 0, 2, 2])


def random_input(rng: np.random.Generator, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(rng.standard_normal((6, 2, 3, 3))).to(dtype)


def passes(results: dict[str, str]) -> bool:
    return set(results.values()) == {"SUCCESS"}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64], ids=str)
def test_group_labels_is_a_sound_op(dtype: torch.dtype) -> None:
    assert passes(opcheck(OPS.group_labels.default, (LABELS.to(dtype), 5)))


@each_dtype
@pytest.mark.parametrize("layout", ["contiguous", "with gaps"])
@pytest.mark.parametrize("op", ["mean_cosine", "gate_stats", "unit_row_sums"])
def test_functional_statistics_are_sound_ops(
    rng: np.random.Generator, op: str, layout: str, dtype: torch.dtype
) -> None:
    x = LAYOUTS[layout](random_input(rng, dtype))
    default = getattr(OPS, op).default
    assert passes(opcheck(default, (x, *OPS.group_labels(LABELS, 3))))
    # Without labels two results are NaN, which opcheck takes for different from itself.
    without_values = ("test_schema", "test_autograd_registration", "test_faketensor")
    assert passes(opcheck(default, (x, None, None), test_utils=without_values))


@each_dtype
@labelled_or_not
@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("op", ["relu_probe", "tap"])
def test_forward_ops_are_sound(
    rng: np.random.Generator, op: str, requires_grad: bool, num_classes: int, dtype: torch.dtype
) -> None:
    r = make_recorder(num_classes=num_classes)
    r.begin_batch(LABELS)
    x = random_input(rng, dtype).requires_grad_(requires_grad)
    arguments = (x, r.sites, r.units, r.order, r.class_ptr, 1)
    assert passes(opcheck(getattr(OPS, op).default, arguments))


@each_dtype
@labelled_or_not
@pytest.mark.parametrize("op", ["relu_probe_backward", "tap_backward"])
def test_backward_ops_are_sound(
    rng: np.random.Generator, op: str, num_classes: int, dtype: torch.dtype
) -> None:
    check_backward_op(op, random_input(rng, dtype), random_input(rng, dtype).relu(), num_classes)


@pytest.mark.parametrize("result_layout", LAYOUTS)
@pytest.mark.parametrize("grad_layout", GRAD_LAYOUTS)
def test_backward_is_sound_for_every_layout(
    rng: np.random.Generator, grad_layout: str, result_layout: str
) -> None:
    # A stride that torch.compile does not expect ends in numbers read from the wrong place.
    grad = GRAD_LAYOUTS[grad_layout](random_input(rng, torch.float32))
    result = LAYOUTS[result_layout](random_input(rng, torch.float32).relu())
    check_backward_op("relu_probe_backward", grad, result, num_classes=3)


@pytest.mark.parametrize("reduction", range(1, len(_C.REDUCTIONS)))
def test_ops_are_sound_for_every_reduction(rng: np.random.Generator, reduction: int) -> None:
    x, grad = (random_input(rng, torch.float32) for _ in range(2))
    for op in ("relu_probe_backward", "tap_backward"):
        check_backward_op(op, grad, x.relu(), num_classes=3, reduction=reduction)
    r = make_recorder(num_classes=3)
    for op in ("relu_probe", "tap"):
        r.begin_batch(LABELS)
        arguments = (
            x.clone().requires_grad_(),
            r.sites,
            r.units,
            r.order,
            r.class_ptr,
            1,
            reduction,
        )
        assert passes(opcheck(getattr(OPS, op).default, arguments))


def check_backward_op(
    op: str, grad: Tensor, result: Tensor, num_classes: int, reduction: int = 0
) -> None:
    r = make_recorder(num_classes=num_classes)
    r.begin_batch(LABELS)
    arguments = (grad, result, r.order, r.class_ptr, r.sites, r.units, 1, reduction)
    assert passes(opcheck(getattr(OPS, op).default, arguments))


# ---- state that does not fit -----------------------------------------------------------------

WRONG_STATE: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "sites of another dtype": (
        {"sites": lambda t: t.float()},
        ValueError,
        "sites must be.*float64",
    ),
    "sites in one row": ({"sites": lambda t: t.flatten()}, ValueError, "sites must be"),
    "sites too narrow": ({"sites": lambda t: t[:, 1:].contiguous()}, ValueError, "sites must be"),
    "sites with gaps": ({"sites": lambda t: t.repeat(1, 2)[:, : t.shape[1]]}, ValueError, "sites"),
    "no site": ({"sites": lambda t: t[:1]}, IndexError, "site 0 of 0"),
    "units of another dtype": ({"units": lambda t: t.long()}, ValueError, "units must be.*int32"),
    "units in one row": ({"units": lambda t: t[0]}, ValueError, "units must be"),
    "units of three rows": ({"units": lambda t: t[:1].repeat(3, 1)}, ValueError, "units must be"),
    "units with gaps": ({"units": lambda t: t[:, 1:]}, ValueError, "units must be"),
    "order of another dtype": ({"order": lambda t: t.int()}, ValueError, "order must be.*int64"),
    "order too short": ({"order": lambda t: t[:5]}, ValueError, "order"),
    "class_ptr of another dtype": (
        {"class_ptr": lambda t: t.int()},
        ValueError,
        "class_ptr must be.*int64",
    ),
    "class_ptr for fewer rows": ({"class_ptr": lambda t: t[:-1]}, ValueError, "class_ptr|labels"),
    "negative site": ({"site": -1}, IndexError, "site -1 of 2"),
    "site too large": ({"site": 2}, IndexError, "site 2 of 2"),
    "gradient of another shape": ({"grad": lambda t: t[:, :1]}, ValueError, r"\[6, 1.*\[6, 2"),
    "gradient of fewer rows": ({"grad": lambda t: t[:5]}, ValueError, r"\[5, 2.*\[6, 2"),
}


@pytest.mark.parametrize("op", ["relu_probe_backward", "tap_backward"])
@pytest.mark.parametrize("case", WRONG_STATE)
def test_refuses_state_that_does_not_fit(op: str, case: str) -> None:
    changes, error, message = WRONG_STATE[case]
    r = make_recorder(num_classes=3)
    r.begin_batch(LABELS)
    x = torch.ones(6, 2, 3, 3)
    arguments: dict[str, Any] = {"grad": x, "result": x, "order": r.order}
    arguments |= {"class_ptr": r.class_ptr, "sites": r.sites, "units": r.units, "site": 0}
    for name, change in changes.items():
        arguments[name] = change(arguments[name]) if callable(change) else change
    with pytest.raises(error, match=message):
        getattr(OPS, op)(*arguments.values())


def test_refuses_a_scalar_feature() -> None:
    with pytest.raises(ValueError, match="batch dimension"):
        relu_backward(make_recorder(), torch.tensor(1.0), torch.tensor(1.0))


def test_refuses_a_change_of_width() -> None:
    r = make_recorder()
    tap_backward(r, torch.ones(4, 5), torch.ones(4, 5))
    with pytest.raises(ValueError, match="site 0 had 5 units before and has 6 now"):
        tap_backward(r, torch.ones(4, 6), torch.ones(4, 6))


def test_labels_must_be_given_once_for_each_backward() -> None:
    r = make_recorder(num_classes=3)
    x = torch.ones(6, 4)
    with pytest.raises(ValueError, match="labels are missing"):
        relu_backward(r, x, x)
    r.begin_batch(LABELS)
    relu_backward(r, x, x)
    relu_backward(r, x, x, site=1)
    with pytest.raises(ValueError, match="labels are missing"):
        relu_backward(r, x, x)
    r.begin_batch(LABELS)
    with pytest.raises(
        ValueError, match=r"6 labels, but a watched feature has 5 samples.*\[5, 4\]"
    ):
        relu_backward(r, x[:5], x[:5])
    relu_backward(r, x, x)
    assert end_step(r)["n_rows"] == 12
    with pytest.raises(ValueError, match="labels are missing"):
        relu_backward(r, x, x)


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (None, ValueError, "labels: wanted one label per sample"),
        (LABELS.float(), TypeError, "labels: .*Float"),
        (LABELS > 0, TypeError, "labels: .*Bool"),
        (LABELS[:, None], ValueError, r"labels: .*\[6, 1\]"),
        (LABELS - 1, ValueError, "labels: row 1 has label -1"),
        (LABELS + 1, ValueError, "labels: row 0 has label 3, .*num_classes=3"),
    ],
)
def test_wrong_labels_leave_the_recorder_as_it_was(
    labels: Tensor | None, error: type[Exception], message: str
) -> None:
    r = make_recorder(num_classes=3)
    with pytest.raises(error, match=message):
        r.begin_batch(labels)
    r.begin_batch(LABELS)
    x = torch.eye(6)
    relu_backward(r, x, x)
    record = end_step(r)
    assert record["n_rows"] == 6
    # Of four pairs of one class none agrees in more than 4 of 6 units.
    assert record["gate_agreement_within"] == 4 / 6


def test_labels_may_come_between_forward_and_backward() -> None:
    # They are needed before backward; a batch larger than any before must not make a difference.
    r = make_recorder(num_classes=3)
    x = torch.eye(6, requires_grad=True)
    y = _C.relu_probe(x, r, 0)
    r.begin_batch(LABELS)
    y.sum().backward()
    assert end_step(r)["gate_agreement_within"] == 4 / 6


# ---- state that would make an op read or write memory that is not its own --------------------
# Tried in a process of its own, since what goes wrong here takes the process with it.

IMPOSSIBLE_GROUPINGS = {
    "no classes": ([], []),
    "rows without classes": ([0, 1, 2, 3], []),
    "classes that end before they begin": ([0, 1, 2, 3], [0, 40, 4]),
    "rows before the first": ([0, 1, 2, 3], [-3, 4]),
    "rows left out": ([0, 1, 2, 3], [2, 4]),
    "a negative row": ([0, 1, 2, -1], [0, 4]),
    "a row too many": ([0, 1, 2, 4], [0, 4]),
    "a row far away": ([0, 1, 2, 2**40], [0, 4]),
}

GROUP_IMPOSSIBLY = """
import torch, tfc_fast
for name, grouping in {groupings}.items():
    order, class_ptr = (torch.tensor(values, dtype=torch.int64) for values in grouping)
    print(name, end=": ", flush=True)
    try:
        torch.ops.tfc_fast.{op}(torch.ones(4, 3), order, class_ptr)
        print("accepted", flush=True)
    except ValueError:
        print("refused", flush=True)
"""

# A graph may hold on to a buffer that the recorder has replaced by a larger one since.
RECORD_INTO_AN_OLD_BUFFER = """
import torch
from tfc_fast import _C
old, new = (_C.Recorder(2, 0, 8, 4, 1, units) for units in (4, 4000))
x = torch.ones(3, 1000)
for site in (0, 1):
    torch.ops.tfc_fast.tap_backward(x, x, new.order, new.class_ptr, new.sites, new.units, site)
try:
    torch.ops.tfc_fast.tap_backward(x, x, new.order, new.class_ptr, new.sites, old.units, 1)
    print("accepted")
except ValueError:
    print("refused")
"""


def output_of(program: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert result.returncode == 0, f"ended with {result.returncode} after {result.stdout!r}"
    return result.stdout


@pytest.mark.parametrize("op", ["mean_cosine", "gate_stats", "unit_row_sums"])
def test_refuses_an_impossible_grouping(op: str) -> None:
    program = GROUP_IMPOSSIBLY.format(op=op, groupings=IMPOSSIBLE_GROUPINGS)
    assert output_of(program).splitlines() == [f"{name}: refused" for name in IMPOSSIBLE_GROUPINGS]


def test_refuses_units_that_lie_beyond_the_buffer() -> None:
    assert output_of(RECORD_INTO_AN_OLD_BUFFER) == "refused\n"
