from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tfc_fast.files import StorageError
from tfc_fast.records import COUNT_COLUMNS, VALUE_COLUMNS, Records, empty
from tfc_fast.sinks import TensorBoardSink


def make_records(first: int, last: int) -> Records:
    rng = np.random.default_rng(first)
    steps = np.repeat(np.arange(first, last), 2)
    records: Records = {name: rng.random(len(steps)) for name in VALUE_COLUMNS}
    records |= {name: rng.integers(0, 100, len(steps)) for name in COUNT_COLUMNS}
    records["step"] = steps
    records["site"] = np.tile(np.array(["hidden.0.relu", "hidden.1.relu#1"]), last - first)
    return records


def curves_in(log_dir: Path) -> dict[str, list[tuple[int, float]]]:
    # By name: the package has no types.
    reader = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(log_dir), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_curves_are_the_records(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path / "logs")
    batches = [make_records(0, 30), make_records(30, 31)]
    for batch in batches:
        sink.write(batch)
    sink.close()
    curves = curves_in(tmp_path / "logs")
    sites = ["hidden.0.relu", "hidden.1.relu#1"]
    assert set(curves) == {f"tfc/{column}/{site}" for column in VALUE_COLUMNS for site in sites}
    for column in VALUE_COLUMNS:
        for index, site in enumerate(sites):
            expected = np.concatenate([batch[column][index::2] for batch in batches])
            curve = curves[f"tfc/{column}/{site}"]
            assert curve == list(enumerate(np.asarray(expected, np.float32).tolist())), (
                column,
                site,
            )


def test_nan_is_left_out_and_infinity_is_shown(tmp_path: Path) -> None:
    records = make_records(0, 3)
    records["loss"][:] = [np.nan, 1.0, 2.0, 3.0, np.inf, 5.0]
    records["grad_cos_all"][:] = np.nan
    sink = TensorBoardSink(tmp_path)
    sink.write(records)
    sink.close()
    curves = curves_in(tmp_path)
    assert curves["tfc/loss/hidden.0.relu"] == [(1, 2.0), (2, np.inf)]
    assert curves["tfc/loss/hidden.1.relu#1"] == [(0, 1.0), (1, 3.0), (2, 5.0)]
    assert not any("grad_cos_all" in tag for tag in curves)


def test_flush_makes_curves_readable(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    sink.write(empty())
    sink.write(make_records(0, 5))
    sink.flush()
    assert len(curves_in(tmp_path)["tfc/loss/hidden.0.relu"]) == 5
    sink.close()


def test_close_ends_the_sink(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    sink.close()
    sink.close()
    sink.flush()
    with pytest.raises(ValueError, match="is closed"):
        sink.write(make_records(0, 1))


def test_purge_step_hides_what_a_resumed_run_repeats(tmp_path: Path) -> None:
    first = TensorBoardSink(tmp_path)
    first.write(make_records(0, 10))
    first.close()
    second = TensorBoardSink(tmp_path, purge_step=4)
    second.write(make_records(4, 6))
    second.close()
    curve = curves_in(tmp_path)["tfc/loss/hidden.0.relu"]
    expected = [*make_records(0, 10)["loss"][0:8:2], *make_records(4, 6)["loss"][::2]]
    assert curve == list(enumerate(np.asarray(expected, np.float32).tolist()))


def test_wrong_records_are_refused(tmp_path: Path) -> None:
    sink = TensorBoardSink(tmp_path)
    with pytest.raises(ValueError, match="column 'loss' has 1 rows"):
        sink.write({**make_records(0, 1), "loss": np.zeros(1)})
    sink.close()


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/logs: .*a file stands where a folder is wanted"):
        TensorBoardSink(tmp_path / "file" / "logs")


def test_full_disk_is_reported(tmp_path: Path) -> None:
    body = f"""
import resource, signal, sys, threading
sys.path.insert(0, {str(Path(__file__).parent)!r})
from {Path(__file__).stem} import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
# The thread that writes events prints its error; here the sink is to report it.
threading.excepthook = lambda _: None
sink = TensorBoardSink({str(tmp_path)!r})
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))
try:
    sink.write(make_records(0, 200))
    sink.flush()
except StorageError as error:
    assert str(error).startswith("cannot write events in {tmp_path}: "), error
else:
    raise AssertionError("nothing was reported")
"""
    subprocess.run([sys.executable, "-c", body], check=True, timeout=120)


def test_missing_tensorboard_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'tfc_fast\[tensorboard\]'"):
        TensorBoardSink(tmp_path)
