"""The network that the settings of a run name."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import nn

from tfc_fast.models import MLP, RowNetwork, draw_weights, vgg11
from tfc_fast.trainer.config import TrainConfig
from tfc_fast.trainer.samples import Samples

__all__ = ["new_network"]


def new_network(config: TrainConfig, samples: Samples) -> nn.Module:
    """Return the network of a run, on the CPU; torch's global generator is not touched.

    Args:
        config: Its model, sizes and gain; its seed is that of the initial weights.
        samples: What it shall be trained on.

    Raises:
        TypeError: The samples are not float32.
        ValueError: The model wants images, and the samples are none.
    """
    if samples.inputs.dtype != torch.float32:
        name = "MLP" if config.model == "mlp" else config.model
        raise TypeError(
            f"dataset: inputs are {samples.inputs.dtype}, the {name} wants float32; .float()"
        )
    generator = torch.Generator().manual_seed(config.seed)
    if config.model == "mlp":
        return MLP(
            samples.inputs[0].numel(),
            samples.num_classes,
            config.depth,
            config.width,
            bias=config.bias,
            batch_norm=config.batch_norm,
            gain=config.gain,
            inplace=config.inplace,
            generator=generator,
        )
    if len(samples.shape) != 3:
        raise ValueError(
            f"model: {config.model} wants images, (channels, height, width); the samples of "
            f"{samples.name} have shape {samples.shape}; choose model='mlp' or another data set"
        )
    # By way of "meta": the layers would draw initial weights of their own.
    with torch.device("meta"):
        network = _for_images(config, samples)
    network.to_empty(device="cpu")
    draw_weights(network, config.gain, generator)
    return network


def _for_images(config: TrainConfig, samples: Samples) -> nn.Module:
    if config.model == "vgg11":
        return vgg11(
            config.width,
            shape=samples.shape,
            batch_norm=config.batch_norm,
            bias=config.bias,
            inplace=config.inplace,
            num_classes=samples.num_classes,
        )
    return RowNetwork(
        samples.shape,
        samples.num_classes,
        config.depth,
        config.width,
        kind=cast(Literal["rnn", "lstm"], config.model),
        bias=config.bias,
    )
