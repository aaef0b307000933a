"""Gates of ReLU units, `x > 0`: how often they are open and how alike they are between samples."""

from __future__ import annotations

from tfc_fast.gating.stats import GateStats, gate_stats

__all__ = ["GateStats", "gate_stats"]
