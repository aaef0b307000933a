from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfc_fast.files import DamagedFileError, StorageError
from tfc_fast.records import (
    COLUMNS,
    COUNT_COLUMNS,
    VALUE_COLUMNS,
    Records,
    concatenate,
    empty,
    validate,
)
from tfc_fast.sinks import ParquetSink, read_parquet, truncate_parquet


def make_records(
    steps: Sequence[int], sites: Sequence[str] = ("hidden.0.relu", "hidden.1.relu")
) -> Records:
    rng = np.random.default_rng(steps[0])
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


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start_process(body: str, folder: Path) -> subprocess.Popen[str]:
    """Run `body` in another process, with make_records, ParquetSink and `folder` at hand."""
    preamble = (
        "import errno, os, pathlib, resource, signal, sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        f"from {Path(__file__).stem} import *\n"
        f"folder = pathlib.Path({str(folder)!r})\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", preamble + body], stdout=subprocess.PIPE, text=True
    )


def run_process(body: str, folder: Path) -> int:
    with start_process(body, folder) as process:
        process.communicate(timeout=60)
    return process.returncode


def test_round_trip(tmp_path: Path) -> None:
    batches = [make_records(range(200)), make_records(range(200, 210), ("other", "hidden.0.relu"))]
    sink = ParquetSink(tmp_path / "run" / "metrics")
    for batch in batches:
        sink.write(batch)
    sink.close()
    assert_same(read_parquet(sink.folder), concatenate(batches))


def test_stored_types(tmp_path: Path) -> None:
    with_gaps = make_records(range(5))
    sink = ParquetSink(tmp_path)
    sink.write({**with_gaps, "site": with_gaps["site"].astype(object)})
    table = pq.ParquetFile(tmp_path / "part-00000.parquet").read()
    assert tuple(table.column_names) == COLUMNS
    for name in COLUMNS:
        if name == "site":
            assert table.schema.field(name).type == pa.dictionary(pa.int32(), pa.string())
        elif name == "step" or name in COUNT_COLUMNS:
            assert table.schema.field(name).type == pa.int64()
        else:
            assert table.schema.field(name).type == pa.float64()
    # "Not measured" is NaN for every reader, not null.
    assert table["loss"].null_count == 0
    np.testing.assert_array_equal(table["loss"].to_numpy(), with_gaps["loss"])


def test_read_arrays_are_writable_and_typed(tmp_path: Path) -> None:
    ParquetSink(tmp_path).write(make_records([0]))
    records = read_parquet(tmp_path)
    assert {name: column.dtype for name, column in records.items()} == {
        name: column.dtype for name, column in empty().items()
    }
    assert all(column.flags.writeable for column in records.values())


def test_folder_names_with_an_equals_sign_add_nothing(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path / "step=7" / "lr=0.1")
    sink.write(make_records([0]))
    assert_same(read_parquet(sink.folder), make_records([0]))


def test_two_sinks_of_one_folder_do_not_overwrite_each_other(tmp_path: Path) -> None:
    first, second = ParquetSink(tmp_path), ParquetSink(tmp_path)
    first.write(make_records([0]))
    with pytest.raises(StorageError, match=r"part-00000\.parquet: another sink has written it"):
        second.write(make_records([1]))
    assert_same(read_parquet(tmp_path), make_records([0]))


def test_folder_names_need_not_be_utf8(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path / os.fsdecode(b"caf\xe9"))
    sink.write(make_records([0]))
    assert_same(read_parquet(sink.folder), make_records([0]))


def test_every_write_is_on_disk_at_once(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path)
    for step in range(3):
        sink.write(make_records([step]))
        assert read_parquet(tmp_path)["step"].max() == step
    assert names_in(tmp_path) == [f"part-0000{number}.parquet" for number in range(3)]


def test_rows_per_part_gathers_small_writes(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path, rows_per_part=6)
    for step in range(7):
        sink.write(make_records([step]))
    assert names_in(tmp_path) == ["part-00000.parquet", "part-00001.parquet"]
    assert read_parquet(tmp_path)["step"].max() == 5
    sink.flush()
    sink.flush()
    assert len(names_in(tmp_path)) == 3
    assert_same(read_parquet(tmp_path), concatenate([make_records([step]) for step in range(7)]))


