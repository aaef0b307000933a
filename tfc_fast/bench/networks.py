"""Networks as people train them, which the benchmark trains besides MLPs.

VGG-11 and ResNet-18 for images of 32 x 32, a Transformer for sequences of tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tfc_fast.models import vgg11
from tfc_fast.probe.reductions import Reduction
from tfc_fast.probe.sites import Sites

__all__ = [
    "NETWORKS",
    "Attention",
    "BasicBlock",
    "Network",
    "Transformer",
    "images",
    "resnet18",
    "tokens",
]


class BasicBlock(nn.Module):
    """Two convolutions and a way around them; its one ReLU is called twice.

    Args:
        channels: Of the input.
        out: Of the output.
        stride: Of the first convolution.
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Images to images."""
        y = self.relu(self.bn1(self.conv1(x)))
        out: Tensor = self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))
        return out


def resnet18(width: int = 64, num_classes: int = 10) -> nn.Sequential:
    """ResNet-18 as for CIFAR: no pooling before the first block."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    channels = width
    for stage in range(4):
        for block in range(2):
            out = width * 2**stage
            layers.append(BasicBlock(channels, out, 2 if stage > 0 and block == 0 else 1))
            channels = out
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes)]
    return nn.Sequential(*layers)


class Attention(nn.Module):
    """One layer of a Transformer, normalised first, without dropout."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.act = nn.GELU()
        self.contract = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Sequences to sequences."""
        y = self.attention_norm(x)
        y, _ = self.attention(y, y, y, need_weights=False)
        x = x + y
        out: Tensor = x + self.contract(self.act(self.expand(self.norm(x))))
        return out


class Transformer(nn.Module):
    """Tokens to classes, by the mean over positions."""

    def __init__(
        self, width: int = 32, layers: int = 4, vocabulary: int = 50, num_classes: int = 10
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Attention(width, 4) for _ in range(layers))
        self.head = nn.Linear(width, num_classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens to scores of classes."""
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.head(x.mean(1))
        return out


def images(generator: torch.Generator, n: int) -> Tensor:
    """Normal noise, `[n, 3, 32, 32]`."""
    return torch.randn(n, 3, 32, 32, generator=generator)


def tokens(generator: torch.Generator, n: int, length: int = 9, vocabulary: int = 50) -> Tensor:
    """Numbers of tokens, int64 `[n, length]`."""
    return torch.randint(0, vocabulary, (n, length), generator=generator)


class Network(NamedTuple):
    """A network of the benchmark.

    Attributes:
        make: Makes it, for 10 classes.
        inputs: Makes a batch of so many samples.
        sites: What is watched.
        reduction: What the rows are, unless told otherwise.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[torch.Generator, int], Tensor]
    sites: Sites
    reduction: Reduction


NETWORKS: dict[str, Network] = {
    "vgg11": Network(vgg11, images, "relu", "flatten"),
    "vgg11_bn": Network(lambda: vgg11(batch_norm=True), images, "relu", "flatten"),
    "resnet18": Network(resnet18, images, "relu", "flatten"),
    "transformer": Network(
        lambda: Transformer(256, vocabulary=1000),
        lambda generator, n: tokens(generator, n, 64, 1000),
        nn.GELU,
        "tokens",
    ),
}
"""By name."""
