from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfc_fast.files import DamagedFileError, StorageError, atomic_write, make_writable_folder
from tfc_fast.records import empty
from tfc_fast.run_directory import TRAIN_COLUMNS, RunDirectory
from tfc_fast.sinks import ParquetSink


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "runs" / "first").create()
    run.write_json(run.config_path, {"depth": 7})
    return run


def make_log(steps: int) -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(steps)
    log: dict[str, np.ndarray[Any, Any]] = {name: rng.random(steps) for name in TRAIN_COLUMNS}
    log["step"] = np.arange(steps)
    return log


def test_places(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.path == tmp_path
    assert run.config_path == tmp_path / "config.json"
    assert run.metrics_folder == tmp_path / "metrics"
    assert run.train_path == tmp_path / "train.parquet"
    assert run.summary_path == tmp_path / "summary.json"
    assert run.report_path == tmp_path / "report.html"
    assert run.figures_folder == tmp_path / "figures"
    assert run.checkpoint_path == tmp_path / "checkpoint.pt"
    assert list(tmp_path.iterdir()) == []


def test_relative_path_survives_a_change_of_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = RunDirectory("first").create()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run.write_json(run.config_path, {"depth": 7})
    assert (tmp_path / "first" / "config.json").is_file()


def test_create_twice_keeps_what_is_there(run: RunDirectory) -> None:
    run.create()
    assert run.read_json("config.json") == {"depth": 7}
    assert [path.name for path in run.path.iterdir()] == ["config.json"]


def test_create_where_no_folder_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/run: .*a file stands where a folder is wanted"):
        RunDirectory(tmp_path / "file" / "run").create()
    with pytest.raises(StorageError, match="a file stands where a folder is wanted"):
        RunDirectory(tmp_path / "file").create()


@pytest.mark.parametrize(
    "read",
    [
        RunDirectory.check,
        RunDirectory.read_train,
        RunDirectory.read_metrics,
        lambda run: run.read_json(run.summary_path),
    ],
)
def test_folder_that_is_no_run(tmp_path: Path, read: Callable[[RunDirectory], object]) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(
            FileNotFoundError,
            match=r"is not a run directory: config\.json is missing; start one with tfc-fast train",
        ):
            read(RunDirectory(path))


def test_check_accepts_a_run(run: RunDirectory) -> None:
    run.check()


def test_json_round_trip(run: RunDirectory) -> None:
    summary = {"verdict": "stuck", "first_phase_end": None, "shape": [1, 8], "loss": {"final": 0.5}}
    run.write_json(run.summary_path, summary)
    assert run.read_json(run.summary_path) == summary
    run.write_json(run.summary_path, {"verdict": "größer"})
    assert run.read_json("summary.json") == {"verdict": "größer"}


def test_json_of_numpy_and_paths(run: RunDirectory) -> None:
    value = {
        "step": np.int64(3),
        "loss": np.float32(0.5),
        "flag": np.bool_(True),
        "shape": (1, 8),
        "curve": np.arange(3),
        "folder": Path("data/mnist"),
    }
    run.write_json(run.summary_path, value)
    assert run.read_json(run.summary_path) == {
        "step": 3,
        "loss": 0.5,
        "flag": True,
        "shape": [1, 8],
        "curve": [0, 1, 2],
        "folder": "data/mnist",
    }


def test_json_stores_what_is_no_number_as_null(run: RunDirectory) -> None:
    run.write_json(
        run.summary_path, {"a": float("nan"), "b": [np.float32(np.inf)], "c": np.array([np.nan])}
    )

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = run.summary_path.read_text()
    assert json.loads(text, parse_constant=refuse) == {"a": None, "b": [None], "c": [None]}


def test_json_names_the_value_without_a_form(run: RunDirectory) -> None:
    with pytest.raises(TypeError, match=r"value\['model'\]\[1\]: a object has no JSON form"):
        run.write_json(run.config_path, {"model": [1, object()]})
    assert run.read_json(run.config_path) == {"depth": 7}


@pytest.mark.parametrize("content", [b"", b'{"depth": 7', b"[1]", b"\xff\xfe\xff"])
def test_damaged_json_is_named(run: RunDirectory, content: bytes) -> None:
    run.config_path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"config\.json is damaged"):
        run.read_json(run.config_path)


def test_missing_summary_is_named(run: RunDirectory) -> None:
    with pytest.raises(FileNotFoundError, match=r"summary\.json is missing"):
        run.read_json(run.summary_path)


