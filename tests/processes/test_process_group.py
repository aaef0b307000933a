"""Probes of several processes record what one process with the rows of all would."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from process_scenarios import OF_FOUR, SCENARIOS, STEPS, group_of_one, take_steps
from torch import nn

from tfc_fast import Probe
from tfc_fast.records import COLUMNS, COUNT_COLUMNS
from tfc_fast.trainer import TrainConfig, Trainer

HERE = Path(__file__).parent
# By the ops for CUDA, if this process runs these.
EMULATED = "cuda_emulation.use_emulated_extension" in sys.modules
WORKER = HERE.parent / "cuda_emulation" / "emulated_worker.py" if EMULATED else HERE / "worker.py"
PATH = os.pathsep.join([str(HERE.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])

Runs = Callable[[int], Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The folder with the records of so many processes, launched by torchrun when asked for."""
    done: dict[int, tuple[Path, subprocess.CompletedProcess[str]]] = {}

    def run(processes: int) -> Path:
        if processes not in done:
            folder = tmp_path_factory.mktemp(f"processes-{processes}")
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            done[processes] = (
                folder,
                subprocess.run(
                    [*command, f"--nproc-per-node={processes}", WORKER, folder],
                    env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATH},
                    capture_output=True,
                    text=True,
                    timeout=300,
                ),
            )
        folder, process = done[processes]
        assert process.returncode == 0, process.stdout + process.stderr
        return folder

    return run


@pytest.mark.parametrize(
    ("name", "processes"), [*((name, 2) for name in SCENARIOS), *((name, 4) for name in OF_FOUR)]
)
def test_records_are_of_the_rows_of_all_processes(name: str, processes: int, runs: Runs) -> None:
    folder = runs(processes)
    scenario = SCENARIOS[name]
    _, expected = take_steps(scenario, scenario.build(), range(processes), processes)
    of_rank: list[Any] = [
        np.load(folder / f"{name}-{rank}.npz", allow_pickle=False) for rank in range(processes)
    ]
    assert len(expected["step"]) >= STEPS // 2
    for column in COLUMNS:
        for records in of_rank[1:]:
            np.testing.assert_array_equal(records[column], of_rank[0][column], err_msg=column)
        found = of_rank[0][column]
        if column == "site":
            sites = [site.removeprefix("module.") for site in found.tolist()]
            assert sites == expected["site"].tolist()
        elif column == "step" or column in COUNT_COLUMNS:
            np.testing.assert_array_equal(found, expected[column], err_msg=column)
        else:
            np.testing.assert_allclose(
                found, expected[column], rtol=1e-11, atol=1e-13, equal_nan=True, err_msg=column
            )
    assert [int(records["written"]) for records in of_rank] == [len(expected["step"])] + [0] * (
        processes - 1
    )


@pytest.mark.parametrize("processes", [2, 4])
def test_training_is_untouched(processes: int, runs: Runs) -> None:
    folder = runs(processes)
    assert [(folder / f"untouched-{rank}").read_text() for rank in range(processes)] == [
        "True"
    ] * processes


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            "dies",
            "process 0 of 2 waited in vain for the others to close step 3. Has one of them died",
        ),
        ("leaves out a step", "process 0 of 2 waited in vain for the others to close step 3."),
        (
            "leaves out a step under DDP",
            "process 0 of 2 waited in vain for the others to close step 3.",
        ),
        (
            "is at another step",
            "process 0 is at step 1, but others of the group are at steps 1 to 8",
        ),
        ("has another site", "the processes of the group have not seen the same sites"),
    ],
)
def test_what_one_process_does_wrong_ends_the_others(
    how: str, message: str, tmp_path: Path
) -> None:
    command = [sys.executable, HERE / "failing.py", tmp_path]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with (
        subprocess.Popen([*command, "1", how], env=env, stderr=subprocess.DEVNULL) as other,
        subprocess.Popen([*command, "0", how], env=env, stderr=subprocess.PIPE, text=True) as first,
    ):
        # Importing torch takes longer than waiting for the other process.
        _, errors = first.communicate(timeout=120)
        other.kill()
    assert first.returncode == 1
    assert f"Probe.step: {message}" in errors


def test_one_process_alone(process_group: Any) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    x, y = torch.randn(9, 4), torch.arange(9) % 2
    histories = []
    for group in (None, process_group):
        with Probe(model, num_classes=2, process_group=group) as probe:
            probe.batch(labels=y)
            loss = model(x).square().mean()
            loss.backward()
            probe.step(loss=loss)
        assert probe.overhead().steps == 0
        histories.append(probe.history())
    for column in COLUMNS[2:]:
        np.testing.assert_allclose(histories[1][column], histories[0][column], rtol=1e-6)


def test_a_loss_of_several_numbers(process_group: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    with Probe(model, process_group=process_group) as probe:
        loss = model(torch.ones(3, 4)).sum(1)
        loss.sum().backward()
        with pytest.raises(ValueError, match="loss: wanted one number, got shape"):
            probe.step(loss=loss)
        probe.step(loss=loss.mean())
    assert probe.history()["n_rows"].tolist() == [3]


def test_a_trainer_refuses_a_budget_before_it_removes_a_run(
    process_group: Any, tmp_path: Path
) -> None:
    small: dict[str, Any] = {"dataset": "gaussian", "samples": 80, "dim": 6, "depth": 2, "steps": 3}
    config = TrainConfig(**small, width=8, batch_size=20, out=str(tmp_path / "run"))
    run = Trainer(config, progress=False).fit().run_directory
    thinned = dataclasses.replace(config, budget=0.1)
    with pytest.raises(ValueError, match="budget: each process would thin itself"):
        Trainer(thinned, overwrite=True, process_group=process_group)
    assert len(run.read_train()["step"]) == 3


def test_wrong_arguments(process_group: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU())
    for arguments, error, message in (
        ({"process_group": "gloo"}, TypeError, "process_group: wanted a process group .* got str"),
        ({"group_timeout": "1 s"}, TypeError, "group_timeout: wanted seconds, got str"),
        ({"group_timeout": 0}, ValueError, "group_timeout: wanted more than 0 seconds, got 0"),
        ({"budget": 0.01}, ValueError, "budget: .* with process_group give every= instead"),
    ):
        with pytest.raises(error, match=message):
            Probe(model, **({"process_group": process_group} | arguments))


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[Any]:
    with group_of_one(tmp_path) as group:
        yield group
