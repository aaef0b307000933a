"""Feature and gradient similarity and ReLU gating statistics, at every training step.

`Probe` watches the layers of a model while it trains; `similarity` and `gating` hold the same
statistics as functions of a tensor; `phases` reads from a run whether and when its features
collapsed. Importing the package imports torch and numpy only.
"""

from __future__ import annotations

from tfc_fast import _startup, gating, phases, similarity  # noqa: F401  (the first: see there)
from tfc_fast._version import __version__
from tfc_fast.probe import Probe, tap

__all__ = ["Probe", "__version__", "gating", "phases", "similarity", "tap"]
