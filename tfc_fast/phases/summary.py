"""The summary of a run: the end of its first phase, what each site did in it, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tfc_fast.phases.curve import first_phase_end, loss_vector, smoothed_loss, step_vector
from tfc_fast.phases.sites import SitePhase, site_phases

Verdict = Literal["collapsed", "stuck", "none"]

# Rises closer to each other than the step noise of a running mean count as tied.
_TIE = 0.01


@dataclass(frozen=True)
class PhaseSummary:
    """Result of `analyze`; floats are NaN and other values None where nothing was measured.

    Attributes:
        first_phase_end: first step after the first phase; None if it never ended.
        verdict: `"collapsed"`, `"stuck"` or `"none"`.
        collapse_site: site with the largest rise of the between-class feature similarity, whether
            or not that rise made a collapse; rises within 0.01 of the largest count as tied, and
            the deepest (last recorded) of them is taken.
        peak_step: step of the peak at that site.
        peak_feature_cos_between: value of the peak at that site (a cosine).
        sites: one `SitePhase` per site, in recorded order.
        final_loss: smoothed loss at the last step; NaN if the loss of the last step is not finite.
        n_steps: number of losses.
        first_step: step of the first loss; None without losses.
        n_nonfinite_losses: how many losses were NaN or infinite.
        always_below_chance: `chance_loss` was given and the smoothed loss was below it by `drop`
            all the time: the network could already do the task, and there was no first phase to
            watch.
        thresholds: the arguments of the analysis (`decay`, `drop`, `chance_loss`, `min_rise`,
            `min_phase`, `window`).
    """

    first_phase_end: int | None
    verdict: Verdict
    collapse_site: str | None
    peak_step: int | None
    peak_feature_cos_between: float
    sites: tuple[SitePhase, ...]
    final_loss: float
    n_steps: int
    first_step: int | None
    n_nonfinite_losses: int
    always_below_chance: bool
    thresholds: dict[str, float | int | None]

    def to_dict(self) -> dict[str, Any]:
        """This summary as plain values for JSON; NaN and infinities become None."""
        plain: dict[str, Any] = _plain(asdict(self))
        return plain


def analyze(
    loss: npt.ArrayLike,
    records: Mapping[str, npt.NDArray[Any]] | None,
    *,
    steps: npt.ArrayLike | None = None,
    chance_loss: float | None = None,
    decay: float = 0.95,
    drop: float = 0.1,
    min_rise: float = 0.04,
    min_phase: int = 50,
    window: int = 21,
) -> PhaseSummary:
    """The phases of a run and a verdict.

    - `"collapsed"`: the first phase ended, it lasted at least `min_phase` steps, and in it the
      between-class feature similarity rose by at least `min_rise` at some site.
    - `"stuck"`: the first phase did not end in a run of at least `min_phase` steps, counted to the
      last finite loss.
    - `"none"`: all else. That includes a run of fewer than `min_phase` steps that is still in its
      first phase (too short to tell), a run without losses, one without class labels, and one whose
      smoothed loss was below `chance_loss` by `drop` all the time (it was trained before).

    The defaults come from multi-layer perceptrons on handwritten digits (width 256, initial gain
    0.41, plain gradient descent, several seeds; length of the phase in steps, largest rise at any
    site): 3 linear layers 36 to 41 and at most 0.026; 4 layers 76 to 88 and 0.047 to 0.072; 5
    layers 162 to 195 and 0.088 to 0.153; 7 layers 618 to 787 and 0.151 to 0.190. With 11 layers
    (stuck for 1500 steps) noise alone gave at most 0.011. Other units of time (larger batches,
    other learning rates) ask for another `min_phase`.

    Args:
        loss: losses in step order, `[n]`.
        records: the records of the run (see `site_phases`); None or empty if there are none.
        steps: step of each loss, strictly increasing; None counts from 0.
        chance_loss: see `first_phase_end`.
        decay: see `first_phase_end`.
        drop: see `first_phase_end`.
        min_rise: smallest rise of a mean cosine that counts as collapse.
        min_phase: smallest length of a first phase that counts, in steps.
        window: see `site_phases`.

    Returns:
        The summary.

    Raises:
        ValueError: on wrong shapes or arguments out of range.

    Example:
        >>> analyze([2.3] * 200, None).verdict
        'stuck'
    """
    values = loss_vector(loss)
    numbers = step_vector(steps, values.size)
    if not min_rise > 0.0:
        raise ValueError(f"min_rise: {min_rise} given, above 0 is wanted")
    if min_phase < 1:
        raise ValueError(f"min_phase: {min_phase} given, at least 1 step is wanted")
    end = first_phase_end(values, steps=numbers, decay=decay, drop=drop, chance_loss=chance_loss)
    sites = site_phases(records, end, window=window) if records else []
    collapse = _collapse_site(sites)
    average = smoothed_loss(values, decay)
    finite = np.isfinite(values)
    always_below = bool(
        chance_loss is not None
        and finite.any()
        and np.nanmax(average) < chance_loss - drop * abs(chance_loss)
    )
    verdict: Verdict = "none"
    if finite.any() and not always_below:
        last = int(numbers[finite][-1]) + 1 if end is None else end
        length = last - int(numbers[0])
        if length >= min_phase:
            if end is None:
                verdict = "stuck"
            elif collapse is not None and collapse.feature_between.rise >= min_rise:
                verdict = "collapsed"
    return PhaseSummary(
        first_phase_end=end,
        verdict=verdict,
        collapse_site=collapse.site if collapse else None,
        peak_step=collapse.feature_between.peak_step if collapse else None,
        peak_feature_cos_between=collapse.feature_between.peak if collapse else math.nan,
        sites=tuple(sites),
        final_loss=float(average[-1]) if values.size and finite[-1] else math.nan,
        n_steps=values.size,
        first_step=int(numbers[0]) if values.size else None,
        n_nonfinite_losses=int(values.size - finite.sum()),
        always_below_chance=always_below,
        thresholds={
            "decay": decay,
            "drop": drop,
            "chance_loss": None if chance_loss is None else float(chance_loss),
            "min_rise": min_rise,
            "min_phase": min_phase,
            "window": window,
        },
    )


def _collapse_site(sites: list[SitePhase]) -> SitePhase | None:
    measured = [site for site in sites if not math.isnan(site.feature_between.rise)]
    if not measured:
        return None
    largest = max(site.feature_between.rise for site in measured)
    return [site for site in measured if site.feature_between.rise >= largest - _TIE][-1]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
