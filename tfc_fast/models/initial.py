"""Initial weights of a network whatever its layers are."""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["draw_weights"]


def draw_weights(
    model: nn.Module, gain: float = 1.0, generator: torch.Generator | None = None
) -> None:
    """Draw all weights anew: `W ~ N(0, gain^2 * 2 / fan_in)`, biases 0 (He et al., 2015).

    `fan_in` is the number of inputs of an output of the matrix or kernel; the matrices of a
    recurrent layer count each by itself. Normalisations, and other modules all of whose parameters
    are vectors or numbers, start as torch starts them. Of a module of your own, vectors and numbers
    whose name does not say `bias` stay what they are.

    Args:
        model: Its parameters are on the CPU.
        gain: Factor on He's standard deviation.
        generator: Source of the weights; torch's global one if not given.

    Example:
        >>> model = nn.Linear(200, 100)
        >>> draw_weights(model, gain=0.5, generator=torch.Generator().manual_seed(0))
        >>> round(model.weight.std().item() / math.sqrt(2 / 200), 2), model.bias.any().item()
        (0.5, False)
    """
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        no_matrix = bool(own) and all(weight.dim() < 2 for weight in own.values())
        # Also without parameters a normalisation may have running statistics.
        is_norm = isinstance(module, nn.modules.batchnorm._NormBase)
        reset = getattr(module, "reset_parameters", None)
        if (no_matrix or is_norm) and callable(reset):
            reset()
            continue
        for name, weight in own.items():
            with torch.no_grad():
                if weight.dim() >= 2:
                    # Drawn first and scaled after: one seed, the same directions for every gain.
                    fan_in = weight[0].numel()
                    weight.normal_(generator=generator).mul_(gain * math.sqrt(2 / fan_in))
                elif "bias" in name:
                    weight.zero_()
