"""`TFCCallback`: the probe as a callback of Lightning's Trainer.

Needs `lightning`: `pip install 'tfc_fast[lightning]'`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tfc_fast.integrations._callback import ProbeOwner
from tfc_fast.integrations._metrics import LogSink, Metrics

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise ImportError(
        f"tfc_fast.integrations.lightning needs lightning, which cannot be imported ({error}); "
        "install it with: pip install 'tfc_fast[lightning]'"
    ) from error

__all__ = ["TFCCallback"]


class TFCCallback(ProbeOwner, Callback):
    """Records the statistics of every watched layer at every optimizer step of a `Trainer.fit`.

    The training itself is unchanged, bit for bit. One record is made per optimizer step; with
    `accumulate_grad_batches` its micro-batches are combined (pairs of samples from different
    micro-batches are in no statistic). Validation is not recorded. With several processes each
    watches its own part of the batch, and the first one logs.

    Numbers go to the Trainer's loggers as `tfc/<column>/<site>`, every `log_every_n_steps` of the
    Trainer, or with the next step that is recorded (`every`, `budget`); all of them to `history()`
    and to `sinks`.

    Args:
        sites: What to watch; see `tfc_fast.Probe`.
        num_classes: Number of classes; without it there are no statistics within and between
            classes, and no labels are looked for.
        labels: Function of the batch that gives the labels, whole numbers `[n]`. Default: the entry
            of a mapping called `labels`, `label`, `targets`, `target` or `y`, or the second part of
            a tuple or list.
        mask: Function of the batch that gives the mask of `tfc_fast.Probe.batch`; default: all
            positions count.
        columns: Columns of `tfc_fast.records.COLUMNS` to log.
        sinks: Where records go besides; closed when the training ends.
        every, budget, window, reduction, events: As in `tfc_fast.Probe`.
        stop_on: Events that end the training; see `tfc_fast.Probe.on`.

    Raises:
        ImportError: On import of this module: lightning is not installed.
        ValueError: `columns` has a name that is no column. Once training begins: see
            `tfc_fast.Probe`, or the labels are not where the rule looks.

    `examples/lightning_digits.py` is a whole training:

        callback = TFCCallback(num_classes=10)
        trainer = Trainer(max_steps=1000, callbacks=[callback])
        trainer.fit(module, loader)
        callback.history()["feature_cos_between"]
    """

    _trainer: Trainer | None = None
    _state: dict[str, Any] | None = None
    _loss: Tensor | None = None
    _steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach the probe."""
        self._trainer = trainer
        log = LogSink(self._log, self._columns, max(1, getattr(trainer, "log_every_n_steps", 50)))
        probe = self._make_probe(pl_module, log)
        if self._state is not None:
            probe.load_state_dict(self._state)
            self._state = None
        probe.attach()
        self._probe = probe
        self._steps = trainer.global_step
        self._loss = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Tell the probe the labels."""
        assert self._probe is not None
        self._announce(self._probe, batch)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Close the step, if the optimizer has made one."""
        assert self._probe is not None
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            # Lightning has divided it by the number of micro-batches.
            loss = loss.detach()
            self._loss = loss if self._loss is None else self._loss + loss
        if trainer.global_step == self._steps:
            return
        self._steps = trainer.global_step
        self._probe.step(loss=self._loss)
        self._loss = None
        if self._probe.stop_event is not None:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the model back as it was."""
        self.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give the model back as it was, with all records kept."""
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoints: step and windows of the probe."""
        return (self._state or {}) if self._probe is None else self._probe.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From Lightning's checkpoints; takes effect when the training begins."""
        self._state = state_dict or None

    def _log(self, metrics: Metrics, step: int) -> None:
        assert self._trainer is not None
        if self._trainer.is_global_zero:
            for logger in self._trainer.loggers:
                logger.log_metrics(metrics, step=step)
