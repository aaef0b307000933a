"""Gates of ReLU units, `x > 0`: which function answers which question.

- `gate_stats`: how often are units open, which never or always, how alike are the gates of samples?
- `agreement_matrix`: how alike are the gates of every row to those of every other?
- `agreement_histogram`: how is that agreement distributed over all pairs, and between classes?
- `UnitActivity`: which units are dead over a run, since when, and which came back to life?
- `pack_gates`: the gates themselves, as bits.
"""

from __future__ import annotations

from tfc_fast.gating.activity import UnitActivity
from tfc_fast.gating.agreement import agreement_matrix
from tfc_fast.gating.histogram import AgreementHistogram, agreement_histogram
from tfc_fast.gating.packed import pack_gates
from tfc_fast.gating.stats import GateStats, gate_stats

__all__ = [
    "AgreementHistogram",
    "GateStats",
    "UnitActivity",
    "agreement_histogram",
    "agreement_matrix",
    "gate_stats",
    "pack_gates",
]
