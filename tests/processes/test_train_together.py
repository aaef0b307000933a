"""A trainer of several processes: the run of one process with the whole batch, in one folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from train_together import STEPS, settings

from tfc_fast.records import COLUMNS, COUNT_COLUMNS
from tfc_fast.run_directory import RunDirectory
from tfc_fast.trainer import Trainer

HERE = Path(__file__).parent


@pytest.fixture(scope="module", params=[2, 3])
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder, and the results of each process."""
    folder = tmp_path_factory.mktemp("together")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, f"--nproc-per-node={request.param}", HERE.parent / "train_together.py", folder],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results = [
        json.loads((folder / f"results-{rank}.json").read_text()) for rank in range(request.param)
    ]
    return folder, results


def test_the_run_is_that_of_one_process(runs: Any, tmp_path: Path) -> None:
    folder, results = runs
    one = Trainer(settings(tmp_path / "one")).fit()
    together, alone = RunDirectory(folder / "whole"), one.run_directory
    log, expected_log = together.read_train(), alone.read_train()
    for name in ("step", "loss", "accuracy", "lr"):
        np.testing.assert_allclose(log[name], expected_log[name], rtol=1e-4, err_msg=name)
    records, expected = together.read_metrics(), alone.read_metrics()
    assert records["site"].tolist() == expected["site"].tolist()
    for name in COLUMNS:
        if name in COUNT_COLUMNS or name == "step":
            np.testing.assert_array_equal(records[name], expected[name], err_msg=name)
        elif name != "site":
            np.testing.assert_allclose(
                records[name], expected[name], rtol=2e-3, atol=1e-4, equal_nan=True, err_msg=name
            )
    assert all(result == results[0] for result in results)
    assert results[0]["whole"]["verdict"] == one.phases.verdict
    assert results[0]["whole"]["folder"] == "whole"


def test_a_resumed_run_goes_on_with_the_same_bits(runs: Any) -> None:
    folder, results = runs
    whole, parts = results[0]["whole"], results[0]["parts"]
    assert parts["steps"] == whole["steps"] == STEPS
    if len(results) == 2:  # more numbers than two are added up in an order that DDP may change
        assert parts["weights"] == whole["weights"]
    np.testing.assert_allclose(parts["weights"], whole["weights"], rtol=1e-4, atol=1e-6)
    log, expected = (RunDirectory(folder / name).read_train() for name in ("parts", "whole"))
    np.testing.assert_array_equal(log["step"], expected["step"])
    np.testing.assert_allclose(log["loss"], expected["loss"], rtol=1e-4)


def test_a_signal_for_one_process_stops_all(runs: Any) -> None:
    _, results = runs
    for result in results:
        assert result["stops"]["steps"] == 7
        assert result["stops"]["stopped_by"] == "SIGTERM"


def test_fewer_samples_than_processes(runs: Any) -> None:
    folder, results = runs
    for rank in range(len(results)):
        assert (folder / f"error-{rank}").read_text() == (
            f"batch_size: 1 given, but {len(results)} processes share each batch; raise "
            "batch_size, or start fewer"
        )


def test_what_is_no_process_group(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"process_group: wanted a process group .* got str"):
        Trainer(settings(tmp_path), process_group="gloo")  # type: ignore[arg-type]


def test_the_command_line_under_torchrun(tmp_path: Path) -> None:
    options = "train --dataset gaussian --samples 200 --dim 16 --depth 3 --width 16 --steps 5"
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launch, "-m", "tfc_fast", *options.split(), "--out", "run"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("training in run") == 1
    assert done.stdout.count("look at it with: tfc-fast report run") == 1
    assert len(RunDirectory(tmp_path / "run").read_train()["step"]) == 5


def test_the_module_is_the_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tfc_fast", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("tfc-fast ")
