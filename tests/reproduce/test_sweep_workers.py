"""Sweeps on workers that others provide, and on workers that die."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import joblib
import psutil
import pytest

from tfc_fast.reproduce import Job, sweep, train_all
from tfc_fast.run_directory import RunDirectory

SMALL = {"dataset": "gaussian", "samples": 80, "dim": 6, "depth": 3, "width": 8, "batch_size": 20}
TRAINS_A_WHILE = 1500  # steps; about a second


def jobs(steps: int = TRAINS_A_WHILE) -> list[Job]:
    return [Job({**SMALL, "seed": seed, "checkpoint_every": 100}, steps) for seed in range(4)]


def losses(runs: list[RunDirectory]) -> list[list[float]]:
    return [run.read_train()["loss"].tolist() for run in runs]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[list[float]]:
    """What the runs are when nothing happens to them, by joblib's default back end."""
    return losses(train_all(jobs(), tmp_path_factory.mktemp("whole"), workers=2, progress=False))


@pytest.fixture
def dask_workers(tmp_path: Path) -> Iterator[Callable[[], list[int]]]:
    """A local cluster of two workers as joblib's back end; tells their processes."""
    distributed = pytest.importorskip("distributed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Dask's own, about ports and deprecations
        cluster = distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=str(tmp_path / "dask"),
            silence_logs="CRITICAL",
        )
        with cluster, distributed.Client(cluster) as client, joblib.parallel_config("dask"):
            yield lambda: list(client.run(os.getpid).values())


@contextlib.contextmanager
def one_is_killed(folder: Path, workers: Callable[[], list[int]]) -> Iterator[list[int]]:
    """Kills a worker as soon as a run has its first checkpoint; gives the list of those killed."""
    killed: list[int] = []
    over = threading.Event()

    def kill() -> None:
        while not over.is_set():
            if any(folder.glob("*/checkpoint.pt")):
                killed.append(workers()[0])
                os.kill(killed[0], signal.SIGKILL)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def loky_workers() -> list[int]:
    children = psutil.Process().children(recursive=True)
    return [child.pid for child in children if "LokyProcess" in " ".join(child.cmdline())]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("dies", [False, True])
def test_a_cluster_of_dask(
    tmp_path: Path,
    dask_workers: Callable[[], list[int]],
    expected: list[list[float]],
    dies: bool,
) -> None:
    before = dask_workers()
    folder = tmp_path / "sweep"
    killing = one_is_killed(folder, lambda: before) if dies else contextlib.nullcontext([])
    with killing as killed:
        runs = train_all(jobs(), folder, progress=False)
    assert losses(runs) == expected
    assert (set(dask_workers()) != set(before)) == dies == bool(killed)


def test_a_worker_that_dies_costs_a_retry(tmp_path: Path, expected: list[list[float]]) -> None:
    with (
        pytest.warns(RuntimeWarning, match=r"a worker died \(TerminatedWorkerError\)"),
        one_is_killed(tmp_path, loky_workers) as killed,
    ):
        runs = train_all(jobs(), tmp_path, workers=2, progress=False)
    assert len(killed) == 1
    assert losses(runs) == expected


def test_workers_that_die_again_and_again_end_the_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_train", _die)
    with (
        pytest.warns(RuntimeWarning, match="a worker died"),
        pytest.raises(
            RuntimeError,
            match="workers died 3 times, and no run was finished between; what has been",
        ),
    ):
        train_all(jobs(5), tmp_path, workers=2, progress=False)


def _die(job: Job, folder: str) -> bool:
    os.kill(os.getpid(), signal.SIGKILL)
    return True
