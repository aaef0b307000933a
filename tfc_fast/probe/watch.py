"""What stands in the model: watched modules.

A watched module keeps its identity. Only its class is exchanged, for a subclass whose forward sends
the output through one of the probe's ops, so that references, hooks, parameter names and module
order stay as they were, and so that torch.compile, which guards on a module's class, notices.
"""

from __future__ import annotations

import copyreg
import itertools
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tfc_fast import _extension
from tfc_fast.probe.evaluation import Evaluation
from tfc_fast.probe.outputs import feature_at, feature_place, with_feature
from tfc_fast.probe.reductions import REDUCTIONS, SiteReductions
from tfc_fast.probe.traced import TracedReLU, TracedTap
from tfc_fast.probe.warning import warn_user
from tfc_fast.records import Records

_C = _extension._C

_KEY = "_tfc_watch"

_numbers = itertools.count()
_channels: dict[int, Channel] = {}
"""The open channels by their numbers, where torch.compile finds their tensors.

Found through a module of torch.nn their sizes would be taken for constants, as those of its
parameters are, and each new size of a batch would make it compile again.
"""


def being_exported() -> bool:
    """Whether torch.export or torch.jit.trace is at work: what they make runs without the probe."""
    # The function torch.compiler.is_exporting() is True in torch.compile, too, before torch 2.13.
    return torch.compiler._is_exporting_flag or torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]


class Channel:
    """From the watched places of one model to the recorder of one probe.

    Holds the recorder's tensors as plain attributes, where torch.compile finds them as inputs, and
    gives every place its row in the recorder.

    Args:
        recorder: The compiled recorder, with one row per site.
        max_sites: Number of those rows.
        labelled: Whether every micro-batch has to be announced with its labels.
        reductions: What the rows of each site are.
    """

    def __init__(
        self,
        recorder: _C.Recorder,
        max_sites: int,
        *,
        labelled: bool,
        reductions: SiteReductions,
    ) -> None:
        self.recorder = recorder
        self.max_sites = max_sites
        self.labelled = labelled
        self.reductions = reductions
        self.names: list[str] = []
        self.evaluation: Evaluation | None = None
        self.watches: list[Watch] = []
        self.warned_of_full = False
        self.warned_of_mask = False
        self.sites = recorder.sites
        self.units = recorder.units
        self.order = recorder.order
        self.class_ptr = recorder.class_ptr
        self.class_sums = recorder.class_sums
        self.mask = recorder.mask
        self.number = next(_numbers)

    def open(self) -> None:
        """From now on compiled models find it."""
        _channels[self.number] = self

    def close(self) -> None:
        """No longer."""
        _channels.pop(self.number, None)

    def row(self, name: str) -> int:
        """The recorder's row of the site of that name, a new one if need be; -1: there is none.

        Running out of rows warns instead of raising: a validation pass that forgot `no_grad`, say,
        calls every place many times, and watching must not stop training.
        """
        if name in self.names:
            return self.names.index(name)
        if len(self.names) == self.max_sites:
            if not self.warned_of_full:
                self.warned_of_full = True
                warnings.warn(
                    f"site '{name}' is one more than max_sites={self.max_sites} and is not "
                    "recorded; call probe.batch() before each forward, use torch.no_grad() where "
                    "nothing is trained, or give Probe(max_sites=...) a larger number",
                    RuntimeWarning,
                    stacklevel=2,
                )
            return -1
        self.names.append(name)
        self.recorder.use_sites(len(self.names))
        return len(self.names) - 1

    def kinds(self, modules: dict[str, str]) -> list[tuple[str, str, str]]:
        """Name, kind and reduction of each site; `modules`: classes of the modules by name."""
        numbers = {watch.name: watch.last_reduction for watch in self.watches}
        kinds = []
        for name in self.names:
            base = name.partition("#")[0]
            if base not in numbers:  # a tap of a loaded state that has not been called yet
                numbers[base] = self.reductions.number(base)
            kinds.append((name, modules.get(base, "tap"), REDUCTIONS[numbers[base]]))
        return kinds

    def sizes(self, records: Records) -> dict[str, tuple[int, int]]:
        """Rows in the last record of each site, and units."""
        units = self.recorder.placement()[:, 1].tolist()
        rows = dict(zip(records["site"].tolist(), records["n_rows"].tolist(), strict=True))
        return {
            name: (int(rows[name]), units[i]) for i, name in enumerate(self.names) if name in rows
        }

    def watch(self, name: str) -> Watch:
        """A new watched place."""
        watch = Watch(self, name)
        self.watches.append(watch)
        return watch

    def begin_forward(self) -> None:
        """Make the next call of each place its first."""
        for watch in self.watches:
            watch.calls = 0

    @property
    def is_called(self) -> bool:
        """Whether a watched place was called, with gradients on, since `begin_forward`."""
        return any(watch.calls for watch in self.watches)

    def begin_evaluation(self) -> None:
        """The same of calls in an evaluation."""
        for watch in self.watches:
            watch.evaluation_calls = 0

    def left_out(self) -> set[str]:
        """Names of the places that are no longer recorded."""
        return {watch.name for watch in self.watches if watch.left_out}

    def leave_out_half(self) -> None:
        """Record every second of the places that are recorded; the first one stays."""
        for watch in [watch for watch in self.watches if not watch.left_out][1::2]:
            watch.left_out = True

    def warn_of_unused_mask(self) -> None:
        """Warn, once, if positions are masked and there is no site that has positions for rows."""
        tokens = REDUCTIONS.index("tokens")
        if self.warned_of_mask or any(watch.last_reduction == tokens for watch in self.watches):
            return
        self.warned_of_mask = True
        warn_user(
            "mask: has no effect, since no site takes positions as rows; make the probe with "
            "reduction='tokens' for the sites that should"
        )

    def warn_of_unused_reductions(self) -> None:
        """Warn, once, of globs of `reduction` that are of no effect, now that sites are known."""
        unused = self.reductions.take_unused()
        if unused:
            warn_user(
                f"reduction: {unused} decide for none of the sites {self.names}; globs are over "
                "these names, and the first that matches counts"
            )

    def begin_unannounced_batch(self) -> None:
        """A forward has begun after a backward, and nobody has called `Probe.batch`."""
        if self.labelled:
            raise ValueError(
                "labels are missing: call probe.batch(labels=...) once for each forward and "
                "backward; this forward would be recorded with the labels of the one before"
            )
        self.recorder.begin_batch(None)
        self.begin_forward()


