from __future__ import annotations

import copy
import itertools
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from checks import DTYPES, INSTRUCTION_SETS, assert_same_bits, compare_cosine_means, random_labels
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import all_sorts_of_rows
from torch import Tensor
from torch.library import opcheck

from tfc_fast.similarity import CosineAccumulator, CosineMeans, mean_cosine
from tfc_fast.similarity import accumulator as accumulator_module

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def accumulate(
    x: Tensor, labels: Tensor | None, cuts: list[int], num_classes: int | None = None
) -> CosineAccumulator:
    """`x` in chunks that end at `cuts`."""
    accumulator = CosineAccumulator(math.prod(x.shape[1:]), num_classes)
    ends = [0, *sorted(cuts), len(x)]
    for begin, end in itertools.pairwise(ends):
        accumulator.update(x[begin:end], None if labels is None else labels[begin:end])
    return accumulator


def check(actual: CosineMeans, x: Tensor, labels: Tensor | None) -> None:
    expected = reference.mean_cosine(x, labels)
    compare_cosine_means(actual, expected, str(x.dtype).removeprefix("torch."))


@each_dtype
@pytest.mark.parametrize("d", [1, 7, 64, 1000])
@pytest.mark.parametrize("n", [0, 1, 2, 3, 127, 700])
def test_chunks_are_as_good_as_one_call(
    rng: np.random.Generator, n: int, d: int, dtype: torch.dtype
) -> None:
    x, labels = all_sorts_of_rows(rng, n, d, dtype), random_labels(rng, n)
    cuts = rng.integers(0, n + 1, int(rng.integers(0, 9))).tolist()
    check(accumulate(x, labels, cuts, num_classes=7).compute(), x, labels)
    check(accumulate(x, None, cuts).compute(), x, None)


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_any_shape_strides_dtype_labels_and_chunks(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    n, d = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 40))
    x = all_sorts_of_rows(rng, 2 * n, 3 * d, data.draw(st.sampled_from(DTYPES)))
    step = data.draw(st.integers(1, 3))
    x = x[::2, : step * d : step]
    labels = random_labels(rng, n, 4).to(data.draw(st.sampled_from([torch.uint8, torch.int64])))
    cuts = data.draw(st.lists(st.integers(0, n), max_size=5))
    classes = data.draw(st.sampled_from([4, 30]))
    check(accumulate(x.unflatten(1, (1, d)), labels, cuts, classes).compute(), x, labels)


def test_sums_over_many_batches_stay_exact(rng: np.random.Generator) -> None:
    # The same number added again and again is rounded the same way each time.
    x = torch.from_numpy(rng.uniform(1, 2, (1, 300)))
    accumulator = CosineAccumulator(300)
    accumulator.update(x)
    exact = 30_000 * accumulator.state_dict()["sums"]
    for _ in range(29_999):
        accumulator.update(x)
    assert int(accumulator.compute().n_rows) == 30_000
    assert abs(float(accumulator.compute().all) - 1) <= 1e-12
    state = accumulator.state_dict()
    torch.testing.assert_close(state["sums"] + state["lost"], exact, rtol=5e-16, atol=0)
    assert ((state["sums"] - exact) / exact).abs().max() > 1e-13, "plain sums would have done"


def test_ten_million_rows(rng: np.random.Generator) -> None:
    row = rng.uniform(1, 2, (1, 3))
    x = torch.from_numpy(row).repeat(100_000, 1)
    accumulator = CosineAccumulator(3)
    for _ in range(100):
        accumulator.update(x)
    assert int(accumulator.compute().n_rows) == 10_000_000
    assert abs(float(accumulator.compute().all) - 1) <= 1e-12
    mean = accumulator.state_dict()["sums"] / 10_000_000
    np.testing.assert_allclose(mean, row / np.linalg.norm(row), rtol=1e-12)


def test_batches_of_different_dtypes(rng: np.random.Generator) -> None:
    parts = [all_sorts_of_rows(rng, 20, 9, dtype) for dtype in DTYPES]
    accumulator = CosineAccumulator(9)
    for part in parts:
        accumulator.update(part)
    whole = torch.cat([part.double() for part in parts])
    compare_cosine_means(accumulator.compute(), reference.mean_cosine(whole), "float16")


def test_numpy_batches(rng: np.random.Generator) -> None:
    x, labels = rng.standard_normal((30, 4)), rng.integers(0, 3, 30)
    accumulator = CosineAccumulator(4, 3)
    accumulator.update(x[::-1], labels[::-1])
    check(accumulator.compute(), torch.from_numpy(x), torch.from_numpy(labels))


