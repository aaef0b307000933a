"""One run as an experiment sees it: how long its first phase was, and what happened in it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc_fast import phases
from tfc_fast.run_directory import RunDirectory

__all__ = ["OBSERVED", "Measurement", "finite", "known_median", "of_medians"]

OBSERVED = "observed.npz"
"""Name of the file, within the folder of a run, with what an observer of its training saw."""


@dataclass(frozen=True)
class Measurement:
    """A finished run, as a setting of an experiment.

    Attributes:
        setting: Label of its setting.
        seed: Of the run.
        run: Its files.
        summary: The phase analysis of the run, from `read_run`.
    """

    setting: str
    seed: int
    run: RunDirectory
    summary: phases.PhaseSummary

    @functools.cached_property
    def log(self) -> dict[str, npt.NDArray[Any]]:
        """Loss and accuracy of every step, see `RunDirectory.read_train`."""
        return self.run.read_train()

    @functools.cached_property
    def observed(self) -> dict[str, npt.NDArray[Any]]:
        """What the observer of its setting saw, see `tfc_fast.reproduce.observation`."""
        with np.load(self.run.path / OBSERVED) as arrays:
            return dict(arrays)

    @property
    def length(self) -> float:
        """Steps of the first phase; infinite if it did not end in the run."""
        end = self.summary.first_phase_end
        return math.inf if end is None else float(end - (self.summary.first_step or 0))

    @property
    def steps(self) -> int:
        """Steps of the run."""
        return len(self.log["step"])

    @property
    def site(self) -> phases.SitePhase | None:
        """The site at which features collapsed most, None if nothing was measured."""
        name = self.summary.collapse_site
        return next((site for site in self.summary.sites if site.site == name), None)

    @property
    def rise(self) -> float:
        """Largest rise of the between-class similarity of features in the first phase."""
        return math.nan if self.site is None else self.site.feature_between.rise

    @property
    def peak(self) -> float:
        """Its peak there, a cosine."""
        return math.nan if self.site is None else self.site.feature_between.peak

    @property
    def accuracy(self) -> float:
        """Smoothed training accuracy at the end."""
        return float(phases.smoothed_loss(self.log["accuracy"])[-1])

    def by_site(self, column: str) -> dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]:
        """Steps and values of one column at each site, in recorded order.

        Read anew at each call: the records of many runs would fill the memory.
        """
        records = self.run.read_metrics()
        return {
            site: (records["step"][here], np.asarray(records[column][here]))
            for site in dict.fromkeys(records["site"].tolist())
            for here in [records["site"] == site]
        }

    def row(self) -> dict[str, Any]:
        """What the table of the runs says of it; None: not ended, or not measured."""
        summary, site = self.summary, self.site
        return {
            "setting": self.setting,
            "seed": self.seed,
            "steps": self.steps,
            "first_phase_end": summary.first_phase_end,
            "verdict": summary.verdict,
            "collapse_site": summary.collapse_site,
            "rise_feature_cos_between": finite(self.rise),
            "peak_feature_cos_between": finite(self.peak),
            "peak_step": summary.peak_step,
            "rise_grad_cos_within": None if site is None else finite(site.grad_within.rise),
            "final_loss": finite(summary.final_loss),
            "accuracy": finite(self.accuracy),
        }


def known_median(values: Iterable[float]) -> float:
    """Median of the values that are not NaN; NaN if there is none.

    Example:
        >>> known_median([3.0, math.nan, 1.0])
        2.0
    """
    known = [value for value in values if not math.isnan(value)]
    return float(np.median(known)) if known else math.nan


def of_medians(later: Iterable[float]) -> str:
    """Says that numbers are medians, and of how many runs those after the first phase are.

    Args:
        later: One number of each run after its first phase; NaN if it did not end.

    Example:
        >>> of_medians([1.0, math.nan, 3.0])
        'medians; after it, of the 2 of 3 runs where it is known'
    """
    known = [not math.isnan(value) for value in later]
    if all(known) or not any(known):
        return "medians"
    return f"medians; after it, of the {sum(known)} of {len(known)} runs where it is known"


def finite(value: float) -> float | None:
    """The value; None for NaN and infinities, which tables and JSON do not know."""
    return value if math.isfinite(value) else None
