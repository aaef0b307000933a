"""The thresholds of phases: what the judgement of a whole run and of a running one have in common.

They are the defaults of `first_phase_end`, `site_phases`, `analyze` and `PhaseMonitor`, so that an
event that is told while a run goes on and the verdict at its end mean the same.
"""

from __future__ import annotations

DECAY = 0.95
"""Weight of the past in running means: about 20 steps."""

DROP = 0.1
"""Fraction of its plateau by which the loss falls where the first phase ends."""

HOLD_TIME_CONSTANTS = 5
"""A level counts as part of the plateau when the smoothed loss held it for this many time constants
`1 / (1 - decay)`: long enough that the tail of a spike cannot lift the plateau."""

MIN_RISE = 0.04
"""Smallest rise of a mean cosine that counts as collapse."""

MIN_PHASE = 50
"""Steps from which on a first phase is long enough for a collapse."""

PATIENCE = 300
"""Steps without progress after which a run counts as stuck."""

PROGRESS = 0.25
"""Part of the drop of the loss, and of the rise of a similarity, that counts as progress."""

WINDOW = 21
"""Records of a site that its running mean covers."""

INITIAL_COSINE = 0.8
"""Mean cosine between classes from which on features are collapsed at initialisation: the squared
distance `2 (1 - cos)` of two unit features is then a fifth of that of unrelated ones."""

VANISHING = 0.01
"""Length of the gradients at the first site, as a part of that at the last one, below which they
vanish: a step of the weights there is a hundred times smaller."""

DEAD_UNITS = 0.5
"""Share of dead units of a site that is worth to be told."""

DEAD_WINDOW = 100
"""Steps that `dead_window_frac` looks back over, unless the probe was told otherwise."""