def test_gathered_records_are_copies(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path, rows_per_part=100)
    batch = make_records([0, 1])
    sink.write(batch)
    for column in batch.values():
        column[:] = column[0]
    sink.flush()
    assert_same(read_parquet(tmp_path), make_records([0, 1]))


def test_numbering_goes_on_after_existing_parts(tmp_path: Path) -> None:
    first = ParquetSink(tmp_path)
    first.write(make_records([0]))
    first.write(make_records([1]))
    (tmp_path / "part-00000.parquet").unlink()
    (tmp_path / "part-00009.parquet.tmp").touch()
    (tmp_path / "notes.parquet").touch()
    ParquetSink(tmp_path, append=True).write(make_records([2]))
    assert "part-00002.parquet" in names_in(tmp_path)
    assert read_parquet(tmp_path)["step"].tolist() == [1, 1, 2, 2]


def test_folder_with_records_is_refused_and_left_alone(tmp_path: Path) -> None:
    ParquetSink(tmp_path).write(make_records([0]))
    with pytest.raises(
        FileExistsError,
        match=r"^folder: .*/.* holds records already \(part-00000.parquet\); append",
    ):
        ParquetSink(tmp_path)
    assert_same(read_parquet(tmp_path), make_records([0]))
    with pytest.raises(TypeError, match="append: 1 given, True or False is wanted"):
        ParquetSink(tmp_path, append=1)  # type: ignore[arg-type]


def test_folder_without_records_is_taken(tmp_path: Path) -> None:
    ParquetSink(tmp_path).close()
    (tmp_path / "part-00000.parquet.ab12cd34.tmp").touch()
    (tmp_path / "notes.txt").touch()
    ParquetSink(tmp_path).write(make_records([0]))
    assert_same(read_parquet(tmp_path), make_records([0]))


def test_parts_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path)
    sink.write(make_records([0]))
    (tmp_path / "part-00000.parquet").rename(tmp_path / "part-99999.parquet")
    ParquetSink(tmp_path, append=True).write(make_records([1]))
    assert names_in(tmp_path) == ["part-100000.parquet", "part-99999.parquet"]
    assert read_parquet(tmp_path)["step"].tolist() == [0, 0, 1, 1]


def test_relative_folder_survives_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sink = ParquetSink("elsewhere/../metrics")
    assert sink.folder == tmp_path / "metrics"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    sink.write(make_records([0]))
    assert names_in(tmp_path / "metrics") == ["part-00000.parquet"]


def test_close_saves_the_rest_and_ends_the_sink(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path, rows_per_part=1000)
    sink.write(make_records([0]))
    sink.close()
    sink.close()
    assert_same(read_parquet(tmp_path), make_records([0]))
    with pytest.raises(ValueError, match="is closed"):
        sink.write(make_records([1]))


def test_nothing_to_write_makes_no_part(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path)
    sink.write(empty())
    sink.close()
    assert names_in(tmp_path) == []
    assert_same(read_parquet(tmp_path), empty())


def test_wrong_records_are_refused_and_not_kept(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path)
    with pytest.raises(TypeError, match="column 'loss' has dtype float32"):
        sink.write({**make_records([0]), "loss": np.zeros(2, np.float32)})
    sink.close()
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(("rows", "error"), [(0, ValueError), (1.5, TypeError), (True, TypeError)])
def test_wrong_rows_per_part_is_refused(tmp_path: Path, rows: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"rows_per_part: {rows} given"):
        ParquetSink(tmp_path, rows_per_part=rows)


