"""What lives while a run trains: optimizer, probe, log, and the saving of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from torch import nn

from tfc_fast.phases import EventDetector, PhaseMonitor
from tfc_fast.probe import Probe
from tfc_fast.records import Sink
from tfc_fast.run_directory import RunDirectory
from tfc_fast.sinks import ParquetSink, TensorBoardSink
from tfc_fast.trainer.batches import Batches
from tfc_fast.trainer.checkpoint import Checkpoint, CheckpointError, restore_rng, rng_state
from tfc_fast.trainer.config import TrainConfig
from tfc_fast.trainer.interrupt import StopRequest
from tfc_fast.trainer.live import LiveView
from tfc_fast.trainer.log import TrainLog
from tfc_fast.trainer.loop import TrainingLoop, make_optimizer
from tfc_fast.trainer.objective import loss_function
from tfc_fast.trainer.progress import ProgressBar
from tfc_fast.trainer.ranks import Ranks
from tfc_fast.trainer.store import TENSORBOARD_FOLDER, SaveSchedule

__all__ = ["Session"]

# Small parts would cost a disk access each; what waits is saved with the log every few seconds.
_ROWS_PER_PART = 8192


class Session:
    """Trains from one step to another and saves on the way.

    Args:
        config: The settings.
        run: Where to save; the folder exists.
        model: On the device of the training.
        batches: The batch of every step.
        num_classes: Number of classes.
        chance_loss: Loss of a network that knows only the class frequencies.
        sinks: Where records go beside `run`.
        done: Steps that were done before; `restore` brings back their state.
        ranks: The processes that train together.

    Raises:
        ImportError: A sink needs a package that is not installed.
        ValueError: The probe finds no site, or there is nothing to train.
    """

    def __init__(
        self,
        config: TrainConfig,
        run: RunDirectory,
        model: nn.Module,
        batches: Batches,
        *,
        num_classes: int,
        chance_loss: float,
        sinks: Iterable[Sink],
        done: int = 0,
        ranks: Ranks,
    ) -> None:
        self.step = 0
        self._ranks = ranks
        self.log = TrainLog()
        self._rows_saved = 0
        self._schedule = SaveSchedule()
        self._config = config
        self._chance_loss = chance_loss
        self._run = run
        self._model = model.train()
        self._optimizer = make_optimizer(config, model)
        self._probe = (
            self._attached_probe(num_classes, [*self._own_sinks(done), *sinks])
            if config.probe
            else None
        )
        forward = ranks.synchronized(model)
        self._loop = TrainingLoop(
            # After the probe is attached: what is compiled is the model with its probe.
            torch.compile(forward) if config.compile else forward,
            self._optimizer,
            batches,
            loss_function(config.loss),
            num_classes=num_classes,
            probe=self._probe,
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Bring all but the log to the state of a checkpoint.

        Args:
            checkpoint: The checkpoint.

        Raises:
            CheckpointError: It does not fit the model.
        """
        try:
            self._model.load_state_dict(checkpoint.model)
            self._optimizer.load_state_dict(checkpoint.optimizer)
            if self._probe is not None and checkpoint.probe is not None:
                self._probe.load_state_dict(checkpoint.probe)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{self._run.checkpoint_path} does not fit the model: {error}; give the model that "
                "the run was started with"
            ) from error
        restore_rng(checkpoint.rng)
        self.step = checkpoint.step

    def train(
        self,
        total: int,
        stop: StopRequest,
        display: ProgressBar | LiveView,
        *,
        begun: Callable[[], object],
    ) -> None:
        """Train until a number of steps is done or a stop is requested.

        Args:
            total: Number of steps of the run, those done before included.
            stop: Looked at after every step; an event of `stop_on` asks it to stop.
            display: Told about every step.
            begun: Called when the first step of the run is done.

        Raises:
            StorageError: A file cannot be written.
        """
        every = self._config.checkpoint_every
        if self.step == 0:
            # The initial weights may be the user's own: nothing else could bring them back.
            self._save_checkpoint()
        while self.step < total and not self._ranks.agree(stop):
            lr = self._loop.lr
            began = time.perf_counter()
            loss, correct, rows = self._loop.run(self.step + 1)
            seconds = time.perf_counter() - began
            self.step += 1
            loss, correct, rows = self._ranks.of_the_whole_batch(loss, correct, rows)
            self.log.record(self.step, loss, correct, rows=rows, lr=lr, seconds=seconds)
            if self.step == 1:
                begun()
            display.advance(self.log.last_loss)
            if self._schedule.due():
                self.save_records()
            if every and self.step % every == 0 and self.step < total:
                self._save_checkpoint()
            if self._probe is not None and self._probe.stop_event is not None:
                stop.ask(self._probe.stop_event.kind)
        self.save_records()
        self._save_checkpoint()

    def save_records(self) -> None:
        """Bring records and log to the disk.

        Raises:
            StorageError: A file cannot be written.
        """
        with self._schedule.saving():
            self._flush_probe()
            self._run.write_train(self.log.arrays())
            self._rows_saved = len(self.log)

    def overhead(self) -> dict[str, float | int] | None:
        """Return what the probe cost, None without one."""
        return None if self._probe is None else dict(self._probe.overhead()._asdict())

    def close(self) -> None:
        """Give the model back without its probe, and close the sinks.

        Raises:
            StorageError: The last records cannot be written.
        """
        if self._probe is not None:
            self._probe.close()

    def abandon(self) -> None:
        """Give the model back without its probe; nothing is written."""
        if self._probe is not None:
            self._probe.detach()

    def _attached_probe(self, num_classes: int, sinks: Iterable[Sink]) -> Probe:
        config = self._config
        probe = Probe(
            self._model,
            sites=config.sites.split(",") if "," in config.sites else config.sites,
            num_classes=num_classes,
            every=config.every,
            budget=config.budget,
            window=config.window,
            sinks=list(sinks),
            stop_on=config.stop_kinds,
            # Judged as in the summary and the live view.
            events=EventDetector(PhaseMonitor(chance_loss=self._chance_loss), window=config.window),
            process_group=self._ranks.group,
        )
        probe.attach()
        return probe

    def _own_sinks(self, done: int) -> list[Sink]:
        # What is there is of this run: the trainer has claimed the folder, or resumes.
        metrics = ParquetSink(self._run.metrics_folder, rows_per_part=_ROWS_PER_PART, append=True)
        sinks: list[Sink] = [metrics]
        if self._config.tensorboard:
            folder = self._run.path / TENSORBOARD_FOLDER
            # What TensorBoard has of later steps is made again: it hides the earlier curves there.
            sinks.append(TensorBoardSink(folder, purge_step=done + 1 if done else None))
        return sinks

    def _save_checkpoint(self) -> None:
        # Records first: a checkpoint on disk promises that all before it is there, too.
        self._flush_probe()
        rows = self.log.arrays(start=self._rows_saved)
        Checkpoint(
            step=self.step,
            model=self._model.state_dict(),
            optimizer=self._optimizer.state_dict(),
            rng=rng_state(),
            probe=None if self._probe is None else self._probe.state_dict(),
            log={name: torch.from_numpy(column) for name, column in rows.items()},
            settings=self._config.to_dict(),
        ).save(self._run.checkpoint_path)

    def _flush_probe(self) -> None:
        if self._probe is not None:
            self._probe.flush()
