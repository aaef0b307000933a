"""VGG-11 for images of 32 x 32 pixels."""

from __future__ import annotations

from torch import nn

__all__ = ["vgg11"]

_LAYERS = (1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M")
_SIDE = 32


def vgg11(
    width: int = 64,
    *,
    shape: tuple[int, ...] = (3, _SIDE, _SIDE),
    batch_norm: bool = False,
    bias: bool = True,
    inplace: bool = True,
    num_classes: int = 10,
) -> nn.Sequential:
    """VGG-11 (Simonyan and Zisserman, 2015) with one linear layer instead of three.

    Args:
        width: Channels of the first convolution; the others have up to 8 times as many.
        shape: Of an image, `(channels, height, width)`. Images of another size than 32 x 32 are
            scaled to it, bilinearly. Samples may be flat: `[n, d]`.
        batch_norm: Whether a batch normalisation stands before each ReLU.
        bias: Whether convolutions and linear layer have a bias.
        inplace: Whether each ReLU overwrites its input.
        num_classes: Numbers per output.

    Returns:
        A network of images `[n, *shape]` to logits `[n, num_classes]`, with torch's initial
        weights.

    Raises:
        ValueError: `shape` is not that of an image.

    Example:
        >>> import torch
        >>> vgg11(2, shape=(1, 8, 8))(torch.zeros(5, 64)).shape
        torch.Size([5, 10])
    """
    if len(shape) != 3:
        raise ValueError(f"shape: {shape} given, (channels, height, width) of an image is wanted")
    layers: list[nn.Module] = [nn.Flatten(), nn.Unflatten(1, shape)]
    if shape[1:] != (_SIDE, _SIDE):
        layers.append(nn.Upsample(size=(_SIDE, _SIDE), mode="bilinear"))
    channels = shape[0]
    for entry in _LAYERS:
        if isinstance(entry, str):
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(channels, width * entry, 3, padding=1, bias=bias))
        channels = width * entry
        if batch_norm:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.ReLU(inplace=inplace))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels, num_classes, bias=bias))
