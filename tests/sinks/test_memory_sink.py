from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest

from tfc_fast.records import (
    COLUMNS,
    COUNT_COLUMNS,
    VALUE_COLUMNS,
    Records,
    concatenate,
    empty,
    validate,
)
from tfc_fast.sinks import MemorySink


def make_records(
    steps: Sequence[int], sites: Sequence[str] = ("hidden.0.relu", "hidden.1.relu")
) -> Records:
    rng = np.random.default_rng(len(steps))
    rows = len(steps) * len(sites)
    records: Records = {name: rng.random(rows) for name in VALUE_COLUMNS}
    records |= {name: rng.integers(0, 100, rows) for name in COUNT_COLUMNS}
    records["step"] = np.repeat(np.array(steps, np.int64), len(sites))
    records["site"] = np.tile(np.array(sites), len(steps))
    records["loss"][::3] = np.nan
    return records


def assert_same(actual: Records, expected: Records) -> None:
    validate(actual)
    for name in COLUMNS:
        np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


def test_history_gives_back_what_was_written() -> None:
    sink = MemorySink()
    batches = [make_records([0]), make_records(range(1, 300)), make_records([300, 301])]
    for batch in batches:
        sink.write(batch)
    sink.flush()
    assert_same(sink.history(), concatenate(batches))
    assert len(sink) == 604


def test_history_of_many_small_writes() -> None:
    sink = MemorySink()
    batches = [make_records([step], sites=("a", "b", "c")) for step in range(3000)]
    for batch in batches:
        sink.write(batch)
    assert_same(sink.history(), concatenate(batches))


def test_history_before_any_write_is_empty() -> None:
    sink = MemorySink()
    assert_same(sink.history(), empty())
    sink.write(empty())
    assert_same(sink.history(), empty())


def test_new_sites_may_appear_later_and_in_any_order() -> None:
    sink = MemorySink()
    sink.write(make_records([0], sites=("b", "a")))
    sink.write(make_records([1], sites=("a", "c.with.a.longer.name", "b")))
    assert sink.history()["site"].tolist() == ["b", "a", "a", "c.with.a.longer.name", "b"]


def test_history_is_independent_of_the_arrays_of_the_caller() -> None:
    sink = MemorySink()
    batch = make_records([0, 1])
    expected = concatenate([batch])
    sink.write(batch)
    for column in batch.values():
        column[:] = column[0]
    sink.history()["loss"][:] = -1.0
    sink.history()["site"][:] = "other"
    assert_same(sink.history(), expected)


def test_close_keeps_the_history() -> None:
    sink = MemorySink()
    sink.write(make_records([0]))
    sink.close()
    sink.close()
    assert_same(sink.history(), make_records([0]))


@pytest.mark.parametrize("max_records", [20, 21])
@pytest.mark.parametrize("batch_steps", [1, 3, 50, 100])
def test_bound_keeps_the_newest_whole_steps(batch_steps: int, max_records: int) -> None:
    sink = MemorySink(max_records)
    for start in range(0, 100, batch_steps):
        sink.write(make_records(range(start, min(start + batch_steps, 100))))
        assert len(sink) <= max_records
    # 20 or 21 records have room for ten steps of two sites.
    history = sink.history()
    assert history["step"].tolist() == np.repeat(np.arange(90, 100), 2).tolist()
    assert history["site"].tolist() == ["hidden.0.relu", "hidden.1.relu"] * 10
    assert len(sink) == 20


def test_bound_keeps_everything_that_fits() -> None:
    sink = MemorySink(max_records=20)
    sink.write(make_records(range(10)))
    assert_same(sink.history(), make_records(range(10)))


@pytest.mark.parametrize("batches", [[range(3)], [[0], [1], [2]]])
def test_newest_step_stays_even_beyond_the_bound(batches: list[Sequence[int]]) -> None:
    sink = MemorySink(max_records=1)
    for steps in batches:
        sink.write(make_records(steps))
    assert sink.history()["step"].tolist() == [2, 2]


def test_bound_with_steps_of_changing_size() -> None:
    sink = MemorySink(max_records=4)
    sink.write(make_records([0], sites=("a", "b", "c")))
    sink.write(make_records([1], sites=("a",)))
    assert sink.history()["step"].tolist() == [0, 0, 0, 1]
    sink.write(make_records([2], sites=("a",)))
    assert sink.history()["step"].tolist() == [1, 2]


@pytest.mark.parametrize(("batch_steps", "limit"), [(1, 250), (500, 250)])
def test_memory_per_record(batch_steps: int, limit: int) -> None:
    steps = 4000
    sites = [f"backbone.stage.{index}.activation" for index in range(10)]
    batch = make_records(range(batch_steps), sites)
    tracemalloc.start()
    try:
        sink = MemorySink()
        for _ in range(steps // batch_steps):
            sink.write(batch)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(sink) == steps * 10
    assert used / len(sink) < limit


def test_memory_stays_flat_under_a_bound() -> None:
    sites = [f"site{index}" for index in range(10)]
    sink = MemorySink(max_records=2000)
    batch = make_records(range(1000), sites)
    tracemalloc.start()
    try:
        for _ in range(20):
            sink.write(batch)
        sink.write(make_records([0], sites))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # 2000 records of 172 bytes; twice that is the most a cut may leave behind.
    assert used < 2 * 2000 * 172 * 1.2


@pytest.mark.parametrize(
    ("max_records", "error"),
    [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)],
)
def test_wrong_bound_is_refused(max_records: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"max_records: {max_records} given"):
        MemorySink(max_records=max_records)


def test_wrong_records_are_refused_and_not_kept() -> None:
    sink = MemorySink()
    batch = make_records([0])
    batch["loss"] = batch["loss"][:1]
    with pytest.raises(ValueError, match="column 'loss' has 1 rows"):
        sink.write(batch)
    assert len(sink) == 0
