"""A deep MLP on real digits, trained by several processes, watched at every step.

    torchrun --nproc-per-node 2 examples/ddp_digits.py [--steps N] [--depth N]

The records are those of all rows of all processes. The first process prints how alike the features
of different classes were in the last hidden layer along the way.
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from tfc_fast import Probe
from tfc_fast.data import load_dataset
from tfc_fast.models import MLP
from tfc_fast.records import Records


def train(depth: int, steps: int) -> Records:
    torch.manual_seed(0)
    model = DistributedDataParallel(MLP(64, 10, depth=depth, width=256, bias=False, gain=0.41))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    digits = load_dataset("digits")
    data = TensorDataset(digits.inputs, digits.labels)
    sampler = DistributedSampler(data, drop_last=True)
    loader = DataLoader(
        data, batch_size=100 // dist.get_world_size(), sampler=sampler, drop_last=True
    )
    with Probe(model, num_classes=10, process_group=dist.group.WORLD) as probe:
        for step in range(steps):
            if step % len(loader) == 0:
                sampler.set_epoch(step // len(loader))
                batches = iter(loader)
            x, y = next(batches)
            probe.batch(labels=y)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            probe.step(loss=loss)
            optimizer.step()
            optimizer.zero_grad()
    return probe.history()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--depth", type=int, default=7)
    arguments = parser.parse_args()

    dist.init_process_group("gloo")
    history = train(arguments.depth, arguments.steps)
    if dist.get_rank() == 0:
        last = history["site"] == history["site"][-1]
        print(f"{'rows':20}", history["n_rows"][-1])
        for column in ("step", "loss", "feature_cos_between", "grad_cos_within"):
            values = history[column][last][:: max(1, arguments.steps // 10)]
            print(f"{column:20}", *(f"{value:8.3g}" for value in values))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
