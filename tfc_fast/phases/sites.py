"""The similarities at each site: how far they rose in the first phase and fell after it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc_fast.phases.thresholds import WINDOW
from tfc_fast.phases.trend import rise_p_value

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_COLUMNS = ("step", "site", "feature_cos_between", "grad_cos_within")


@dataclass(frozen=True)
class Rise:
    """Course of one similarity at one site: values are running means, NaN where not measured.

    Attributes:
        start: value at the first record.
        peak: largest value within the first phase.
        peak_step: step of that peak, or None.
        rise: `peak - start`.
        fall: `peak` minus the smallest value after the first phase; NaN without later records.
        p_value: `rise_p_value` of the single values in the first phase; NaN of fewer than 10.
    """

    start: float
    peak: float
    peak_step: int | None
    rise: float
    fall: float
    p_value: float


@dataclass(frozen=True)
class SitePhase:
    """What one site did in the first phase.

    Attributes:
        site: name of the site.
        feature_between: course of `feature_cos_between`.
        grad_within: course of `grad_cos_within`.
    """

    site: str
    feature_between: Rise
    grad_within: Rise


def site_phases(
    records: Mapping[str, npt.NDArray[Any]], first_phase_end: int | None, *, window: int = WINDOW
) -> list[SitePhase]:
    """Start, peak, rise and fall of the similarities at each site.

    Single-step values are noisy, so all values are running means: over `window` records of the
    site, centred, cut off at the ends of the records and at the end of the first phase, NaN left
    out. The peak is searched in the first phase (`step < first_phase_end`; all records when None),
    the fall goes to the smallest running mean after it.

    Args:
        records: columns `step`, `site`, `feature_cos_between`, `grad_cos_within`, equal-length 1-D.
        first_phase_end: as the function of that name returns it.
        window: width of the running mean in records, odd.

    Returns:
        One entry per site, in the order in which the sites were recorded.

    Raises:
        ValueError: on a missing column, unequal lengths, or a `window` that is not odd and
            positive.

    Example:
        >>> import numpy as np
        >>> cosines = np.array([0.5, 0.625, 0.75, 0.25])
        >>> records = {"step": np.arange(4), "site": np.array(["relu"] * 4, dtype=object),
        ...            "feature_cos_between": cosines, "grad_cos_within": cosines}
        >>> site_phases(records, 3, window=1)[0].feature_between
        Rise(start=0.5, peak=0.75, peak_step=2, rise=0.25, fall=0.5, p_value=nan)
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window: {window} given, an odd number of records is wanted")
    return [
        SitePhase(
            site,
            feature_between=_rise(steps, feature, first_phase_end, window),
            grad_within=_rise(steps, grad, first_phase_end, window),
        )
        for site, steps, feature, grad in _by_site(records)
    ]


def _by_site(
    records: Mapping[str, npt.NDArray[Any]],
) -> Iterator[tuple[str, IntArray, FloatArray, FloatArray]]:
    """(site, steps, feature cosines, gradient cosines), steps in order, sites as first recorded."""
    step = record_steps(records)
    feature = np.asarray(records["feature_cos_between"], dtype=np.float64)
    grad = np.asarray(records["grad_cos_within"], dtype=np.float64)
    sites, code = site_codes(records["site"])
    order = np.lexsort((step, code))
    bounds = np.searchsorted(code[order], np.arange(len(sites) + 1))
    for index, site in enumerate(sites):
        rows = order[bounds[index] : bounds[index + 1]]
        yield site, step[rows], feature[rows], grad[rows]


def record_steps(records: Mapping[str, npt.NDArray[Any]]) -> IntArray:
    """The step of each record, int64 `[n]`; ValueError unless the columns that count are there."""
    for column in _COLUMNS:
        if column not in records:
            raise ValueError(f"records: column {column!r} is missing, there are {sorted(records)}")
    shapes = {column: np.shape(records[column]) for column in _COLUMNS}
    if len(set(shapes.values())) > 1 or len(shapes["step"]) != 1:
        raise ValueError(f"records: shapes {shapes} given, 1-D columns of one length are wanted")
    return np.asarray(records["step"], dtype=np.int64)


def site_codes(names: npt.NDArray[Any]) -> tuple[list[str], IntArray]:
    """The different names in the order in which they come up, and the index of each entry's name.

    Args:
        names: strings `[n]`.

    Returns:
        The k names, and int64 `[n]` with values below k.

    Example:
        >>> site_codes(np.array(["b", "a", "b"]))
        (['b', 'a'], array([0, 1, 0]))
    """
    codes: dict[str, int] = {}
    entries = np.asarray(names).tolist()
    indices = (codes.setdefault(name, len(codes)) for name in entries)
    code = np.fromiter(indices, np.int64, len(entries))
    return list(codes), code


def _rise(steps: IntArray, values: FloatArray, end: int | None, window: int) -> Rise:
    split = steps.size if end is None else int(np.searchsorted(steps, end))
    phase = running_mean(values[:split], window)
    later = running_mean(values[split:], window)
    known = np.flatnonzero(~np.isnan(phase))
    if known.size == 0:
        return Rise(math.nan, math.nan, None, math.nan, math.nan, math.nan)
    start = float(phase[known[0]])
    at = int(np.nanargmax(phase))
    peak = float(phase[at])
    measured_later = later[~np.isnan(later)]
    fall = peak - float(measured_later.min()) if measured_later.size else math.nan
    return Rise(start, peak, int(steps[at]), peak - start, fall, rise_p_value(values[:split]))


def running_mean(values: FloatArray, window: int) -> FloatArray:
    """Centred mean over `window` values, cut off at the ends, NaN and infinities left out."""
    finite = np.isfinite(values)
    sums = _window_sums(np.where(finite, values, 0.0), window)
    counts = _window_sums(finite.astype(np.float64), window)
    mean = np.full(values.shape, np.nan)
    np.divide(sums, counts, out=mean, where=counts > 0)
    return mean


def _window_sums(values: FloatArray, window: int) -> FloatArray:
    # not differences of one running sum: those would leave rounding errors of the far past
    if values.size == 0:
        return values
    padded = np.pad(values, window // 2)
    sums: FloatArray = np.lib.stride_tricks.sliding_window_view(padded, window).sum(axis=1)
    return sums
