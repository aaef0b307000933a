"""A small vision transformer on real digits with the Trainer of transformers, watched throughout.

    python examples/transformers_digits.py [--steps N]

The model is made from a configuration, with random weights. Prints how alike the samples of
different classes are behind the activation of each block, at the beginning and at the end.
"""

from __future__ import annotations

import argparse
import tempfile

from torch import Tensor
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

from tfc_fast.data import load_dataset
from tfc_fast.integrations.transformers import TFCCallback


class Images(Dataset[dict[str, Tensor]]):
    def __init__(self) -> None:
        digits = load_dataset("digits")
        self.pixels = digits.inputs.reshape(-1, 1, 8, 8)
        self.labels = digits.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": self.pixels[index], "labels": self.labels[index]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200)
    arguments = parser.parse_args()

    set_seed(0)
    model = ViTForImageClassification(
        ViTConfig(
            image_size=8,
            patch_size=2,
            num_channels=1,
            hidden_size=32,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=64,
            num_labels=10,
        )
    )
    modules = dict(model.named_modules())
    activations = [name for name, module in modules.items() if "GELU" in type(module).__name__]
    callback = TFCCallback(activations, num_classes=10)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            model,
            TrainingArguments(
                output_dir=folder,
                max_steps=arguments.steps,
                per_device_train_batch_size=64,
                learning_rate=1e-3,
                logging_steps=max(1, arguments.steps // 5),
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                disable_tqdm=True,
            ),
            train_dataset=Images(),
        )
        callback.add_to(trainer)
        trainer.train()

    history = callback.history()
    for site in callback.probe.sites if callback.probe is not None else ():
        between = history["feature_cos_between"][history["site"] == site]
        print(f"{site:60} {between[0]:.3f} -> {between[-1]:.3f}")


if __name__ == "__main__":
    main()
