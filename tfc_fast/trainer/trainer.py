"""The trainer: settings in, a run directory out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from tfc_fast.data import Dataset
from tfc_fast.environment import checked_device, thread_count
from tfc_fast.phases import PhaseSummary
from tfc_fast.records import Sink
from tfc_fast.run_directory import RunDirectory
from tfc_fast.trainer.batches import Batches
from tfc_fast.trainer.config import TrainConfig
from tfc_fast.trainer.interrupt import StopRequest
from tfc_fast.trainer.live import LiveView
from tfc_fast.trainer.network import new_network
from tfc_fast.trainer.objective import chance_loss
from tfc_fast.trainer.past import Past, description, past_of
from tfc_fast.trainer.progress import ProgressBar
from tfc_fast.trainer.ranks import Ranks
from tfc_fast.trainer.replaced import drop, put_back, recover, recover_locked, set_aside
from tfc_fast.trainer.samples import named_config, training_samples
from tfc_fast.trainer.session import Session
from tfc_fast.trainer.store import claim, locked, rewind
from tfc_fast.trainer.summary import summarize

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["TrainResult", "Trainer"]


@dataclasses.dataclass(frozen=True)
class TrainResult:
    """What came of a run.

    Args:
        summary: What `summary.json` holds; see `tfc_fast.trainer.summary.summarize`.
        phases: The phase analysis, as `tfc_fast.phases.describe` wants it.
        run_directory: The files of the run.
        model: The trained model, without its probe.
        steps: Steps done, those before a resume included.
        stopped_by: What ended the run early, else None: the name of a signal, or an event of
            `stop_on`.
        interrupted: Whether that was a signal.
    """

    summary: dict[str, Any]
    phases: PhaseSummary
    run_directory: RunDirectory
    model: nn.Module
    steps: int
    stopped_by: str | None
    interrupted: bool


class Trainer:
    """Trains a model with the settings of a `TrainConfig`, the probe on at every step.

    The folder of the run always holds what is needed to go on: settings at once, records and log as
    they come, checkpoints. Ctrl-C or SIGTERM ends a run after its current step. `fit` seeds torch's
    global generators from the settings.

    Args:
        config: The settings; the defaults of `TrainConfig` if not given.
        model: A model of your own, `[n, ...]` to `[n, num_classes]`; it is moved to the device of
            the settings and trained in place. Without one, the network that the settings name.
        dataset: Data of your own: a `Dataset`, or inputs (floating point, `[n, ...]`) and labels
            (int64 `[n]`). Without them, the data set that the settings name.
        sinks: Where records go beside the folder of the run; closed at its end.
        progress: Whether a progress bar is shown, if standard error is a terminal.
        live: Whether, in place of the bar, loss, similarities by site and phase are shown there,
            drawn from the drained records on a thread of their own.
        overwrite: Whether a run in the folder is replaced. Its files are removed when the new run
            has done its first step; if it comes to none, they are where they were.
        process_group: Process group of torch.distributed whose processes train together, each with
            a trainer like this one: the model under DDP, on an equal share of each batch of
            `batch_size` samples. Records and log are of the whole batch; the first process writes
            them. On the CPU only. Batch norm sees the share of its process.

    Raises:
        ImportError: The data set needs a package that is not installed.
        OSError: A file of the data set is missing, or the folder holds a run.
        TypeError, ValueError: An argument does not fit; the message says which.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     config = TrainConfig(
        ...         dataset="gaussian", samples=200, dim=16, depth=3, width=32, steps=20, out=folder
        ...     )
        ...     result = Trainer(config).fit()
        ...     result.steps, result.summary["verdict"]
        (20, 'undecided')
    """

    _trained = False
    _stands_aside = False  # an earlier run

    def __init__(
        self,
        config: TrainConfig | None = None,
        *,
        model: nn.Module | None = None,
        dataset: Dataset | tuple[torch.Tensor, torch.Tensor] | None = None,
        sinks: Iterable[Sink] = (),
        progress: bool = True,
        live: bool = False,
        overwrite: bool = False,
        process_group: ProcessGroup | None = None,
    ) -> None:
        config = named_config(TrainConfig() if config is None else config, dataset)
        ranks = Ranks(process_group)
        run = RunDirectory(config.run_path)
        if ranks.leads:
            recover_locked(run)
            if not overwrite:
                claim(run)
        self._set_up(config, run, model, dataset, sinks, progress, live, ranks)
        self._overwrite = overwrite

    @classmethod
    def resume(
        cls,
        path: str | os.PathLike[str],
        *,
        model: nn.Module | None = None,
        dataset: Dataset | tuple[torch.Tensor, torch.Tensor] | None = None,
        sinks: Iterable[Sink] = (),
        progress: bool = True,
        live: bool = False,
        process_group: ProcessGroup | None = None,
        **changes: Any,
    ) -> Trainer:
        """Return a trainer that goes on with a run, bitwise as if it had never stopped.

        `fit` starts from the checkpoint; records and log beyond it are dropped and made again.
        Without a checkpoint (the run was killed at its very start) it starts from step 1.

        Args:
            path: Folder of the run.
            model: As for `Trainer`; wanted if the run was started with one.
            dataset: As for `Trainer`; wanted if the run was started with one.
            sinks: As for `Trainer`; they get the records after the checkpoint.
            progress: As for `Trainer`.
            live: As for `Trainer`.
            process_group: As for `Trainer`; the same bits need as many processes.
            **changes: New values of `steps`, `epochs`, `threads`, `device`, `checkpoint_every`,
                `stop_on` and `budget`. The same bits need the same device and number of threads.

        Raises:
            CheckpointError: The checkpoint is damaged or foreign.
            FileNotFoundError: The folder holds no run.
            TypeError, ValueError: A change is not possible, or the data are not those of the run.
        """
        run, ranks = RunDirectory(path), Ranks(process_group)
        if ranks.leads:
            recover_locked(run)
        ranks.wait()
        past = past_of(path, changes)
        for name, value in (("model", model), ("dataset", dataset)):
            if past.given(name) and value is None:
                raise ValueError(
                    f"{name}: the run in {path} was started with one of its own; resume it with "
                    f"Trainer.resume(path, {name}=...)"
                )
        trainer = cls.__new__(cls)
        trainer._set_up(past.config, run, model, dataset, sinks, progress, live, ranks)
        trainer._past = past
        past.check(trainer._description, trainer._total)
        return trainer

    @property
    def config(self) -> TrainConfig:
        """The settings of the run."""
        return self._config

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""
        return self._model

    @property
    def run_directory(self) -> RunDirectory:
        """The files of the run."""
        return self._shared_run

    def fit(self) -> TrainResult:
        """Train to the end, or until Ctrl-C, SIGTERM or an event of `stop_on`; once per trainer.

        Returns:
            The result; its `stopped_by` tells what ended the run early.

        Raises:
            RuntimeError: This trainer has trained already.
            CheckpointError: The checkpoint does not fit the model.
            FileExistsError: The folder holds a run.
            KeyboardInterrupt: It was to stop before its first step, and was to overwrite an earlier
                run, which stays.
            StorageError: A file cannot be written, say because the disk is full. What was saved
                before stays, and `resume` goes on from there.
            TypeError, ValueError: The model does not fit the data, or the probe the model.
        """
        # All have read what they go on from before the first one writes.
        self._ranks.wait()
        run = self._run.create()
        threads = self._config.threads if self._past is None else self._past.threads
        with locked(run), thread_count(threads), StopRequest() as stop:
            with self._session() as session, self._display(session.step) as display:
                session.train(self._total, stop, display, begun=lambda: drop(run))
                if session.step == 0 and self._stands_aside:
                    # A run without a step is no reason to lose an earlier one.
                    session.close()
                    raise KeyboardInterrupt
            # What came after the last step has ended nothing.
            stopped_by = stop.name if session.step < self._total else None
            interrupted = stopped_by is not None and stop.is_signal
            found = None
            if self._ranks.leads:
                found = summarize(
                    run,
                    planned_steps=self._total,
                    chance_loss=self._chance_loss,
                    overhead=session.overhead(),
                    stopped_by=stopped_by,
                )
            summary, analysis = self._ranks.from_leader(found)
        return TrainResult(
            summary,
            analysis,
            self._shared_run,
            self._model,
            session.step,
            stopped_by,
            interrupted,
        )

    def _display(self, done: int) -> ProgressBar | LiveView:
        if self._view is None:
            return ProgressBar(self._total, done=done, enabled=self._progress)
        # Without these, a phase that began before the checkpoint would seem to begin there.
        known = done > 0 and self._view.is_shown
        self._view.begin(done, self._run.read_metrics() if known else None)
        return self._view

    @contextlib.contextmanager
    def _session(self) -> Iterator[Session]:
        """A session at the first step to do; however it ends, the model is given back."""
        config, run, past = self._config, self._run, self._past
        done = 0 if past is None else past.step
        if self._trained:
            raise RuntimeError(
                "fit: this trainer has trained already; go on with Trainer.resume(path, "
                "steps=...), or make a new Trainer"
            )
        if past is None:
            recover(run)
            if self._overwrite:
                self._stands_aside = set_aside(run)
            else:
                claim(run)
        self._trained = True
        torch.manual_seed(config.seed)
        session: Session | None = None
        try:
            if past is None:
                run.write_json(run.config_path, self._description)
            session = Session(
                config,
                run,
                self._model,
                self._batches,
                num_classes=self._samples.num_classes,
                chance_loss=self._chance_loss,
                sinks=self._sinks if self._view is None else (*self._sinks, self._view),
                done=done,
                ranks=self._ranks,
            )
            if past is not None:
                # The files last: a checkpoint that does not fit must leave them as they are.
                if past.checkpoint is not None:
                    session.restore(past.checkpoint)
                if self._ranks.leads:
                    session.log.extend(rewind(run, done, past.log_tail))
                session.save_records()
                run.write_json(run.config_path, past.continued(self._description))
            yield session
            session.close()
        except BaseException as error:
            usual = isinstance(error, Exception) and not isinstance(error, OSError)
            if past is None and (session is None or session.step == 0):
                # Nothing was trained: the next try shall not find a run in its way, nor shall an
                # earlier one be lost. Ctrl-C alone leaves a run to go on with.
                if isinstance(error, Exception) or self._stands_aside:
                    put_back(run)
            elif session is not None and session.step > done and usual:
                # A model that fails in the middle costs no record of the steps before.
                session.save_records()
                session.close()
            raise
        finally:
            if session is not None:
                session.abandon()

    def _set_up(
        self,
        config: TrainConfig,
        run: RunDirectory,
        model: nn.Module | None,
        dataset: Dataset | tuple[torch.Tensor, torch.Tensor] | None,
        sinks: Iterable[Sink],
        progress: bool,
        live: bool,
        ranks: Ranks,
    ) -> None:
        self._ranks = ranks
        self._sinks = tuple(sinks)
        if self._sinks and not config.probe:
            raise ValueError("sinks: given, but probe=False makes no records; set probe=True")
        self._run = self._shared_run = run
        if not ranks.leads:
            # What the others save is of use to nobody, and goes with them.
            self._scratch = tempfile.TemporaryDirectory(prefix="tfc_fast-")
            self._run = RunDirectory(self._scratch.name)
        if ranks.group is not None and config.budget is not None:
            raise ValueError(
                "budget: each process would thin itself in its own way; give every instead"
            )
        self._progress = progress and ranks.leads
        self._overwrite = False
        self._past: Past | None = None
        self._device = checked_device(config.device)
        if ranks.count > 1 and self._device.type != "cpu":
            raise ValueError(
                f"device: {config.device} given, but several processes train on the CPU only"
            )
        self._samples = training_samples(config, dataset)
        self._config = config
        labels = self._samples.labels
        self._chance_loss = chance_loss(config.loss, labels, self._samples.num_classes)
        self._batches = Batches(
            self._samples.inputs.to(self._device),
            labels.to(self._device),
            batch_size=config.batch_size,
            seed=config.seed,
            part=(ranks.number, ranks.count),
        )
        self._total = config.total_steps(len(labels))
        self._view: LiveView | None = None
        if live and ranks.leads:
            self._view = LiveView(run.path.name, self._total, chance_loss=self._chance_loss)
        self._model_given = model is not None
        self._model = (new_network(config, self._samples) if model is None else model).to(
            self._device
        )

    @functools.cached_property
    def _description(self) -> dict[str, Any]:
        return description(
            self._config,
            model=self._model,
            model_given=self._model_given,
            samples=self._samples,
            device=self._device,
            chance_loss=self._chance_loss,
            processes=self._ranks.count,
        )
