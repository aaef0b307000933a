"""`TFCCallback`: the probe as a callback of the Trainer of transformers.

Needs `transformers`: `pip install 'tfc_fast[transformers]'`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tfc_fast.integrations._callback import ProbeOwner
from tfc_fast.integrations._metrics import metrics_of, steps_of

try:
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    raise ImportError(
        "tfc_fast.integrations.transformers needs transformers, which cannot be imported "
        f"({error}); install it with: pip install 'tfc_fast[transformers]'"
    ) from error

__all__ = ["TFCCallback"]


class TFCCallback(ProbeOwner, TrainerCallback):
    """Records the statistics of every watched layer at every optimizer step of `Trainer.train`.

    The training itself is unchanged, bit for bit. One record is made per optimizer step; with
    `gradient_accumulation_steps` its micro-batches are combined (pairs of samples from different
    micro-batches are in no statistic). Evaluation is not recorded. With several processes each
    watches its own part of the batch.

    The numbers of the newest step join what the Trainer logs, as `tfc/<column>/<site>`: in
    `trainer.state.log_history`, and in the logs that callbacks after this one are given. Reporting
    integrations (TensorBoard and so on) come before callbacks that are given to the Trainer; they
    get the numbers, too, if you use `callback.add_to(trainer)` instead of `callbacks=[callback]`.
    All numbers of all steps are in `history()` and go to `sinks`.

    Args:
        sites: What to watch; see `tfc_fast.Probe`. Transformers rarely use `nn.ReLU`: name modules,
            for instance `"*.mlp.act"`, whose outputs are then watched.
        num_classes: Number of classes; without it there are no statistics within and between
            classes, and no labels are looked for.
        labels: Function of the model's keyword arguments (a dict) that gives the labels, whole
            numbers `[n]`. Default: the entry called `labels`, `label`, `targets`, `target` or `y`.
        mask: Function of the same that gives the mask of `tfc_fast.Probe.batch`, for instance
            `lambda batch: batch["attention_mask"]`; default: all positions count.
        columns: Columns of `tfc_fast.records.COLUMNS` to log.
        sinks: Where records go besides; closed when the training ends.
        every, budget, window, reduction, events: As in `tfc_fast.Probe`.
        stop_on: Events that end the training; see `tfc_fast.Probe.on`.

    Raises:
        ImportError: On import of this module: transformers is not installed.
        ValueError: `columns` has a name that is no column. Once training begins: see
            `tfc_fast.Probe`, or the labels are not where the rule looks.

    `examples/transformers_digits.py` is a whole training:

        callback = TFCCallback("*.activation", num_classes=10)
        trainer = Trainer(model, args, train_dataset=data)
        callback.add_to(trainer)
        trainer.train()
        callback.history()["feature_cos_between"]
    """

    _hooks: tuple[RemovableHandle, ...] = ()
    _losses: tuple[Tensor, ...] = ()
    _shares = False  # the model's losses are shares of the mean over the step, to be added

    def add_to(self, trainer: Trainer) -> None:
        """Make this the Trainer's first callback, so that its reports have our numbers, too."""
        callbacks = trainer.callback_handler.callbacks
        if self not in callbacks:
            callbacks.insert(0, self)

    def close(self) -> None:
        """Give the model back as it was: only needed where an exception has ended a training."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = ()
        super().close()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Attach the probe."""
        model: nn.Module = kwargs["model"]
        self.close()
        probe = self._make_probe(model)
        probe.attach()
        self._probe = probe
        self._losses = ()
        self._hooks = (
            model.register_forward_pre_hook(self._before_forward, with_kwargs=True),
            model.register_forward_hook(self._after_forward),
        )

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the step: all gradients are there."""
        if self._probe is None:
            return
        losses, self._losses = self._losses, ()
        loss = torch.stack(losses).sum() if losses else None
        if loss is not None and not self._shares:
            loss = loss / len(losses)
        self._probe.step(loss=loss)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End the training, if an event of `stop_on` was found."""
        if self._probe is not None and self._probe.stop_event is not None:
            control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add the numbers of the newest step to what is logged of the training."""
        logs = kwargs.get("logs")
        if self._probe is None or not self._probe.attached or logs is None or "loss" not in logs:
            return
        records = self._probe.history()
        steps = steps_of(records)
        if not steps:
            return
        metrics = metrics_of(records, steps[-1][1], self._columns)
        logs.update(metrics)
        if state.log_history:
            state.log_history[-1].update(metrics)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give the model back as it was."""
        self.close()

    # Under torch.compile these run outside of the graph, at its beginning and its end.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _before_forward(self, model: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if self._probe is None or not (model.training and torch.is_grad_enabled()):
            return
        self._shares = kwargs.get("num_items_in_batch") is not None
        self._announce(self._probe, kwargs)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _after_forward(self, model: nn.Module, args: Any, output: Any) -> None:
        if not (model.training and torch.is_grad_enabled()):
            return
        loss = output.get("loss") if isinstance(output, Mapping) else None
        if isinstance(loss, Tensor):
            self._losses += (loss.detach(),)
