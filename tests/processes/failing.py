"""One of two processes of which the second one does something wrong.

`python failing.py FOLDER RANK HOW`
"""

from __future__ import annotations

import os
import sys
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as distributed
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tfc_fast import Probe, tap

TIMEOUT = 3.0


def main() -> None:
    folder, rank, how = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    wrong = rank == 1
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    run = DistributedDataParallel(model) if how.endswith("under DDP") else model
    group = distributed.group.WORLD
    with Probe(model, num_classes=2, process_group=group, group_timeout=TIMEOUT) as probe:
        if wrong and how == "is at another step":
            probe.load_state_dict(probe.state_dict() | {"step": 7})
        for step in range(4):
            probe.batch(labels=torch.arange(8) % 2)
            out = run(torch.randn(8, 4))
            if wrong and how == "has another site":
                out = tap(out, "own")
            out.sum().backward()
            if wrong and step == 2 and how == "dies":
                os._exit(9)
            if wrong and step == 2 and how == "leaves out a step under DDP":
                continue
            if wrong and step == 2 and how == "leaves out a step":
                time.sleep(TIMEOUT + 10)
            probe.step()


if __name__ == "__main__":
    try:
        main()
    except RuntimeError:
        traceback.print_exc()
        # At once: with the other process dead, threads of gloo may abort what ends at leisure.
        sys.stderr.flush()
        os._exit(1)
    distributed.destroy_process_group()