class Watch:
    """One watched place and how often it was called in this forward."""

    def __init__(self, channel: Channel, name: str) -> None:
        self.channel = channel
        self.channel_number = channel.number
        self.recorder = channel.recorder
        self.name = name
        self.reduction = channel.reductions.number(name)
        self.last_reduction = self.reduction  # a tap may have asked for another one
        self.calls = 0
        self.evaluation_calls = 0
        self.left_out = False
        self.rows = [channel.row(name)]
        self.unwatchable: str | None = None  # why nothing is recorded here

    def traced_channel(self) -> Channel:
        """The channel; torch.compile looks for it where its tensors have no fixed sizes."""
        if torch.compiler.is_dynamo_compiling():
            return _channels[self.channel_number]
        return self.channel

    def cannot_watch(self, out: object) -> None:
        """The module has returned nothing that could be watched; warns of it the first time."""
        if self.unwatchable is not None or torch.compiler.is_dynamo_compiling():
            return
        if isinstance(out, torch.fx.Proxy):  # nothing is computed, see torch.fx.symbolic_trace
            return
        kind = f"a tensor of {out.dtype}" if isinstance(out, Tensor) else type(out).__name__
        self.unwatchable = f"returns {kind}, in which there is no float tensor"
        warnings.warn(
            f"site '{self.name}' is not recorded: it {self.unwatchable}; watch a module inside it, "
            "or use tap(x, name) on the tensor you mean",
            RuntimeWarning,
            stacklevel=2,
        )

    def next_row(self) -> int:
        """The row for this call: `name`, then `name#1`, `name#2` and so on; -1: not recorded."""
        if self.left_out or being_exported():
            return -1
        if self.calls == 0:
            self.calls = 1
            return self.rows[0]
        if not torch.compiler.is_dynamo_compiling() and self.channel.recorder.has_recorded(
            self.rows[0]
        ):
            self.channel.begin_unannounced_batch()
        call = self.calls
        if call == len(self.rows):
            row = self.channel.row(f"{self.name}#{call}")
            if row < 0:
                return row
            self.rows.append(row)
        self.calls = call + 1
        return self.rows[call]

    def evaluate(self, x: Tensor, reduction: int) -> None:
        """Measure `x`, the result of a forward without gradients, if that was asked for.

        Calls in one forward of which the training has not seen as many are left out: they are more
        likely those of a forward that was not announced, and the sites stay those of the training.
        """
        evaluation = self.traced_channel().evaluation
        if evaluation is None or not evaluation.measuring or torch.is_grad_enabled():
            return
        if being_exported():
            return
        call = self.evaluation_calls
        if call >= len(self.rows):
            return
        self.evaluation_calls = call + 1
        # There is no gradient: the feature stands in for it, and its columns are blanked.
        torch.ops.tfc_fast.tap_backward.default(
            x,
            x,
            evaluation.order,
            evaluation.class_ptr,
            evaluation.sites,
            evaluation.units,
            self.rows[call],
            reduction,
            evaluation.class_sums,
            evaluation.mask,
        )

    def tap(self, x: Tensor, reduction: int) -> Tensor:
        """`x` itself, whose gradient is recorded on its way back."""
        if not (torch.is_grad_enabled() and x.requires_grad):
            self.evaluate(x, reduction)
            return x
        row = self.next_row()
        if row < 0:
            return x
        if not torch.compiler.is_dynamo_compiling():
            try:
                return _C.tap(x, self.recorder, row, reduction)
            except RuntimeError:
                self.calls -= 1  # it was refused
                raise
        return traced(TracedTap, x, self.traced_channel(), row, reduction)