def test_rows_that_require_grad(rng: np.random.Generator) -> None:
    accumulator = CosineAccumulator(4)
    accumulator.update(torch.ones(3, 4, requires_grad=True))
    assert not accumulator.compute().all.requires_grad  # type: ignore[union-attr]


@each_dtype
def test_merging_in_any_order(rng: np.random.Generator, dtype: torch.dtype) -> None:
    n = 150
    x, labels = all_sorts_of_rows(rng, n, 33, dtype), random_labels(rng, n)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        parts = []
        for rows in np.array_split(np.arange(n), 4):
            parts.append(CosineAccumulator(33, 6))
            parts[-1].update(x[rows], labels[rows])
        before = copy.deepcopy(parts[order[1]].state_dict())
        whole = parts[order[0]]
        for part in order[1:]:
            whole.merge(parts[part])
        check(whole.compute(), x, labels)
        for name, value in parts[order[1]].state_dict().items():
            np.testing.assert_array_equal(value, before[name], err_msg="merge changed the other")


def test_merging_loses_nothing_to_rounding() -> None:
    whole, part = CosineAccumulator(2), CosineAccumulator(2)
    part.update(torch.tensor([[1.0, 1.0]], dtype=torch.float64))
    for _ in range(40_000):
        whole.merge(part)
    unit = math.sqrt(0.5)
    total = (whole._sums + whole._lost)[0, 0].item()
    assert total == pytest.approx(40_000 * unit, rel=4e-16)
    assert int(whole.compute().n_rows) == 40_000


def test_state_goes_round(rng: np.random.Generator, tmp_path: Path) -> None:
    x, labels = all_sorts_of_rows(rng, 90, 12, torch.float32), random_labels(rng, 90)
    accumulator = accumulate(x, labels, [40], num_classes=5)
    torch.save(accumulator.state_dict(), tmp_path / "state.pt")
    loaded = CosineAccumulator(12, 5)
    loaded.update(x[:7], labels[:7])
    loaded.load_state_dict(torch.load(tmp_path / "state.pt"))
    copies = [loaded, pickle.loads(pickle.dumps(accumulator)), copy.deepcopy(accumulator)]
    for other in copies:
        for value, wanted in zip(other.compute(), accumulator.compute(), strict=True):
            assert_same_bits(value, wanted)
    saved = accumulator.state_dict()
    before = copy.deepcopy(saved)
    for other in (accumulator, *copies):
        other.update(x, labels)
        check(other.compute(), torch.cat([x, x]), torch.cat([labels, labels]))
    assert torch.equal(saved["sums"], before["sums"]), "a state must not change with its source"
    accumulator.reset()
    assert int(accumulator.compute().n_rows) == 0
    assert math.isnan(accumulator.compute().all)
    accumulator.update(x[:9], labels[:9])
    check(accumulator.compute(), x[:9], labels[:9])


