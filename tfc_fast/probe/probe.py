"""`Probe`: statistics of every watched layer at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tfc_fast import _extension
from tfc_fast.phases import Event, EventDetector, EventKind
from tfc_fast.phases.events import checked_kinds
from tfc_fast.probe.arguments import (
    at_least_one,
    check_model,
    checked_loss,
    checked_sinks,
    device_of,
    tensor_of,
)
from tfc_fast.probe.budget import checked_share, make_budget
from tfc_fast.probe.description import Description, describe
from tfc_fast.probe.evaluation import Evaluation, Split, is_evaluation
from tfc_fast.probe.outlet import Outlet, for_each
from tfc_fast.probe.overhead import Overhead, measured_overhead
from tfc_fast.probe.oversights import NoStepWarning, close_forgotten, forget, remember
from tfc_fast.probe.processes import Processes
from tfc_fast.probe.reductions import Reductions, SiteReductions
from tfc_fast.probe.sites import Sites, SiteSelection
from tfc_fast.probe.taps import Taps, attach_taps, detach_taps
from tfc_fast.probe.watch import Channel, start_watching, stop_watching
from tfc_fast.records import Records, Sink

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_C = _extension._C

_UNITS_PER_SITE = 4096


class Probe:
    """Watches layers of a model and records their statistics at every training step.

    For each site (a watched layer) and step: mean cosine similarity of the features of different
    samples and of the gradients with respect to them (all pairs, pairs of one class, pairs of
    different classes), mean norms, and ReLU gating statistics. `tfc_fast.records.COLUMNS` lists the
    columns; `similarity` and `gating` state the formulas. Training is unchanged, bit for bit.

    Several micro-batches in one step (gradient accumulation) are combined by their numbers of
    pairs; pairs of samples from different micro-batches are in no statistic.

    On a GPU everything is measured and kept there, and no step waits for it: records come to the
    host in one copy every `capacity / 2` steps and reach the sinks one such turn later; `flush`,
    `history` and leaving the `with` block wait for all of them. What the CPU finds wrong with a
    batch in `batch` or backward (labels that are missing, out of range or not as many as rows; a
    site that changes its width) is then found by the kernels: they leave the batch out, and the
    first such error since the last time is raised, with its step, by the call that brings the
    records. A captured CUDA graph that holds whole steps records every replay; call `flush` at
    least every `capacity` replays, else the oldest steps are lost, with a warning.

    Args:
        model: The model, on the CPU or a CUDA device; the probe records on the device of its first
            parameter, so make it when the model is where it trains. Features on other devices are
            refused in backward.
        sites: What to watch: `"relu"` (every `nn.ReLU`), a glob over module paths such as
            `"blocks.*.act"` (`*` stands for dots, too) or a list of them, a module type, or a
            function `(name, module) -> bool`. A module other than ReLU is watched at its output.
            Tensors that no module outputs are watched with `tap`; `sites=[]` watches taps only.
        num_classes: Number of classes. With it, labels must be given to `batch`; without it, the
            statistics within and between classes are NaN and `batch` is optional.
        every: Record every `every`-th step: steps 1, 1 + every, …
        budget: Share of the time of a step that the probe may take, such as 0.01. It measures what
            it takes and chooses `every` accordingly, no less than the one given; if recording every
            64th step is too much still, it leaves half of the sites out, and again. Captured graphs
            stay as they were captured.
        window: Steps that `dead_window_frac` looks back over.
        reduction: What the rows of a feature and its gradient are, which are compared. `"flatten"`:
            samples, `[n, ...]` to `[n, d]`. `"pool"`: samples by their mean over all positions,
            `[n, C, ...]` to `[n, C]`. `"tokens"`: the positions of all samples, each with the label
            of its sample, `[n, ..., d]` to `[n * positions, d]`; `n_rows` counts them, and `batch`
            can leave some out. Or a mapping
            from globs over site names to one of these: the first that matches counts, and a site
            that none matches is flattened. `[n, d]` stays as it is in any case.
        sinks: Where records go, besides the history in memory: objects with the methods of
            `tfc_fast.records.Sink`, such as `tfc_fast.sinks.ParquetSink`. They get records in
            batches, many steps at a time.
        eval_sinks: The same for the records of evaluations, see `step`; the history has those under
            `history(split="eval")`.
        capacity: Steps that the recorder holds; sinks are served every `capacity / 2` steps.
        history_records: Records that `history` keeps (the oldest steps are dropped), None for all.
        max_sites: Most sites there may be, counting taps and repeated calls of one module;
            default: the chosen modules and 64 more.
        stop_on: Events that set `stop_event`, such as `["stuck", "nonfinite"]`; see `on`.
        events: What finds events; default: `tfc_fast.phases.EventDetector(window=window)`.
        process_group: Process group of torch.distributed whose processes train the same model on
            rows of their own (DDP, FSDP), such as `torch.distributed.group.WORLD`. Then records
            are of the rows of all of them, as if one process had the whole batch: at each recorded
            step their sums over the rows of each class are added up (all-reduce). Every process
            must make its probe alike and call `batch` and `step` equally often. `loss` is the mean
            of the losses given to `step`, and gradients are those of that mean. All processes have
            the same history and find the same events; only the first one writes to sinks.
        group_timeout: Seconds that `step` waits for the other processes; default: what the group
            was made with.

    Raises:
        TypeError: An argument is of the wrong type.
        ValueError: `sites` matches nothing, a number is out of range, or the model is on a device
            for which tfc_fast was not built.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(
        ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)
        ... )
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> x, y = torch.randn(16, 4), torch.arange(16) % 2
        >>> with Probe(model, num_classes=2) as probe:
        ...     for _ in range(3):
        ...         probe.batch(labels=y)
        ...         loss = torch.nn.functional.cross_entropy(model(x), y)
        ...         loss.backward()
        ...         probe.step(loss=loss)
        ...         optimizer.step()
        ...         optimizer.zero_grad()
        >>> history = probe.history()
        >>> history["step"].tolist(), history["site"].tolist()
        ([1, 2, 3], ['1', '1', '1'])
        >>> bool((history["feature_cos_between"] <= 1).all())
        True
    """

    def __init__(
        self,
        model: nn.Module,
        sites: Sites = "relu",
        *,
        num_classes: int | None = None,
        every: int = 1,
        budget: float | None = None,
        window: int = 100,
        reduction: Reductions = "flatten",
        sinks: Iterable[Sink] = (),
        eval_sinks: Iterable[Sink] = (),
        capacity: int = 256,
        history_records: int | None = 100_000,
        max_sites: int | None = None,
        stop_on: Iterable[EventKind] = (),
        events: EventDetector | None = None,
        process_group: ProcessGroup | None = None,
        group_timeout: float | None = None,
    ) -> None:
        check_model(model)
        self._num_classes = (
            None if num_classes is None else at_least_one("num_classes", num_classes)
        )
        at_least_one("every", every)
        at_least_one("window", window)
        share = None if budget is None else checked_share(budget)
        reductions = SiteReductions(reduction)
        at_least_one("capacity", capacity)
        if history_records is not None:
            at_least_one("history_records", history_records)
        sinks = checked_sinks("sinks", sinks)
        eval_sinks = checked_sinks("eval_sinks", eval_sinks)
        stop_on = checked_kinds("stop_on", stop_on)
        if events is not None and not isinstance(events, EventDetector):
            raise TypeError(f"events: wanted an EventDetector, got {type(events).__name__}")
        if process_group is not None and share is not None:
            raise ValueError(
                "budget: each process would thin itself in its own way; with process_group give "
                "every= instead"
            )
        self._selection = SiteSelection(sites)
        self._modules = self._selection.modules(model)
        chosen = {id(module) for _, module in self._modules}
        self._others = [
            (name, module) for name, module in model.named_modules() if id(module) not in chosen
        ]
        if max_sites is None:
            max_sites = len(self._modules) + 64
        elif at_least_one("max_sites", max_sites) < len(self._modules):
            raise ValueError(
                f"max_sites: {max_sites} given, but {len(self._modules)} modules are watched"
            )
        device = device_of(model)
        # After all else that may be wrong: it waits for the other processes.
        self._processes = None if process_group is None else Processes(process_group, group_timeout)
        if self._processes is not None and self._processes.rank > 0:
            sinks = eval_sinks = ()
        self._recorder = _C.Recorder(
            num_sites=max_sites,
            num_classes=self._num_classes or 0,
            capacity=capacity,
            window=window,
            every=every,
            units=_UNITS_PER_SITE * max(1, len(self._modules)),
            device=device,
            shared=self._processes is not None,
        )
        self._channel = Channel(
            self._recorder,
            max_sites,
            labelled=self._num_classes is not None,
            reductions=reductions,
        )
        self._evaluation = Evaluation(
            self._recorder, self._channel.names, eval_sinks, history_records, self._processes
        )
        self._channel.evaluation = self._evaluation
        self._watches = [self._channel.watch(name) for name, _ in self._modules]
        self._taps = Taps(self._channel, self._selection.takes_tap)
        self._outlet = Outlet(
            self._recorder,
            self._channel.names,
            sinks,
            history_records,
            events or EventDetector(window=window),
            stop_on,
        )
        self._seconds_outside = 0.0  # of the recorder's clock
        self._every = every
        self._budget = (
            None
            if share is None
            else make_budget(
                share,
                every,
                self._recorder,
                lambda: self._seconds_outside,
                self._channel.leave_out_half,
            )
        )
        self._restored_step = 0
        self._no_step = NoStepWarning(self._recorder)
        self._attached = False
        self._process = 0  # in which it was attached
        self._masked = False  # the last batch was

    @property
    def every(self) -> int:
        """Each `every`-th step is recorded now; constant unless the probe has a budget."""
        return self._every if self._budget is None else self._budget.every

    @property
    def sites(self) -> tuple[str, ...]:
        """Names of the sites seen so far, in the order of their records."""
        return tuple(self._channel.names)

    @property
    def attached(self) -> bool:
        """Whether the model is being watched."""
        return self._attached

    def attach(self) -> Probe:
        """Start watching; attaching twice is attaching once.

        Returns:
            The probe itself.

        Raises:
            ValueError: Another probe watches one of the modules. Then nothing is attached.
        """
        if self._attached:
            return self
        done: list[nn.Module] = []
        try:
            for (_, module), watch in zip(self._modules, self._watches, strict=True):
                start_watching(module, watch)
                done.append(module)
        except ValueError:
            for module in done:
                stop_watching(module)
            raise
        attach_taps(self._taps)
        self._channel.open()
        self._process = remember(self)
        self._attached = True
        return self

    def detach(self) -> None:
        """Give the model back exactly as it was: the same modules, of their own classes."""
        if not self._attached:
            return
        forget(self)
        for _, module in self._modules:
            stop_watching(module)
        detach_taps(self._taps)
        self._channel.close()
        self._recorder.discard_step()
        self._evaluation.discard()
        self._attached = False

    def __repr__(self) -> str:
        state = "attached" if self._attached else "not attached"
        return f"<Probe, {state}, sites: {', '.join(self.sites) or 'none yet'}>"

    def __del__(self) -> None:
        if getattr(self, "_attached", False):
            close_forgotten(self, self._process)

    def __enter__(self) -> Probe:
        return self.attach()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()
        if error is None:
            self._no_step.look(self._restored_step, attached=False)
        self.flush()

    def batch(
        self,
        labels: Tensor | np.ndarray | None = None,
        mask: Tensor | np.ndarray | None = None,
    ) -> None:
        """Announce a micro-batch: call it once for each forward and backward, before the forward.

        Where gradients are off (`torch.no_grad`, `inference_mode`) it announces a batch of an
        evaluation: the next forward is measured, and `step(split="eval")` makes records of it.

        Args:
            labels: Class of each sample, integer `[n]`, on any device; needed when the probe has
                `num_classes`. Best where the model is: from elsewhere they are copied.
            mask: Which positions of each sample count, bool or integer, `[n, ...]` as a site has
                them or `[n, T]` with T positions in their order; 0 for those that do not, such as
                padding. At sites of the reduction `"tokens"` these are no rows then and in no
                statistic; other sites do not look at it. For this micro-batch; on the CPU only.

        Raises:
            RuntimeError: The probe is not attached.
            TypeError: `labels` are not integers, or `mask` is neither integer nor bool.
            ValueError: `labels` are missing, given to a probe without `num_classes`, of the wrong
                shape, or outside `0 ... num_classes - 1`; `mask` has one dimension, or not as many
                samples as labels, or the model is on a GPU. Nothing has been recorded or lost
                then. Of labels on a GPU the values are looked at there, see `Probe`. A mask that
                has not the positions of a site is an error in backward, of an evaluation in the
                forward.
        """
        if not self._attached:
            raise self._not_attached("batch")
        if labels is not None and self._num_classes is None:
            raise ValueError(
                "labels: given, but the probe has no classes to tell apart; make it with "
                "Probe(num_classes=...), or leave them out"
            )
        labels = tensor_of("labels", labels)
        mask = tensor_of("mask", mask)
        if torch.is_grad_enabled():
            self._evaluation.measuring = False
            self._recorder.begin_batch(labels, mask)
            self._channel.begin_forward()
            self._masked = mask is not None
        else:
            self._evaluation.begin_batch(labels, mask)
            self._channel.begin_evaluation()

    def step(self, loss: Tensor | float | None = None, *, split: Split = "train") -> None:
        """Close the iteration: call it after the last backward of a step.

        `step(split="eval")` closes an evaluation instead, of one or more batches that were
        announced and went forward where gradients are off. Its records have the number of the last
        training step, and columns of features and gates only; those of gradients and
        `dead_window_frac` are NaN. They go to `history(split="eval")` and to `eval_sinks`, and
        nothing of the training's records, windows and events is changed. What was measured and not
        asked for is forgotten in the next training step.

        Args:
            loss: The step's loss, for the column `loss`: a tensor of one element or a number. A
                tensor on the GPU of the model is read there, without a wait.
            split: `"train"` or `"eval"`.

        Raises:
            RuntimeError: The probe is not attached; or other processes of its group did not close
                this step in time, or have other sites. Then the step is not recorded.
            TypeError: `loss` is neither a tensor nor a number, or a complex one.
            ValueError: `loss` has not one element; there is no such split, or nothing was
                measured for it; or, on a GPU, an earlier batch was wrong.
            OSError: A sink could not store its records; they are kept and tried again next time.
        """
        if not self._attached:
            raise self._not_attached("step")
        loss = checked_loss(loss)
        if is_evaluation(split):
            self._evaluation.end(loss)
            return
        self._evaluation.discard()
        if self._processes is not None:
            start = perf_counter()
            loss = self._processes.combine(self._recorder, self._channel.names, loss)
            self._seconds_outside += perf_counter() - start
        due = self._recorder.end_step(loss)
        if (
            self._num_classes is None
        ):  # else `batch` does it, which must come before the next forward
            self._channel.begin_forward()
        if due:
            start = perf_counter()
            self._outlet.drain(wait=False)
            self._seconds_outside += perf_counter() - start
            self._channel.warn_of_unused_reductions()
        if self._budget is not None:
            self._budget.step_ended()
        if self._masked:
            self._masked = False
            self._channel.warn_of_unused_mask()

    def flush(self) -> None:
        """Bring all closed steps to the history and the sinks, and let the sinks store them.

        Raises:
            ValueError: On a GPU, an earlier batch was wrong, see `Probe`.
            OSError: A sink could not store its records.
        """
        for_each([self._outlet.flush, self._evaluation.flush])
        self._warn_of_unused_reductions()

    def close(self) -> None:
        """Detach, flush, and close the sinks."""
        self.detach()
        self._no_step.look(self._restored_step, attached=False)
        for_each([self._outlet.close, self._evaluation.close])

    def history(self, *, split: Split = "train") -> Records:
        """All records in memory: one numpy array per column, equally long.

        Args:
            split: `"train"`, or `"eval"` for those of evaluations, see `step`.

        Returns:
            `tfc_fast.records.Records`: row i is one (step, site); steps ascend, and within a step
            sites are in the order of `sites`. `loss` repeats the step's loss for each of its
            sites, so that `pandas.DataFrame(probe.history())` works. At most `history_records`
            rows.

        Raises:
            ValueError: On a GPU, an earlier batch was wrong, see `Probe`.
        """
        if not is_evaluation(split):
            self._no_step.look(self._restored_step, attached=self._attached)
        records = (self._evaluation if is_evaluation(split) else self._outlet).history()
        self._warn_of_unused_reductions()
        return records

    def describe(self) -> Description:
        """What is watched, how large it is, and what is not watched and why.

        Sizes are those of the step that was recorded last, so ask after a step. Brings all closed
        steps to the history, as `history` does.

        Returns:
            `tfc_fast.probe.Description`, which prints as a table.

        Raises:
            ValueError: On a GPU, an earlier batch was wrong, see `Probe`.

        Example:
            >>> import torch
            >>> model = torch.nn.Sequential(
            ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2), torch.nn.Tanh()
            ... )
            >>> with Probe(model) as probe:
            ...     model(torch.randn(16, 4)).sum().backward()
            ...     probe.step()
            >>> print(probe.describe())
            site  kind  rows are  rows x units  of all entries
            1     ReLU  flatten   16 x 8        100.0 %
            256 entries of features and gradients per step
            <BLANKLINE>
            not watched:
              3  Tanh, not chosen by sites
            <BLANKLINE>
            Functions inside a forward, such as F.relu, are seen by tap(x, name) only.
        """
        return describe(
            self._channel.kinds({name: type(module).__name__ for name, module in self._modules}),
            self._channel.sizes(self.history()),
            self._channel.left_out(),
            {watch.name: watch.unwatchable for watch in self._watches if watch.unwatchable},
            self._others,
        )

    def on(self, event: EventKind, callback: Callable[[Event], object]) -> None:
        """Call a function whenever an event is found in the records.

        | event | when |
        |---|---|
        | `"collapse"` | between-class similarity of features has risen in the first phase |
        | `"stuck"` | the first phase is long, and neither loss nor similarity moves |
        | `"recovered"` | the first phase has ended after one of these |
        | `"dead_units"` | half of a site's units were active for no row of `window` steps |
        | `"nonfinite"` | a site has rows with NaN or Inf, or the loss is none |

        `tfc_fast.phases.EventDetector` has the rules. Events are looked for when records reach the
        sinks, every `capacity / 2` steps and in `flush`, never in between, so that a step costs
        nothing more; the first three need the loss, see `step`. Records from before the first call
        of `on` are not looked at.

        Args:
            event: One of the above.
            callback: Called with a `tfc_fast.phases.Event`, within the call that brought the
                records. What it raises is raised there, after everybody was served.

        Raises:
            TypeError: `callback` is not callable.
            ValueError: There is no such event.

        Example:
            >>> import torch
            >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
            >>> with Probe(model) as probe:
            ...     probe.on("nonfinite", print)
            ...     for loss in (1.0, float("inf")):
            ...         model(torch.ones(16, 4)).sum().backward()
            ...         probe.step(loss=loss)
            step 2: loss inf
        """
        (kind,) = checked_kinds("event", [event])
        if not callable(callback):
            raise TypeError(f"callback: wanted a function, got {type(callback).__name__}")
        self._outlet.listen(kind, callback)

    @property
    def stop_event(self) -> Event | None:
        """The first event of those in `stop_on`; None until one was found.

        `if probe.stop_event: break` ends a training loop; see `on` for when it is found.
        """
        return self._outlet.stop_event

    def overhead(self) -> Overhead:
        """What the probe cost per step, measured by its own clock since it was made.

        Counted are `batch`, `step` and the backward kernels of all sites. These kernels do the
        work of ReLU's own backward, too. If some steps are not recorded (`every`, `budget`), it is
        measured in those and taken off; else the figures are upper bounds. `tfc-fast bench
        overhead` compares with training without a probe. On a GPU only the host's time in `batch`
        and `step` is known without waiting; with a `budget` it is what recorded steps take more
        there than others, by events on the stream.

        Returns:
            `Overhead`: microseconds per step, per cent of the time between the ends of steps, and
            the number of steps measured. NaN before the second step.
        """
        return measured_overhead(self._recorder, self._seconds_outside, self._budget)

    def state_dict(self) -> dict[str, Any]:
        """The step counter and the windows of unit activity, to go on after an interruption.

        Returns:
            A dict of tensors in host memory and plain values (`torch.save` and
            `weights_only=True` take it).
        """
        return {
            "step": self._recorder.step,
            "sites": list(self._channel.names),
            "units": self._recorder.units.to("cpu", copy=True),
            "placement": self._recorder.placement(),
            "events": self._outlet.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where `state_dict` was taken; the history starts empty, `stop_event` is None.

        Args:
            state: From a probe of the same model with the same `sites` and `max_sites`, on any
                device.

        Raises:
            ValueError: The state belongs to other sites or is damaged.
        """
        try:
            step, sites, units, placement = (
                state[key] for key in ("step", "sites", "units", "placement")
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"state: no probe state ({error!r}); was it made by state_dict()?"
            ) from error
        own = self._channel.names
        if list(sites[: len(own)]) != own:
            raise ValueError(f"state: saved for sites {list(sites)}, this probe has {own}")
        self._recorder.restore(step, units, placement)
        self._restored_step = step
        if self._processes is not None:
            self._processes.forget(self._recorder)
        for name in sites:
            self._channel.row(name)
        self._channel.begin_forward()
        self._outlet.restart(state.get("events"))
        self._evaluation.restart()
        if self._budget is not None:
            self._budget.restart(step)

    def _warn_of_unused_reductions(self) -> None:
        if self._recorder.step > self._restored_step:  # taps have been seen
            self._channel.warn_of_unused_reductions()

    def _not_attached(self, method: str) -> RuntimeError:
        return RuntimeError(
            f"Probe.{method}: the probe is not attached; use `with probe:` or probe.attach()"
        )
