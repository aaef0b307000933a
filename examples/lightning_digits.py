"""A deep MLP on real digits in Lightning, watched at every step.

    python examples/lightning_digits.py [--steps N] [--depth N]

Prints how alike the features of different classes were in the last hidden layer along the way.
"""

from __future__ import annotations

import argparse

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from tfc_fast.data import load_dataset
from tfc_fast.integrations.lightning import TFCCallback
from tfc_fast.models import MLP


class Digits(pl.LightningModule):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.mlp = MLP(64, 10, depth=depth, width=256, bias=False, gain=0.41)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self.mlp(x), y)
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--depth", type=int, default=7)
    arguments = parser.parse_args()

    pl.seed_everything(0, verbose=False)
    digits = load_dataset("digits")
    loader = DataLoader(
        TensorDataset(digits.inputs, digits.labels), batch_size=100, shuffle=True, drop_last=True
    )
    callback = TFCCallback(num_classes=10)
    trainer = pl.Trainer(
        max_steps=arguments.steps,
        max_epochs=-1,
        accelerator="cpu",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(Digits(arguments.depth), loader)

    history = callback.history()
    last = history["site"] == history["site"][-1]
    for column in ("step", "loss", "feature_cos_between", "grad_cos_within"):
        values = history[column][last][:: max(1, arguments.steps // 10)]
        print(f"{column:20}", *(f"{value:8.3g}" for value in values))


if __name__ == "__main__":
    main()