def test_wrong_input_is_refused_by_name_and_changes_nothing(rng: np.random.Generator) -> None:
    x, y = torch.ones(4, 6), torch.tensor([0, 1, 0, 2])
    labelled, plain = CosineAccumulator(6, 3), CosineAccumulator(6)
    labelled.update(x, y)
    plain.update(x)
    state, state_3 = plain.state_dict(), labelled.state_dict()
    refused: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (TypeError, "num_features: .*float", lambda: CosineAccumulator(2.0)),  # type: ignore[arg-type]
        (ValueError, "num_features: .*0", lambda: CosineAccumulator(0)),
        (ValueError, "num_classes: .*-1", lambda: CosineAccumulator(2, -1)),
        (TypeError, "num_classes: .*bool", lambda: CosineAccumulator(2, True)),
        (TypeError, "x: .*int32", lambda: plain.update(x.int())),
        (ValueError, r"x: .*6 entries.*5.*\[4, 5\]", lambda: plain.update(x[:, :5])),
        (ValueError, r"x: .*6 entries.*24.*\[4, 6, 4\]", lambda: plain.update(torch.ones(4, 6, 4))),
        (ValueError, "labels: given", lambda: plain.update(x, y)),
        (ValueError, "labels: missing", lambda: labelled.update(x)),
        (ValueError, "labels: row 3 has label 3", lambda: labelled.update(x, y + y // 2)),
        (ValueError, r"labels: .*\[4\].*\[3\]", lambda: labelled.update(x, y[:3])),
        (TypeError, "labels: .*float32", lambda: labelled.update(x, y.float())),
        (TypeError, "other: .*dict", lambda: plain.merge(state)),  # type: ignore[arg-type]
        (ValueError, "other: .*num_classes=3, wanted None", lambda: plain.merge(labelled)),
        (ValueError, "other: .*num_features=5", lambda: plain.merge(CosineAccumulator(5))),
        (ValueError, "num_classes=None, wanted 3", lambda: labelled.load_state_dict(state)),
        (ValueError, "state: lacks counts, lost", lambda: plain.load_state_dict({"sums": 1})),
        (
            ValueError,
            r"state: sums must be .*\[3, 6\]",
            lambda: labelled.load_state_dict({**state_3, "sums": state["sums"]}),
        ),
        (RuntimeError, "all_reduce: torch.distributed is not init", lambda: plain.all_reduce()),
    ]
    for error, message, call in refused:
        with pytest.raises(error, match=message):
            call()
    check(labelled.compute(), x, y)
    check(plain.compute(), x, None)


def test_a_state_that_none_can_have_is_refused_and_changes_nothing() -> None:
    accumulator = CosineAccumulator(3, 2)
    accumulator.update(torch.eye(3), torch.tensor([0, 1, 1]))
    before = accumulator.state_dict()
    wrong: list[tuple[type[Exception], str, Any, str]] = [
        (TypeError, "num_features", torch.tensor([3, 3]), "wanted an int"),
        (TypeError, "num_features", np.array([3, 3]), "wanted an int"),
        (TypeError, "num_features", 3.0, "wanted an int"),
        (TypeError, "num_classes", torch.tensor(2.0), "wanted an int"),
        (ValueError, "num_features", 4, "wanted 3"),
        (ValueError, "num_classes", None, "wanted 2"),
        (ValueError, "sums", before["sums"].numpy(), "must be a tensor"),
        (ValueError, "lost", before["lost"].float(), "must be a tensor of torch.float64"),
        (TypeError, "lost", before["lost"].to_sparse(), "dense"),
        (ValueError, "counts", -before["counts"], "wanted at least 0"),
    ]
    for error, name, value, message in wrong:
        with pytest.raises(error, match=rf"^state: .*{name}.*{message}"):
            accumulator.load_state_dict({**before, name: value})
    assert str(accumulator.state_dict()) == str(before)


# One process of two. Each has its share of the rows.
RANK = """
import sys
import torch
import torch.distributed as distributed
from tfc_fast.similarity import CosineAccumulator

rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
x, labels = torch.load(f"{folder}/rows.pt")
share = slice(0, 37) if rank == 0 else slice(37, None)
accumulator = CosineAccumulator(x.shape[1], 6)
accumulator.update(x[share], labels[share])
before = accumulator.state_dict()
whole = accumulator.all_reduce()
again = accumulator.all_reduce(distributed.group.WORLD)
unchanged = all(
    torch.equal(torch.as_tensor(a), torch.as_tensor(b))
    for a, b in zip(before.values(), accumulator.state_dict().values())
)
try:
    CosineAccumulator(3 + rank).all_reduce()
    refused = ""
except ValueError as error:
    refused = str(error)
results = list(whole.compute()), list(again.compute()), unchanged, refused
torch.save(results, f"{folder}/{rank}.pt")
distributed.destroy_process_group()
"""


def test_two_processes_have_the_statistics_of_all_rows(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    x, labels = all_sorts_of_rows(rng, 120, 21, torch.float32), random_labels(rng, 120)
    torch.save((x, labels), tmp_path / "rows.pt")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            _, errors = process.communicate(timeout=120)
            assert process.returncode == 0, errors
    finally:
        for process in processes:
            process.kill()
    results: list[Any] = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for rank, (means, again, unchanged, refused) in enumerate(results):
        check(CosineMeans(*means), x, labels)
        for value, once, other in zip(again, means, results[0][0], strict=True):
            assert_same_bits(value, once, "reduced twice")
            assert_same_bits(value, other, "processes differ")
        assert unchanged
        assert f"num_features={3 + rank}" in refused


@pytest.mark.parametrize(
    ("backends", "device"),
    [("cpu:gloo,cuda:nccl", "cpu"), ("cpu:gloo", "cpu"), ("cuda:nccl", "cuda:1")],
)
def test_all_processes_reduce_on_devices_of_one_type(
    monkeypatch: pytest.MonkeyPatch, backends: str, device: str
) -> None:
    # Some may have no rows yet, and so no device: the group alone decides.
    monkeypatch.setattr(torch.distributed, "get_backend_config", lambda _: backends)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert accumulator_module._reducing_device(None) == torch.device(device)


@each_dtype
def test_same_bits_for_threads_and_instruction_sets(
    rng: np.random.Generator,
    set_threads: Callable[[int], None],
    use_instruction_set: Callable[[str], None],
    dtype: torch.dtype,
) -> None:
    for n, d in [(900, 333), (70, 20_000)]:
        x, labels = all_sorts_of_rows(rng, n, d, dtype), random_labels(rng, n)
        results = []
        last = INSTRUCTION_SETS[-1]
        for threads, name in [*((1, name) for name in INSTRUCTION_SETS), (2, last), (3, last)]:
            set_threads(threads)
            use_instruction_set(name)
            accumulator = accumulate(x, labels, [n // 3], num_classes=5)
            results.append([*accumulator.compute(), *accumulator.state_dict().values()])
        for result in results[1:]:
            for value, wanted in zip(result, results[0], strict=True):
                assert_same_bits(torch.as_tensor(value), torch.as_tensor(wanted))


@each_dtype
def test_sums_of_unit_rows(rng: np.random.Generator, dtype: torch.dtype) -> None:
    n, d = 200, 45
    x, labels = all_sorts_of_rows(rng, n, d, dtype), random_labels(rng, n)
    order, class_ptr = torch.ops.tfc_fast.group_labels(labels, 8)
    sums, counts = torch.ops.tfc_fast.unit_row_sums(x, order, class_ptr)
    rows = reference._Rows(x)
    for c in range(8):
        of_class = labels[torch.from_numpy(rows.valid)] == c
        np.testing.assert_allclose(sums[c], rows.units[of_class].sum(axis=0), atol=2e-5)
        wanted = [int(mask[labels == c].sum()) for mask in (rows.valid, rows.zero, rows.nonfinite)]
        assert counts[c].tolist() == wanted


@each_dtype
def test_means_of_sums_to_the_last_bits_of_float64(
    rng: np.random.Generator, dtype: torch.dtype
) -> None:
    x, labels = all_sorts_of_rows(rng, 200, 45, dtype), random_labels(rng, 200)
    groups = torch.ops.tfc_fast.group_labels(labels, 8)
    sums, counts = torch.ops.tfc_fast.unit_row_sums(x, *groups)
    of_sums = torch.ops.tfc_fast.mean_cosine_of_sums(sums, torch.zeros_like(sums), counts, True)
    means = torch.stack(list(mean_cosine(x, labels, num_classes=8)))  # type: ignore[arg-type]
    torch.testing.assert_close(of_sums, means.double(), rtol=0, atol=1e-13, equal_nan=True)


@each_dtype
def test_are_sound_ops(rng: np.random.Generator, dtype: torch.dtype) -> None:
    x, labels = all_sorts_of_rows(rng, 9, 5, dtype), random_labels(rng, 9)
    ops = torch.ops.tfc_fast
    order, class_ptr = ops.group_labels(labels, 5)
    sums, lost, counts = torch.ones(5, 5).double(), torch.zeros(5, 5).double(), torch.ones(5, 3)
    state = (sums, lost, 9 * counts.long())
    for results in (
        opcheck(ops.unit_row_sums.default, (x, order, class_ptr)),
        opcheck(ops.unit_row_sums.default, (x.view(9, 5, 1)[::2], None, None)),
        opcheck(ops.add_unit_row_sums.default, (x, order, class_ptr, *state)),
        opcheck(ops.mean_cosine_of_sums.default, (*state, True)),
    ):
        assert set(results.values()) == {"SUCCESS"}


def test_refuses_state_of_the_wrong_shape() -> None:
    x, state = torch.ones(4, 3), [torch.zeros(1, 3).double(), torch.zeros(1, 3).double()]
    counts = torch.zeros(1, 3, dtype=torch.int64)
    add = torch.ops.tfc_fast.add_unit_row_sums
    for wrong, name in (
        ((state[0][:, :2], state[1], counts), "sums"),
        ((state[0], state[1].float(), counts), "lost"),
        ((state[0], state[1], counts[:0]), "counts"),
    ):
        with pytest.raises(ValueError, match=f"add_unit_row_sums: {name} must be"):
            add(x, None, None, *wrong)