def traced(
    function: type[TracedReLU] | type[TracedTap],
    x: Tensor,
    channel: Channel,
    row: int,
    reduction: int,
) -> Tensor:
    """What torch.compile is to make of a watched place."""
    y: Tensor = function.apply(  # type: ignore[no-untyped-call]
        x,
        channel.sites,
        channel.units,
        channel.order,
        channel.class_ptr,
        channel.class_sums,
        channel.mask,
        row,
        reduction,
    )
    return y


def _without_watch(reduced: tuple[Any, ...], watched: type, original: type) -> tuple[Any, ...]:
    """What `__reduce_ex__` gave, as if the module were not watched: a copy is not attached."""
    function, arguments, state, *rest = reduced
    if function is copyreg.__newobj__ and arguments == (watched,):  # type: ignore[attr-defined]
        # pickle insists that __newobj__ makes an object of the module's present class.
        function, arguments = copyreg._reconstructor, (original, object, None)  # type: ignore[attr-defined]
    if isinstance(state, dict):
        state = {key: value for key, value in state.items() if key != _KEY}
    return (function, arguments, state, *rest)


def _relu_forward(self: nn.ReLU, input: Tensor) -> Tensor:
    """ReLU whose backward records the statistics of its output and the gradient there.

    One function and few calls: between two matrix products all of this runs with cold caches, where
    a call in Python costs a microsecond.
    """
    inplace = self.inplace
    watch: Watch = self.__dict__[_KEY]
    if not (input.requires_grad and torch.is_grad_enabled()):
        result = F.relu(input, inplace=inplace)
        watch.evaluate(result, watch.reduction)
        return result
    row = watch.next_row()
    if row < 0:
        return F.relu(input, inplace=inplace)
    if torch.compiler.is_dynamo_compiling():
        y = traced(TracedReLU, input, watch.traced_channel(), row, watch.reduction)
        return input.copy_(y) if inplace else y
    relu_probe = _C.relu_probe_inplace if inplace else _C.relu_probe
    try:
        return relu_probe(input, watch.recorder, row, watch.reduction)
    except RuntimeError:
        watch.calls -= 1  # it was refused
        raise


_watched_classes: dict[type[nn.Module], type[nn.Module]] = {}


def _watched_class(original: type[nn.Module]) -> type[nn.Module]:
    """The subclass that a watched module of class `original` gets; one per class."""
    if original in _watched_classes:
        return _watched_classes[original]

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        out = original.forward(self, *args, **kwargs)
        watch: Watch = self.__dict__[_KEY]
        place = feature_place(out)
        if place is None:
            watch.cannot_watch(out)
            return out
        feature = feature_at(out, place)
        tapped = watch.tap(feature, watch.reduction)
        return out if tapped is feature else with_feature(out, place, tapped)

    def reduce_ex(self: nn.Module, protocol: Any) -> tuple[Any, ...]:
        reduced = original.__reduce_ex__(self, protocol)
        if isinstance(reduced, str):
            return reduced  # type: ignore[return-value]
        return _without_watch(reduced, watched, original)

    def prepare_scriptable(self: nn.Module) -> nn.Module:
        raise RuntimeError(
            f"site '{self.__dict__[_KEY].name}' is watched: detach the probe before "
            "torch.jit.script"
        )

    watched = type(
        original.__name__,
        (original,),
        {
            "__doc__": original.__doc__,
            "__module__": original.__module__,  # by which torch.fx knows its leaves
            "__qualname__": original.__qualname__,
            "__prepare_scriptable__": prepare_scriptable,
            "__reduce_ex__": reduce_ex,
            "forward": _relu_forward if original is nn.ReLU else forward,
        },
    )
    _watched_classes[original] = watched
    return watched


def start_watching(module: nn.Module, watch: Watch) -> None:
    """Exchange the class of `module` for its watched subclass.

    Raises:
        ValueError: The module is watched already.
    """
    if _KEY in module.__dict__:
        raise ValueError(
            f"sites: '{watch.name}' is already watched by another probe; detach that one first"
        )
    module.__dict__[_KEY] = watch
    module.__class__ = _watched_class(type(module))


def stop_watching(module: nn.Module) -> None:
    """Give `module` its own class back."""
    del module.__dict__[_KEY]
    module.__class__ = type(module).__mro__[1]
