"""Evaluation: features and gates of forwards that no backward follows.

An evaluation has a recorder, a history and sinks of its own, so that nothing of the training is
touched by it: not its steps, nor its ring, nor the windows of its units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

from torch import Tensor

from tfc_fast import _extension
from tfc_fast.phases import EventDetector
from tfc_fast.probe.outlet import Outlet
from tfc_fast.probe.processes import Processes
from tfc_fast.records import Records, Sink

_C = _extension._C

Split: TypeAlias = Literal["train", "eval"]

_CAPACITY = 8  # The ring is emptied at each evaluation.
_UNMEASURED = (
    "grad_cos_all",
    "grad_cos_within",
    "grad_cos_between",
    "grad_norm_mean",
    "dead_window_frac",
    "n_zero_grads",
)


class Evaluation:
    """What a probe records of batches that were announced where gradients are off.

    The tensors of its recorder are plain attributes, where torch.compile finds them as inputs, and
    so is whether it is `measuring`: whether a batch was announced.

    Args:
        training: The recorder of the training, which knows the step.
        names: Names of the sites, a list that grows.
        sinks: Where the records go besides the history.
        history_records: Records that the history keeps, None for all.
        processes: The processes whose rows are measured together, if there are several.
    """

    def __init__(
        self,
        training: _C.Recorder,
        names: list[str],
        sinks: Sequence[Sink],
        history_records: int | None,
        processes: Processes | None,
    ) -> None:
        self._processes = processes
        self._training = training
        recorder = _C.Recorder(
            num_sites=training.sites.size(0) - 1,
            num_classes=max(0, training.class_ptr.numel() - 1),
            capacity=_CAPACITY,
            window=1,
            every=1,
            units=1,
            device=training.sites.device,
            shared=processes is not None,
        )
        self._recorder = recorder
        self._names = names
        self._open = False
        self._outlet = Outlet(
            recorder,
            names,
            sinks,
            history_records,
            EventDetector(),
            stop_on=(),
            unmeasured=_UNMEASURED,
            silence="no watched site took part in the evaluation; gradients must be off in its "
            "forwards, too (torch.no_grad or torch.inference_mode)",
        )
        self.measuring = False
        self.sites = recorder.sites
        self.units = recorder.units
        self.order = recorder.order
        self.class_ptr = recorder.class_ptr
        self.class_sums = recorder.class_sums
        self.mask = recorder.mask

    def begin_batch(self, labels: Tensor | None, mask: Tensor | None) -> None:
        """Measure the next forward."""
        if not self._open:
            self._recorder.take_step(self._training)
        self._recorder.begin_batch(labels, mask)
        self._open = self.measuring = True

    def end(self, loss: Tensor | float | None) -> None:
        """Make records of what was measured since the last one.

        Raises:
            ValueError: No batch was announced.
            RuntimeError: The other processes did not come, see `Processes`.
        """
        if not self._open:
            raise ValueError(
                "split: nothing was measured for 'eval'; call probe.batch(labels=...) before each "
                "forward of the evaluation, both where gradients are off (torch.no_grad or "
                "torch.inference_mode)"
            )
        self._recorder.use_sites(len(self._names))
        try:
            if self._processes is not None:
                loss = self._processes.combine(self._recorder, self._names, loss)
            self._recorder.end_step(loss)
        except BaseException:
            self.discard()  # else the next evaluation would add to it
            raise
        self._open = self.measuring = False
        self._outlet.drain(wait=False)

    def discard(self) -> None:
        """Forget what was measured and not asked for."""
        if self._open:
            self._open = self.measuring = False
            self._recorder.discard_step()

    def restart(self) -> None:
        """An empty history."""
        self.discard()
        self._outlet.drain()
        self._outlet.restart(None)

    def flush(self) -> None:
        """Bring all records to the history and the sinks."""
        self._outlet.flush()

    def close(self) -> None:
        """Flush, and close the sinks."""
        self._outlet.close()

    def history(self) -> Records:
        """All records in memory."""
        return self._outlet.history()


def is_evaluation(split: Split) -> bool:
    """Whether a user means the evaluation.

    Raises:
        ValueError: There is no such split.
    """
    if split not in ("train", "eval"):
        raise ValueError(f"split: wanted 'train' or 'eval', got {split!r}")
    return split == "eval"
