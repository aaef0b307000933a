"""Steps of several processes: each has rows of its own, and records are of the rows of all.

What a site has measured is sums over the rows of each class (`csrc/ops/probe_ops.h`), and sums of
processes add up. So all that goes from process to process is two all-reduces per recorded step: a
few whole numbers, by which the processes make sure that they speak of the same step, and the sums
of all sites in one tensor. The first goes by way of the host and waits for the other processes, not
for a device; on a device the second is queued behind the kernels, if the group reduces there.
"""

from __future__ import annotations

import zlib
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from tfc_fast import _extension

_C = _extension._C


def checked_group(group: Any) -> distributed.ProcessGroup:
    """A process group that this process is in.

    Raises:
        TypeError: It is something else.
        ValueError: This process is not in it.
    """
    if not distributed.is_available() or not isinstance(group, distributed.ProcessGroup):
        raise TypeError(
            "process_group: wanted a process group of torch.distributed, got "
            f"{type(group).__name__}; torch.distributed.group.WORLD is that of all processes "
            "once init_process_group was called, and mesh.get_group() that of a DeviceMesh"
        )
    if distributed.get_rank(group) < 0:
        raise ValueError("process_group: this process is not in that group")
    return group


class Processes:
    """The processes of one group, of which this is one.

    Args:
        group: Process group of torch.distributed.
        timeout: Seconds that this one waits for the others; None: as the group was made.

    Raises:
        TypeError: `group` or `timeout` is of the wrong type.
        ValueError: This process is not in the group, or `timeout` is not above 0.
    """

    def __init__(self, group: Any, timeout: float | None) -> None:
        if timeout is not None and (
            isinstance(timeout, bool) or not isinstance(timeout, (int, float))
        ):
            raise TypeError(f"group_timeout: wanted seconds, got {type(timeout).__name__}")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"group_timeout: wanted more than 0 seconds, got {timeout}")
        checked_group(group)
        self._timeout = None if timeout is None else timedelta(seconds=timeout)
        self.rank = distributed.get_rank(group)
        self.count = distributed.get_world_size(group)
        backends = distributed.get_backend_config(group)
        self._devices = [backend.partition(":")[0] for backend in backends.split(",")]
        # One of its own, of the same processes: where one of them leaves out a step, what is to be
        # reduced here would meet what is next there, such as DDP's gradients, and gloo would abort.
        ranks = distributed.get_process_group_ranks(group)
        self._group = distributed.new_group(ranks, backend=backends, use_local_synchronization=True)
        self._host_group = (
            self._group
            if "cpu" in self._devices
            else distributed.new_group(ranks, backend="gloo", use_local_synchronization=True)
        )
        self._fingerprints: dict[_C.Recorder, tuple[int, int, int]] = {}

    def combine(
        self, recorder: _C.Recorder, names: list[str], loss: Tensor | float | None
    ) -> Tensor | float | None:
        """Make the open step of the recorder that of all processes.

        Returns:
            The mean of the losses of the processes that have one.

        Raises:
            RuntimeError: The others did not come in time, or are at another step, or have seen
                other sites. What this process has recorded of the step is forgotten then.
        """
        if not recorder.recording():
            return loss
        step, batches, units = recorder.collect()
        try:
            batches = self._agree(step, batches, units, self._fingerprint(recorder, names, units))
            total = recorder.own_sums(batches)
            if loss is not None:
                total[-2], total[-1] = loss, 1
            total = self._reduce(total, distributed.ReduceOp.SUM, step)
        except BaseException:
            recorder.discard_step()
            self.forget(recorder)
            raise
        recorder.take_sums(total, batches, self.count)
        return total[-2] / total[-1]

    def _agree(self, step: int, batches: int, units: int, fingerprint: int) -> int:
        """The largest number of micro-batches; of the rest there may be one value only."""
        own = torch.tensor(
            [batches, step, units, fingerprint, -step, -units, -fingerprint], device="cpu"
        )
        most = self._reduce(own, distributed.ReduceOp.MAX, step)
        largest, smallest = most[1:4].tolist(), (-most[4:]).tolist()
        if largest[0] != smallest[0]:
            raise RuntimeError(
                f"Probe.step: process {self.rank} is at step {step}, but others of the group are "
                f"at steps {smallest[0]} to {largest[0]}; all processes must call step() equally "
                "often, and those that resume must load the same state"
            )
        if largest != smallest:
            raise RuntimeError(
                "Probe.step: the processes of the group have not seen the same sites, or not in "
                "the same order, or of different widths; all must use the same model, `sites`, "
                "and modules in each forward"
            )
        return int(most[0])

    def forget(self, recorder: _C.Recorder) -> None:
        """Where the recorder's sites lie is no longer known."""
        self._fingerprints.pop(recorder, None)

    def _fingerprint(self, recorder: _C.Recorder, names: list[str], units: int) -> int:
        """One number for the sites and where they lie; waits for a device where one is new."""
        known = self._fingerprints.get(recorder)
        if known is None or known[:2] != (len(names), units):
            placement = recorder.placement().numpy().tobytes()
            names_too = zlib.crc32("\n".join(names).encode())
            known = (len(names), units, zlib.crc32(placement, names_too))
            self._fingerprints[recorder] = known
        return known[2]

    def _reduce(self, numbers: Tensor, how: distributed.ReduceOp.RedOpType, step: int) -> Tensor:
        """`numbers` of all processes put together, on the device of `numbers`."""
        device = numbers.device
        on_device = device.type != "cpu" and device.type in self._devices
        group = self._group if on_device else self._host_group
        if not on_device:
            numbers = numbers.to("cpu")
        options = distributed.AllreduceOptions()
        options.reduceOp = distributed.ReduceOp(how)
        if self._timeout is not None:
            options.timeout = self._timeout
        try:
            group.allreduce([numbers], options).wait()
        except RuntimeError as error:
            raise RuntimeError(
                f"Probe.step: process {self.rank} of {self.count} waited in vain for the others "
                f"to close step {step}. Has one of them died, or left out a step? All processes of "
                f"the group must call step() equally often. ({str(error).splitlines()[0]})"
            ) from error
        return numbers.to(device)
