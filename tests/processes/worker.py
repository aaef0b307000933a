"""One of several processes: takes the steps of all scenarios. `torchrun worker.py FOLDER`."""

from __future__ import annotations

import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
import torch.distributed as distributed
from process_scenarios import OF_FOUR, SCENARIOS, Scenario, rows_of, take_steps, wrapped
from torch import nn

from tfc_fast import Probe
from tfc_fast.sinks import MemorySink


def weights_after_training(probed: bool) -> torch.Tensor:
    scenario = Scenario()
    model = wrapped(scenario)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    probe = Probe(model, num_classes=scenario.classes, process_group=distributed.group.WORLD)
    if probed:
        probe.attach()
    for step in range(10):
        x, y = rows_of(scenario, step, 0, distributed.get_rank())
        if probed:
            probe.batch(labels=y)
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        if probed:
            probe.step(loss=loss)
        optimizer.step()
        optimizer.zero_grad()
    probe.detach()
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def main(left_out: Collection[str] = ()) -> None:
    folder = Path(sys.argv[1])
    distributed.init_process_group("gloo")
    rank, processes = distributed.get_rank(), distributed.get_world_size()
    for name in SCENARIOS if processes == 2 else OF_FOUR:
        if name in left_out:
            continue
        scenario = SCENARIOS[name]
        sink = MemorySink()
        _, records = take_steps(
            scenario,
            wrapped(scenario),
            [rank],
            processes,
            process_group=distributed.group.WORLD,
            **({"eval_sinks": [sink]} if scenario.evaluates else {"sinks": [sink]}),
        )
        columns = {name: values for name, values in records.items() if name != "site"}
        np.savez(
            folder / f"{name}-{rank}.npz",
            site=records["site"].astype(str),
            written=len(sink.history()["step"]),
            **columns,
        )
    untouched = torch.equal(weights_after_training(True), weights_after_training(False))
    (folder / f"untouched-{rank}").write_text(str(untouched))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
