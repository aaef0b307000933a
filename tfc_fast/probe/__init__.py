"""The probe: watches places in a model while it trains.

`probe.py` is what a user holds; `sites.py` chooses the modules; `watch.py` and `taps.py` stand in
the model and hand features and gradients to the compiled recorder; `outputs.py` says which of
several outputs is the feature, `reductions.py` what its rows are; `outlet.py` brings records to
sinks and listeners, `evaluation.py` those of forwards without gradients; `budget.py` thins them
out, and `description.py` says what is watched and what is not.
"""

from tfc_fast.probe.description import Description, SiteDescription
from tfc_fast.probe.overhead import Overhead
from tfc_fast.probe.probe import Probe
from tfc_fast.probe.sites import Sites
from tfc_fast.probe.taps import tap

__all__ = ["Description", "Overhead", "Probe", "SiteDescription", "Sites", "tap"]
