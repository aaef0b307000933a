"""The networks of the collapse experiments, and their initial weights.

Each is made from sizes and a `gain`, a factor on He's standard deviation of the initial weights;
the draws come from a generator that is given, so that one seed gives the same directions for every
gain.
"""

from __future__ import annotations

from tfc_fast.models.convolutional import vgg11
from tfc_fast.models.initial import draw_weights
from tfc_fast.models.mlp import MLP
from tfc_fast.models.recurrent import RowNetwork

__all__ = ["MLP", "RowNetwork", "draw_weights", "vgg11"]
