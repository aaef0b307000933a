"""Training many runs side by side; what is there already is not trained again.

joblib runs them, and whoever wants Dask or Ray chooses that back end. With Dask:

    import joblib
    from dask.distributed import Client
    from tfc_fast.reproduce import reproduce

    client = Client(n_workers=2, threads_per_worker=1)  # or the address of a cluster
    with joblib.parallel_config("dask"):
        reproduce(["depth", "momentum"], "runs/reproduce")

All workers must see the folder and the files of the data. Every run trains with one thread, so that
its numbers do not depend on how many there are, nor on where they are trained. A worker that dies
(killed for its memory, say) costs its runs, which go on from their checkpoints.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor
from pathlib import Path

import joblib
from tqdm import tqdm

from tfc_fast.reproduce.job import Job, check_settings, on_other_data, steps_done
from tfc_fast.reproduce.observation import OBSERVERS, train_observed
from tfc_fast.run_directory import RunDirectory
from tfc_fast.trainer import Trainer
from tfc_fast.trainer.past import past_of

__all__ = ["train_all"]

_ATTEMPTS = 3
"""How often workers may die before a run has finished."""


def train_all(
    jobs: Sequence[Job], folder: Path, *, workers: int | None = None, progress: bool = True
) -> list[RunDirectory]:
    """Train all runs, each in a folder of its own below `folder`.

    A run that is there with as many steps or more is left alone, whether it came to its own end or
    not; one that is shorter goes on from its checkpoint, or starts anew if it has an observer. So
    an interrupted sweep goes on when it is called again.

    Args:
        jobs: The runs; those that are alike are trained once, with the most steps.
        folder: Where they go.
        workers: Runs at a time; None: the `n_jobs` of `joblib.parallel_config` if it is another
            than 1, which joblib cannot tell from none, else as many as there are processors.
        progress: Whether a progress bar is shown, if standard error is a terminal.

    Returns:
        The run of each job.

    Raises:
        ImportError, OSError, TypeError, ValueError: A run cannot be trained: nothing is then.
        ValueError: A folder holds a run with other settings, or on other data than those that are
            missing would be trained on.
        KeyboardInterrupt: A run was interrupted.
        RuntimeError: Workers died again and again.
    """
    longest: dict[str, Job] = {}
    for job in jobs:
        if job.name not in longest or longest[job.name].steps < job.steps:
            longest[job.name] = job
    _check(list(longest.values()), folder)
    bar = tqdm(total=len(longest), desc="runs", unit="run", disable=None if progress else True)
    deaths = 0
    with bar:
        while True:
            missing = [job for job in longest.values() if steps_done(job, folder) < job.steps]
            # The longest first: none of them shall be alone at the end.
            missing.sort(key=lambda job: -job.steps * int(job.changes.get("depth", 7)))
            bar.n = len(longest) - len(missing)
            bar.refresh()
            try:
                for _ in _finished(missing, folder, workers):
                    deaths = 0
                    bar.update()
                break
            except Exception as error:
                if not _is_lost_worker(error):
                    raise
                deaths += 1
                if deaths == _ATTEMPTS:
                    raise RuntimeError(
                        f"workers died {deaths} times, and no run was finished between; what has "
                        "been trained is kept, so the same call goes on. Is there memory for as "
                        f"many runs at a time? Fewer are trained with workers= ({error})"
                    ) from error
                warnings.warn(
                    f"a worker died ({type(error).__name__}); its runs go on from their "
                    "checkpoints",
                    RuntimeWarning,
                    stacklevel=2,
                )
    return [job.run(folder) for job in jobs]


def _check(jobs: Sequence[Job], folder: Path) -> None:
    """Make sure, before anything is trained, that all can be, and that it belongs to what is there.

    Raises:
        ImportError, OSError, TypeError, ValueError: As by `train_all`.
    """
    for job in jobs:
        check_settings(job, folder)
    missing = [job for job in jobs if steps_done(job, folder) < job.steps]
    # What is there to its end needs no data, which may be gone by now.
    if not missing:
        return
    # Of those that differ in the seed only, one speaks for all.
    for job in {_without_seed(job): job for job in missing}.values():
        # The workers may have another device.
        config = dataclasses.replace(job.config(folder), device="cpu")
        trainer = Trainer(config, progress=False, overwrite=True)
        if job.observer is not None:
            OBSERVERS[job.observer](trainer.model, config).close()
    others = on_other_data(jobs, folder)
    if others:
        raise ValueError(
            f"dataset: {others[0].path} was trained on other data than the settings load now; give "
            "another folder, or bring its data back"
        )


def _without_seed(job: Job) -> str:
    return Job({**job.changes, "seed": 0}, job.steps, job.observer).name


def _finished(jobs: Sequence[Job], folder: Path, workers: int | None) -> Iterator[None]:
    """Trains all, and says of each that it has finished."""
    backend, chosen = joblib.parallel.get_active_backend()
    parallel = joblib.Parallel(
        # 1 is what joblib says where nobody has chosen.
        n_jobs=workers or (chosen if chosen != 1 else -1),
        return_as="generator_unordered" if backend.supports_return_generator else "list",
    )
    for finished in parallel(joblib.delayed(_train)(job, str(folder)) for job in jobs):
        if not finished:
            raise KeyboardInterrupt
        yield


def _is_lost_worker(error: Exception) -> bool:
    """Whether a back end says that a process that trained is gone."""
    # Of Dask, which has tried again by itself several times then; it need not be installed.
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker"


def _train(job: Job, folder: str) -> bool:
    """Train one run to its end; False if it was interrupted."""
    config = job.config(Path(folder))
    if job.observer is not None:
        return train_observed(config, job.observer)
    run = RunDirectory(config.run_path)
    if run.config_path.is_file():
        # A run that was killed may have a checkpoint beyond the steps that are wanted now.
        steps = max(job.steps, past_of(run.path, {}).step)
        trainer = Trainer.resume(run.path, progress=False, steps=steps)
    else:
        trainer = Trainer(config, progress=False)
    return not trainer.fit().interrupted
