"""How early the phase monitor speaks up, and how often without cause.

    python benchmarks/phase_monitor.py [--seeds N] [--threads N] [--json FILE]

Trains MLPs on digits (width 256, no bias, initial gain 0.41 of He, SGD with lr 0.05, batch 100),
probed at every step, and feeds a PhaseMonitor with what was recorded: depth 3, which learns at once
(an alarm is a false one); depths 7 and 9, which collapse and learn late; depth 11, which is stuck
for as long as it is watched. The delay of an alarm is told as a part of the first phase.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from tfc_fast import Probe
from tfc_fast.data import Dataset, load_dataset
from tfc_fast.environment import environment
from tfc_fast.models import MLP
from tfc_fast.phases import PhaseMonitor, first_phase_end
from tfc_fast.records import Records

BATCH = 100
STEPS = {3: 400, 7: 1200, 9: 4000, 11: 1500}
CHANCE = math.log(10)


@dataclass
class Outcome:
    """What the monitor said of one run, and when."""

    depth: int
    seed: int
    first_phase_end: int | None
    alarm: str | None
    alarm_step: int | None
    recovered_step: int | None

    @property
    def delay(self) -> float | None:
        """Of the alarm, as a part of the first phase or of the run that did not leave it."""
        if self.alarm_step is None:
            return None
        return self.alarm_step / (self.first_phase_end or STEPS[self.depth])


def train(data: Dataset, depth: int, seed: int) -> Records:
    """The records of one run."""
    generator = torch.Generator().manual_seed(seed)
    model = MLP(data.num_features, 10, depth, 256, bias=False, gain=0.41, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    step = 0
    with Probe(model, num_classes=10) as probe:
        while step < STEPS[depth]:
            order = torch.randperm(len(data), generator=generator)
            for rows in torch.tensor_split(
                order[: len(order) // BATCH * BATCH], len(order) // BATCH
            ):
                if step == STEPS[depth]:
                    break
                labels = data.labels[rows]
                probe.batch(labels=labels)
                loss = F.cross_entropy(model(data.inputs[rows]), labels)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                probe.step(loss=loss)
                optimizer.step()
                step += 1
    return probe.history()


def watch(records: Records, depth: int, seed: int) -> Outcome:
    """Feed a monitor with the records, step by step."""
    steps = np.unique(records["step"])
    sites = list(dict.fromkeys(records["site"].tolist()))
    between = records["feature_cos_between"].reshape(len(steps), len(sites))
    losses = records["loss"].reshape(len(steps), len(sites))[:, 0]
    monitor = PhaseMonitor(chance_loss=CHANCE)
    for step, loss, row in zip(steps.tolist(), losses.tolist(), between.tolist(), strict=True):
        monitor.update(step, loss, dict(zip(sites, row, strict=True)))
    alarm = next((c for c in monitor.changes if c.state in ("collapsing", "stuck")), None)
    recovered = next((c.step for c in monitor.changes if c.state == "recovered"), None)
    return Outcome(
        depth=depth,
        seed=seed,
        first_phase_end=first_phase_end(losses, steps=steps, chance_loss=CHANCE),
        alarm=None if alarm is None else alarm.state,
        alarm_step=None if alarm is None else alarm.step,
        recovered_step=recovered,
    )


def row_of(depth: int, outcomes: list[Outcome]) -> str:
    """One row of the table."""
    ends = [o.first_phase_end for o in outcomes if o.first_phase_end is not None]
    delays = [o.delay for o in outcomes if o.delay is not None]
    alarms = [o.alarm_step for o in outcomes if o.alarm_step is not None]
    return " | ".join(
        (
            f"| {depth}",
            f"{len(outcomes)}",
            f"{min(ends)} to {max(ends)}" if ends else "never ended",
            f"{len(alarms)}",
            f"{min(alarms)} to {max(alarms)}" if alarms else "-",
            f"{100 * statistics.median(delays):.0f} % |" if delays else "- |",
        )
    )


def main() -> None:
    """Train, watch, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50, help="healthy runs; a fifth of the others")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    data = load_dataset("digits")
    counts = {depth: max(2, arguments.seeds // (1 if depth == 3 else 5)) for depth in STEPS}
    runs = [(depth, seed) for depth, seeds in counts.items() for seed in range(seeds)]
    outcomes = []
    with tqdm(runs, unit="run") as bar:
        for depth, seed in bar:
            bar.set_postfix(depth=depth)
            outcomes.append(watch(train(data, depth, seed), depth, seed))

    print("| depth | runs | first phase ended | alarms | at step | median, of the first phase |")
    print("|---|---|---|---|---|---|")
    for depth in STEPS:
        print(row_of(depth, [outcome for outcome in outcomes if outcome.depth == depth]))
    if arguments.json is not None:
        result: dict[str, Any] = {
            "benchmark": "phase_monitor",
            "steps": STEPS,
            **environment(torch.device("cpu")),
            "outcomes": [vars(outcome) | {"delay": outcome.delay} for outcome in outcomes],
        }
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