def test_kill_loses_nothing_that_was_written(tmp_path: Path) -> None:
    body = """
sink = ParquetSink(folder)
step = 0
while True:
    sink.write(make_records(range(step, step + 100)))
    step += 100
    print(step, flush=True)
"""
    with start_process(body, tmp_path) as process:
        assert process.stdout is not None
        written = [int(process.stdout.readline()) for _ in range(5)][-1]
        process.kill()
        # The process may have come further before the signal arrived.
        written = max([written, *map(int, process.stdout.read().split())])
    steps = read_parquet(tmp_path)["step"]
    assert process.returncode == -signal.SIGKILL
    # Whole batches in order; one more than was announced may have been finished.
    assert len(steps) in (2 * written, 2 * (written + 100))
    np.testing.assert_array_equal(steps, np.repeat(np.arange(len(steps) // 2), 2))


def test_kill_within_a_write_leaves_only_a_temporary_file(tmp_path: Path) -> None:
    body = """
sink = ParquetSink(folder)
sink.write(make_records([0]))
os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
sink.write(make_records([1]))
"""
    assert run_process(body, tmp_path) == -signal.SIGKILL
    assert len(list(tmp_path.glob("part-00001.parquet.*.tmp"))) == 1
    assert_same(read_parquet(tmp_path), make_records([0]))
    ParquetSink(tmp_path, append=True).write(make_records([1]))
    assert_same(read_parquet(tmp_path), concatenate([make_records([0]), make_records([1])]))


def test_full_disk_is_reported_and_loses_nothing(tmp_path: Path) -> None:
    # A limit on the size of files makes the system refuse the write itself, as a full disk does.
    body = """
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
sink = ParquetSink(folder)
sink.write(make_records([0, 1]))
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, unlimited[1]))
for steps in (range(2, 2000), range(2000, 2010)):
    try:
        sink.write(make_records(steps))
    except StorageError as error:
        assert isinstance(error, OSError) and error.errno == errno.EFBIG, repr(error)
        text = str(error)
        assert text.startswith(f"cannot write {folder}/part-00001.parquet: "), text
        assert "free some space" in text, text
        assert f"steps 2 to {steps[-1]} are kept in memory" in text, text
    else:
        raise AssertionError("the write did not fail")
    assert names_in(folder) == ["part-00000.parquet"]
try:
    sink.close()
except StorageError:
    pass
else:
    raise AssertionError("close did not fail")
resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
sink.close()
"""
    assert run_process(body, tmp_path) == 0
    assert names_in(tmp_path) == ["part-00000.parquet", "part-00001.parquet"]
    expected = [make_records([0, 1]), make_records(range(2, 2000)), make_records(range(2000, 2010))]
    assert_same(read_parquet(tmp_path), concatenate(expected))


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        StorageError, match=r"file/metrics: .*a file stands where a folder is wanted"
    ):
        ParquetSink(tmp_path / "file" / "metrics")
    with pytest.raises(StorageError, match=r"file: .*a file stands where a folder is wanted"):
        ParquetSink(tmp_path / "file")


def test_retry_after_the_folder_was_gone(tmp_path: Path) -> None:
    sink = ParquetSink(tmp_path / "metrics")
    sink.write(make_records([0]))
    shutil.move(tmp_path / "metrics", tmp_path / "away")
    batch = make_records([1, 2])
    with pytest.raises(StorageError, match=r"part-00001\.parquet: .*steps 1 to 2 are kept"):
        sink.write(batch)
    for column in batch.values():
        column[:] = column[0]
    with pytest.raises(StorageError, match="steps 1 to 3 are kept"):
        sink.write(make_records([3]))
    shutil.move(tmp_path / "away", tmp_path / "metrics")
    sink.write(make_records([4]))
    assert names_in(tmp_path / "metrics") == ["part-00000.parquet", "part-00001.parquet"]
    expected = [make_records(steps) for steps in ([0], [1, 2], [3], [4])]
    assert_same(read_parquet(tmp_path / "metrics"), concatenate(expected))


def test_interrupt_within_a_write_saves_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    sink = ParquetSink(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            sink.write(make_records([0]))
    assert names_in(tmp_path) == []
    sink.close()
    assert_same(read_parquet(tmp_path), make_records([0]))


def two_parts(folder: Path) -> Path:
    sink = ParquetSink(folder)
    sink.write(make_records(range(50)))
    sink.write(make_records(range(50, 100)))
    return folder / "part-00001.parquet"


@pytest.mark.parametrize("size", [0, 3, 100, 0.5, 0.99])
def test_cut_off_part_is_named(tmp_path: Path, size: float) -> None:
    part = two_parts(tmp_path)
    data = part.read_bytes()
    part.write_bytes(data[: int(size if size >= 1 else size * len(data))])
    with pytest.raises(DamagedFileError, match=r"part-00001\.parquet is damaged: .*remove it"):
        read_parquet(tmp_path)
    with pytest.raises(DamagedFileError, match=r"part-00001\.parquet is damaged"):
        truncate_parquet(tmp_path, 10)


def test_altered_bytes_are_noticed(tmp_path: Path) -> None:
    part = two_parts(tmp_path)
    expected = read_parquet(tmp_path)
    data = part.read_bytes()
    noticed = 0
    for position in range(4, len(data) - 8, len(data) // 97):
        part.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        try:
            actual = read_parquet(tmp_path)
        except DamagedFileError as error:
            noticed += str(part) in str(error)
        else:
            # The byte was one that says nothing about the values, such as a statistic.
            assert_same(actual, expected)
    assert noticed > 60


def test_missing_column_is_named(tmp_path: Path) -> None:
    part = two_parts(tmp_path)
    pq.write_table(pq.ParquetFile(part).read().drop_columns(["loss"]), part)
    with pytest.raises(DamagedFileError, match=r"part-00001\.parquet is damaged: .*\['loss'\]"):
        read_parquet(tmp_path)


@pytest.mark.parametrize("column", ["step", "site", "loss"])
def test_column_of_a_wrong_type_is_damage(tmp_path: Path, column: str) -> None:
    part = two_parts(tmp_path)
    table = pq.ParquetFile(part).read()
    wrong = pa.array([None] * 100) if column == "step" else pa.array([b"\xff"] * 100)
    index = table.column_names.index(column)
    pq.write_table(table.set_column(index, column, wrong), part)
    with pytest.raises(DamagedFileError, match=r"part-00001\.parquet is damaged"):
        read_parquet(tmp_path)


def test_parts_rewritten_by_other_tools_are_read(tmp_path: Path) -> None:
    part = two_parts(tmp_path)
    expected = read_parquet(tmp_path)
    table = pq.ParquetFile(part).read()
    with_nulls = pa.array(table["loss"].to_numpy(), from_pandas=True)
    assert with_nulls.null_count > 0
    plain_strings = table["site"].cast(pa.string())
    table = table.set_column(table.column_names.index("loss"), "loss", with_nulls)
    table = table.set_column(table.column_names.index("site"), "site", plain_strings)
    pq.write_table(table.append_column("note", plain_strings), part)
    assert_same(read_parquet(tmp_path), expected)


def test_part_that_cannot_be_opened(tmp_path: Path) -> None:
    two_parts(tmp_path)
    (tmp_path / "part-00002.parquet").mkdir()
    with pytest.raises(StorageError, match=r"part-00002\.parquet"):
        read_parquet(tmp_path)


def test_missing_folder_is_named(tmp_path: Path) -> None:
    for action in (read_parquet, lambda folder: truncate_parquet(folder, 0)):
        with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
            action(tmp_path / "nowhere")


@pytest.mark.parametrize("last_step", [-1, 0, 48, 49, 50, 98, 99, 1000])
def test_truncate_keeps_exactly_the_steps_asked_for(tmp_path: Path, last_step: int) -> None:
    two_parts(tmp_path)
    before = read_parquet(tmp_path)
    truncate_parquet(tmp_path, last_step)
    kept = before["step"] <= last_step
    assert_same(read_parquet(tmp_path), {name: column[kept] for name, column in before.items()})
    assert [name for name in names_in(tmp_path) if not name.endswith(".parquet")] == []


def test_truncate_leaves_earlier_parts_alone(tmp_path: Path) -> None:
    two_parts(tmp_path)
    before = (tmp_path / "part-00000.parquet").stat()
    truncate_parquet(tmp_path, 60)
    after = (tmp_path / "part-00000.parquet").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_run_goes_on_after_truncation(tmp_path: Path) -> None:
    two_parts(tmp_path)
    truncate_parquet(tmp_path, 29)
    ParquetSink(tmp_path, append=True).write(make_records(range(30, 60)))
    assert names_in(tmp_path) == ["part-00000.parquet", "part-00001.parquet"]
    np.testing.assert_array_equal(read_parquet(tmp_path)["step"], np.repeat(np.arange(60), 2))


def test_interrupted_truncation_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    two_parts(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(StorageError, match="No space left"):
            truncate_parquet(tmp_path, 29)
    np.testing.assert_array_equal(read_parquet(tmp_path)["step"], np.repeat(np.arange(50), 2))
    truncate_parquet(tmp_path, 29)
    np.testing.assert_array_equal(read_parquet(tmp_path)["step"], np.repeat(np.arange(30), 2))


def test_importing_the_sinks_loads_no_extra() -> None:
    body = """
import sys
import tfc_fast.sinks, tfc_fast.run_directory
loaded = {"pyarrow", "pandas", "tensorboard", "matplotlib"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", body], check=True, timeout=60)


def test_missing_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'tfc_fast\[train\]'"):
        ParquetSink(tmp_path)
