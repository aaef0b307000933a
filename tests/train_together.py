"""Several processes train together. `torchrun train_together.py FOLDER`"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from tfc_fast.trainer import TrainConfig, Trainer, TrainResult

STEPS = 24


def settings(folder: Path, **changes: object) -> TrainConfig:
    # 50 samples are no equal shares for 3 processes.
    given = {"dataset": "gaussian", "samples": 300, "dim": 16, "batch_size": 50, "steps": STEPS}
    given |= {"depth": 4, "width": 24, "momentum": 0.9, "lr": 0.2, "checkpoint_every": 5}
    return TrainConfig(**(given | changes), out=str(folder))  # type: ignore[arg-type]


class Stops(nn.Module):
    """Asks the process for its end in the forward of step 7."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 10))
        self.step = 0

    def forward(self, x: Tensor) -> Tensor:
        self.step += 1
        if self.step == 7 and distributed.get_rank() == 1:
            signal.raise_signal(signal.SIGTERM)
        out: Tensor = self.layers(x)
        return out


def told(result: TrainResult) -> dict[str, object]:
    weights = torch.cat([weight.detach().flatten() for weight in result.model.parameters()])
    return {
        "steps": result.steps,
        "stopped_by": result.stopped_by,
        "verdict": result.phases.verdict,
        "folder": result.run_directory.path.name,
        "weights": weights.double().tolist(),
    }


def main() -> None:
    folder = Path(sys.argv[1])
    distributed.init_process_group("gloo")
    group = distributed.group.WORLD
    results = {"whole": Trainer(settings(folder / "whole"), process_group=group).fit()}
    Trainer(settings(folder / "parts", steps=11), process_group=group).fit()
    results["parts"] = Trainer.resume(folder / "parts", steps=STEPS, process_group=group).fit()
    torch.manual_seed(1)
    stops = settings(folder / "stops", depth=2, width=8)
    results["stops"] = Trainer(stops, model=Stops(), process_group=group).fit()
    try:
        Trainer(settings(folder / "small", batch_size=1), process_group=group)
    except ValueError as error:
        (folder / f"error-{distributed.get_rank()}").write_text(str(error))
    (folder / f"results-{distributed.get_rank()}.json").write_text(
        json.dumps({name: told(result) for name, result in results.items()})
    )
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
