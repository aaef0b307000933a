"""The summary of a run: the end of its first phase, what each site did in it, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tfc_fast.phases.change_point import ChangePoint, loss_change_point
from tfc_fast.phases.curve import (
    check_numbers,
    first_phase_end,
    loss_vector,
    smoothed_loss,
    step_vector,
)
from tfc_fast.phases.monitor import PhaseMonitor
from tfc_fast.phases.replay import replayed
from tfc_fast.phases.sites import FloatArray, IntArray, SitePhase, record_steps, site_phases
from tfc_fast.phases.thresholds import DECAY, DROP, MIN_PHASE, MIN_RISE, PATIENCE, WINDOW

Verdict = Literal["collapsed", "stuck", "none", "undecided"]

# Rises closer to each other than the step noise of a running mean count as tied.
_TIE = 0.01


@dataclass(frozen=True)
class PhaseSummary:
    """Result of `analyze`; floats are NaN and other values None where nothing was measured.

    Attributes:
        first_phase_end: first step after the first phase; None if it never ended.
        change_point: where the loss left its plateau, from `loss_change_point`; None if the first
            phase never ended or the loss fell without a bend.
        verdict: `"collapsed"`, `"stuck"`, `"none"` or `"undecided"`.
        collapse_site: site with the largest rise of the between-class feature similarity, whether
            or not that rise made a collapse; rises within 0.01 of the largest count as tied (if the
            largest made a collapse, those that did), and the deepest (last recorded) is taken.
        peak_step: step of the peak at that site.
        peak_feature_cos_between: value of the peak at that site (a cosine).
        sites: one `SitePhase` per site, in recorded order.
        final_loss: smoothed loss at the last step; NaN if the loss of the last step is not finite.
        n_steps: number of losses.
        first_step: step of the first loss; None without losses.
        last_step: step of the last finite loss; None without one.
        n_missing_steps: steps of the run before the first loss, 0 if the beginning is there.
        beginning_unknown: such steps are missing, and nothing says that the first phase was not
            over by then: neither its end nor the collapse can be told.
        n_nonfinite_losses: how many losses were NaN or infinite.
        always_below_chance: `chance_loss` was given and the smoothed loss was below it by `drop`
            all the time: the network could already do the task, and there was no first phase to
            watch.
        thresholds: the arguments of the analysis (`decay`, `drop`, `chance_loss`, `min_rise`,
            `min_phase`, `patience`, `window`).
    """

    first_phase_end: int | None
    change_point: ChangePoint | None
    verdict: Verdict
    collapse_site: str | None
    peak_step: int | None
    peak_feature_cos_between: float
    sites: tuple[SitePhase, ...]
    final_loss: float
    n_steps: int
    first_step: int | None
    last_step: int | None
    n_missing_steps: int
    beginning_unknown: bool
    n_nonfinite_losses: int
    always_below_chance: bool
    thresholds: dict[str, float | int | None]

    @property
    def phase_length(self) -> int | None:
        """Steps from the first one of the run to the end of the first phase; None if not ended."""
        if self.first_phase_end is None or self.first_step is None:
            return None
        return self.first_phase_end - self.first_step + self.n_missing_steps

    @property
    def has_diverged(self) -> bool:
        """Whether the last loss is not finite."""
        return self.n_steps > 0 and math.isnan(self.final_loss)

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
    decay: float = DECAY,
    drop: float = DROP,
    min_rise: float = MIN_RISE,
    min_phase: int = MIN_PHASE,
    patience: int = PATIENCE,
    window: int = WINDOW,
) -> PhaseSummary:
    """The phases of a run and a verdict.

    - `"collapsed"`: the first phase ended, it lasted at least `min_phase` steps, and in it the
      between-class feature similarity rose by at least `min_rise` at some site.
    - `"stuck"`: the first phase did not end, and there was no progress in the last `patience` steps
      up to the last finite loss: neither did the loss fall by a quarter of `drop` nor a similarity
      rise by a quarter of `min_rise`. This is the rule of `PhaseMonitor` and of the event
      `"stuck"`.
    - `"none"`: the first phase ended within `min_phase` steps, or without such a rise; or the
      smoothed loss was below `chance_loss` by `drop` all the time (it was trained before).
    - `"undecided"`: all else. The first phase did not end in a run that is too short to be stuck or
      that still makes progress; it ended, but the similarity was not measured, as without class
      labels; or there are no finite losses.

    Steps of a run count from 1 (or 0). If the first loss is of a later step, and that step is more
    than the median distance of two steps, the beginning of the run is missing, as in the history
    of a probe that has dropped its oldest steps. Nothing can be told then (`"undecided"`, and
    `beginning_unknown`), unless `chance_loss` is given and the mean of the first `1 / (1 - decay)`
    losses is not below it by `drop`: the run was still in its first phase. Its length then counts
    from the first step of the run, and a rise that is not there may have been before
    (`"undecided"` in place of `"none"`).

    The defaults stand in `tfc_fast.phases.thresholds`. They come from multi-layer perceptrons on
    handwritten digits (width 256, initial gain 0.41, plain gradient descent, several seeds; length
    of the phase in steps, largest rise at any site): 3 linear layers 36 to 41 and at most 0.026; 4
    layers 76 to 88 and 0.047 to 0.072; 5 layers 162 to 195 and 0.088 to 0.153; 7 layers 618 to 787
    and 0.151 to 0.190. With 11 layers (stuck for 1500 steps) noise alone gave at most 0.011. Other
    units of time (larger batches, other learning rates) ask for another `min_phase` and `patience`.

    Args:
        loss: losses in step order, `[n]`.
        records: the records of the run (see `site_phases`); None or empty if there are none.
        steps: step of each loss, strictly increasing. None stands for the steps of the records,
            which has to be as many as there are losses; without records it counts from 0.
        chance_loss: see `first_phase_end`.
        decay: see `first_phase_end`.
        drop: see `first_phase_end`.
        min_rise: smallest rise of a mean cosine that counts as collapse.
        min_phase: smallest length of a first phase that counts, in steps.
        patience: steps without progress after which a run counts as stuck.
        window: see `site_phases`.

    Returns:
        The summary.

    Raises:
        TypeError: if losses or other arguments are no numbers, or records no dict.
        ValueError: on wrong shapes or arguments out of range, or if losses and records are of
            different steps.

    Example:
        >>> analyze([2.3] * 200, None).verdict, analyze([2.3] * 400, None).verdict
        ('undecided', 'stuck')
    """
    check_numbers(
        chance_loss=chance_loss,
        decay=decay,
        drop=drop,
        min_rise=min_rise,
        min_phase=min_phase,
        patience=patience,
        window=window,
    )
    values = loss_vector(loss)
    if records is not None and not isinstance(records, Mapping):
        raise TypeError(
            f"records: a {type(records).__name__} given, a dict of columns, as of probe.history(), "
            "is wanted"
        )
    numbers = _loss_steps(values.size, steps, records)
    monitor = PhaseMonitor(
        chance_loss=chance_loss,
        decay=decay,
        drop=drop,
        min_rise=min_rise,
        min_phase=min_phase,
        patience=patience,
    )
    missing = _missing_steps(numbers)
    unknown = missing > 0 and not _starts_at_chance(values, chance_loss, decay, drop)
    end = None
    if not unknown:
        end = first_phase_end(
            values, steps=numbers, decay=decay, drop=drop, chance_loss=chance_loss
        )
    average = smoothed_loss(values, decay)
    finite = np.isfinite(values)
    known = before_divergence(records, numbers, finite) if records else None
    sites = site_phases(known, end, window=window) if known else []
    collapse = _collapse_site(sites, min_rise)
    always_below = bool(
        chance_loss is not None
        and finite.any()
        and np.nanmax(average) < chance_loss - drop * abs(chance_loss)
    )
    verdict: Verdict = "undecided"
    if unknown:
        always_below = False
    elif always_below:
        verdict = "none"
    elif end is None:
        if finite.any():
            last = int(numbers[finite][-1])
            replayed(monitor, numbers[finite], values[finite], records)
            verdict = "stuck" if monitor.is_stalled_at(last) else "undecided"
    elif end - int(numbers[0]) + missing < min_phase:
        verdict = "none"
    elif collapse is not None:
        if collapse.feature_between.rise >= min_rise:
            verdict = "collapsed"
        elif not missing:
            verdict = "none"
    return PhaseSummary(
        first_phase_end=end,
        change_point=None
        if unknown
        else loss_change_point(
            values, steps=numbers, decay=decay, drop=drop, chance_loss=chance_loss
        ),
        verdict=verdict,
        collapse_site=collapse.site if collapse else None,
        peak_step=collapse.feature_between.peak_step if collapse else None,
        peak_feature_cos_between=collapse.feature_between.peak if collapse else math.nan,
        sites=tuple(sites),
        final_loss=float(average[-1]) if values.size and finite[-1] else math.nan,
        n_steps=values.size,
        first_step=int(numbers[0]) if values.size else None,
        last_step=int(numbers[finite][-1]) if finite.any() else None,
        n_missing_steps=missing,
        beginning_unknown=unknown,
        n_nonfinite_losses=int(values.size - finite.sum()),
        always_below_chance=always_below,
        thresholds={
            "decay": decay,
            "drop": drop,
            "chance_loss": None if chance_loss is None else float(chance_loss),
            "min_rise": min_rise,
            "min_phase": min_phase,
            "patience": patience,
            "window": window,
        },
    )


def _loss_steps(
    size: int, steps: npt.ArrayLike | None, records: Mapping[str, npt.NDArray[Any]] | None
) -> IntArray:
    """The step of each of `size` losses; ValueError if losses and records are of other steps."""
    recorded = np.unique(record_steps(records)) if records else np.empty(0, np.int64)
    if not recorded.size:
        return step_vector(steps, size)
    span = f"{recorded.size} steps, {recorded[0]} to {recorded[-1]}"
    if steps is None:
        if size != recorded.size:
            raise ValueError(
                f"loss: {size} values given, but the records are of {span}; give one loss for each "
                "of them (those of one site), or the step of each loss as steps"
            )
        return recorded
    numbers = step_vector(steps, size)
    if size and (numbers[-1] < recorded[0] or recorded[-1] < numbers[0]):
        raise ValueError(
            f"steps: {numbers[0]} to {numbers[-1]} given, but the records are of {span}; give "
            "losses and records of one run"
        )
    return numbers


def _missing_steps(numbers: IntArray) -> int:
    """Steps of the run before the first one; 0 if it is as early as its distance to the next."""
    if not numbers.size:
        return 0
    first = int(numbers[0])
    distance = float(np.median(np.diff(numbers))) if numbers.size > 1 else 1.0
    return first - 1 if first > max(distance, 1.0) else 0


def _starts_at_chance(
    values: FloatArray, chance_loss: float | None, decay: float, drop: float
) -> bool:
    """Whether the first losses are those of a network that has not started to learn."""
    if chance_loss is None:
        return False
    first = values[np.isfinite(values)][: math.ceil(1.0 / (1.0 - decay))]
    return bool(first.size and first.mean() >= chance_loss - drop * abs(chance_loss))


def before_divergence(
    records: Mapping[str, npt.NDArray[Any]], steps: IntArray, finite: npt.NDArray[np.bool_]
) -> Mapping[str, npt.NDArray[Any]]:
    """The records of a run up to its last finite loss, if it ended with others; else all.

    Features and gates of a network whose weights are not finite say nothing of collapse.

    Args:
        records: columns of equal length, `step` among them.
        steps: step of each loss, `[n]`.
        finite: whether each loss is finite, `[n]`.
    """
    if not finite.any() or finite[-1]:
        return records
    kept = np.asarray(records["step"]) <= steps[finite][-1]
    return {name: np.asarray(values)[kept] for name, values in records.items()}


def _collapse_site(sites: list[SitePhase], min_rise: float) -> SitePhase | None:
    measured = [site for site in sites if not math.isnan(site.feature_between.rise)]
    if not measured:
        return None
    largest = max(site.feature_between.rise for site in measured)
    # A tie must not take a collapse for none.
    least = max(largest - _TIE, min_rise) if largest >= min_rise else largest - _TIE
    return [site for site in measured if site.feature_between.rise >= least][-1]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
