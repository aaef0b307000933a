"""The probe: watches places in a model while it trains.

`probe.py` is what a user holds; `sites.py` chooses the modules; `watch.py` stands in the model and
hands features and gradients to the compiled recorder; `outputs.py` says which of several outputs is
the feature, `description.py` what is watched and what is not.
"""

from tfc_fast.probe.description import Description, SiteDescription
from tfc_fast.probe.overhead import Overhead
from tfc_fast.probe.probe import Probe
from tfc_fast.probe.sites import Sites
from tfc_fast.probe.watch import tap

__all__ = ["Description", "Overhead", "Probe", "SiteDescription", "Sites", "tap"]