def test_train_log_round_trip(run: RunDirectory) -> None:
    log = make_log(500)
    log["accuracy"][::7] = np.nan
    run.write_train(make_log(3))
    run.write_train(log)
    read = run.read_train()
    assert tuple(read) == TRAIN_COLUMNS
    for name in TRAIN_COLUMNS:
        np.testing.assert_array_equal(read[name], log[name])
        assert read[name].dtype == (np.int64 if name == "step" else np.float64)
        assert read[name].flags.writeable


def test_train_log_types_on_disk(run: RunDirectory) -> None:
    # Lists and narrower numbers, as a training loop has them.
    run.write_train({"step": [0, 1], **{name: [0.5, 1] for name in TRAIN_COLUMNS[1:]}})
    schema = pq.ParquetFile(run.train_path).schema_arrow
    assert tuple(schema.names) == TRAIN_COLUMNS
    assert schema.types == [pa.int64(), *[pa.float64()] * 4]


def test_wrong_train_log_is_refused(run: RunDirectory) -> None:
    log = make_log(3)
    with pytest.raises(ValueError, match=r"columns \['accuracy', 'loss'"):
        run.write_train({name: log[name] for name in TRAIN_COLUMNS if name != "lr"})
    with pytest.raises(ValueError, match=r"'lr': \(2,\).* 1-D columns of one length wanted"):
        run.write_train({**log, "lr": log["lr"][:2]})
    with pytest.raises(ValueError, match="1-D columns of one length wanted"):
        run.write_train({name: column[:, None] for name, column in log.items()})
    assert not run.train_path.exists()


def test_damaged_train_log_is_named(run: RunDirectory) -> None:
    run.write_train(make_log(500))
    run.train_path.write_bytes(run.train_path.read_bytes()[:-100])
    with pytest.raises(DamagedFileError, match=r"train\.parquet is damaged"):
        run.read_train()


def test_run_killed_before_its_first_save_is_empty(run: RunDirectory) -> None:
    assert {name: len(column) for name, column in run.read_train().items()} == dict.fromkeys(
        TRAIN_COLUMNS, 0
    )
    assert len(run.read_metrics()["step"]) == 0
    ParquetSink(run.metrics_folder)
    assert len(run.read_metrics()["step"]) == 0


def test_metrics_are_read_from_the_parts(run: RunDirectory) -> None:
    records = {
        name: np.array(["a", "b"]) if name == "site" else np.arange(2, dtype=column.dtype)
        for name, column in empty().items()
    }
    sink = ParquetSink(run.metrics_folder)
    sink.write(records)
    sink.close()
    read = run.read_metrics()
    for name, column in records.items():
        np.testing.assert_array_equal(read[name], column)


# --- tfc_fast.files, on which all of the above stands


def test_atomic_write_replaces_only_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"

    atomic_write(path, write)
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_atomic_write_passes_on_the_error_of_the_writer(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def write(file: BinaryIO) -> None:
        file.write(b"new")
        raise error

    with pytest.raises(error):
        atomic_write(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_file_has_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        atomic_write(tmp_path / "a.bin", lambda file: file.write(b"new"))
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o644


def test_full_disk_is_a_storage_error_also_for_torch_save(tmp_path: Path) -> None:
    # torch.save reports a failed write as a RuntimeError about positions in the file.
    body = f"""
import errno, resource, signal, torch
from pathlib import Path
from tfc_fast.files import StorageError, atomic_write
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path({str(tmp_path)!r}, "checkpoint.pt")
path.write_bytes(b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
for write in (
    lambda file: torch.save(torch.zeros(100_000), file),
    lambda file: file.write(bytes(1_000_000)),
    lambda file: [file.write(b"x") for _ in range(30_000)],
):
    try:
        atomic_write(path, write)
    except StorageError as error:
        assert error.errno == errno.EFBIG, error
        assert str(error).startswith(f"cannot write {{path}}: "), error
    else:
        raise AssertionError("the write did not fail")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]
"""
    subprocess.run([sys.executable, "-c", body], check=True, timeout=60)


@pytest.mark.parametrize("folder", ["/proc", "/proc/no/folder"])
def test_where_the_system_makes_no_folders(folder: str) -> None:
    with pytest.raises(StorageError) as caught:
        make_writable_folder(folder)
    assert str(caught.value).startswith(f"cannot write in folder {folder}: the system makes no ")
    assert str(caught.value).endswith("; choose another folder")
    assert caught.value.errno == errno.ENOENT


def test_atomic_write_in_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"nowhere/a\.bin: .*; its folder is missing: make it"):
        atomic_write(tmp_path / "nowhere" / "a.bin", lambda file: file.write(b"new"))
