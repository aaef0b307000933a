"""The numbers behind the charts of the page: columns in bins, as text that a browser decodes."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.colors import to_hex

from tfc_fast.analyzed_run import AnalyzedRun
from tfc_fast.phases import smoothed_loss
from tfc_fast.report.bins import Band, BinnedRecords, bin_records
from tfc_fast.report.style import site_colors
from tfc_fast.report.words import first_phase

STATISTICS: dict[str, dict[str, str]] = {
    "Loss": {"loss": "Training loss"},
    "Features": {
        "feature_cos_between": "Cosine of features, between classes",
        "feature_cos_within": "Cosine of features, within classes",
        "feature_cos_all": "Cosine of features, all pairs",
        "feature_norm_mean": "Mean norm of features",
    },
    "Gradients": {
        "grad_cos_within": "Cosine of gradients, within classes",
        "grad_cos_between": "Cosine of gradients, between classes",
        "grad_cos_all": "Cosine of gradients, all pairs",
        "grad_norm_mean": "Mean norm of gradients",
    },
    "Gates": {
        "active_rate": "Open gates",
        "gate_agreement_within": "Agreement of gates, within classes",
        "gate_agreement_between": "Agreement of gates, between classes",
        "gate_agreement_all": "Agreement of gates, all pairs",
        "dead_frac": "Units open for no sample of the step",
        "dead_window_frac": "Units open for no sample of the window",
        "always_on_frac": "Units open for every sample",
    },
    "Counts": {
        "n_rows": "Samples",
        "n_zero_features": "Samples with all-zero features",
        "n_zero_grads": "Samples with all-zero gradients",
        "n_nonfinite": "Samples with NaN or infinity",
    },
}
"""Columns by group, each with its title, in the order in which the page offers them."""

# As many points as a wide screen has pixels; zoomed in, they are still some pixels apart.
MAX_BINS = 1500
# Numbers of records on a page: a million and a half are 8 MB of text. With many sites bins are
# fewer, but not so few that nothing is seen any more: a thousand sites make 15 MB.
_MOST_NUMBERS = 1_500_000
_FEWEST_BINS = 50

_LARGEST = float(np.finfo(np.float32).max)


def page_data(runs: Sequence[AnalyzedRun]) -> dict[str, Any]:
    """Everything that the scripts of the page draw.

    A column is `{"mean", "low", "high"}`, each a base64 text of little-endian float32 `[sites,
    bins]`, NaN where nothing finite was measured; `low` and `high` are left out where no bin holds
    different values. Steps are float64.

    Args:
        runs: The runs of the page.

    Returns:
        Plain values for JSON.
    """
    bins = _bin_count(runs)
    return {
        "statistics": STATISTICS,
        "heat": [to_hex(color) for color in colormaps["viridis"](np.linspace(0, 1, 64))],
        "runs": [_run_data(run, bins) for run in runs],
    }


def json_for_script(value: Any) -> str:
    r"""JSON that can stand in a script element, whatever strings it holds.

    Example:
        >>> print(json_for_script({"site": "</script>"}))
        {"site":"\u003c/script\u003e"}
    """
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    # Within JSON these occur in strings only, where the escape means the same.
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def _bin_count(runs: Sequence[AnalyzedRun]) -> int:
    per_bin = sum(3 * len(set(run.records["site"])) * len(_columns(run)) for run in runs)
    return max(min(MAX_BINS, _MOST_NUMBERS // max(per_bin, 1)), _FEWEST_BINS)


def _columns(run: AnalyzedRun) -> list[str]:
    """The columns of the records of which something finite was measured; the log has the loss."""
    names = [name for group in STATISTICS.values() for name in group if name != "loss"]
    return [name for name in names if np.isfinite(run.records[name]).any()]


def _run_data(run: AnalyzedRun, max_bins: int) -> dict[str, Any]:
    summary = run.summary
    decay = float(summary.thresholds["decay"] or 0.0)
    log = {
        "step": run.steps,
        "site": np.full(run.steps.size, ""),
        "loss": run.loss,
        "average": smoothed_loss(run.loss, decay),
    }
    records = bin_records(run.records, max_bins)
    peak = None
    if summary.collapse_site is not None:
        value = summary.peak_feature_cos_between
        peak = {"site": summary.collapse_site, "step": summary.peak_step, "value": value}
    return {
        "name": run.name,
        "firstStep": summary.first_step,
        "firstPhase": first_phase(summary),
        "firstPhaseEnd": summary.first_phase_end,
        "chanceLoss": _finite(summary.thresholds["chance_loss"]),
        "peak": peak,
        "colors": _colors(len(records.sites)),
        # One site, whatever the records have.
        "log": _table(bin_records(log, MAX_BINS), ["loss", "average"]),
        "records": _table(records, _columns(run)),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _table(binned: BinnedRecords, columns: Sequence[str]) -> dict[str, Any]:
    bands = {name: binned.band(name) for name in columns}
    return {
        "sites": binned.sites,
        "steps": _text(binned.steps, "<f8"),
        "edges": _text(binned.edges, "<f8"),
        "lasts": _text(binned.lasts, "<f8"),
        "columns": {name: _band(band) for name, band in bands.items() if band is not None},
    }


def _band(band: Band) -> dict[str, str]:
    mean = {"mean": _text(band.mean, "<f4")}
    if np.array_equal(band.low, band.high, equal_nan=True):
        return mean
    return {**mean, "low": _text(band.low, "<f4"), "high": _text(band.high, "<f4")}


def _text(values: npt.NDArray[Any], dtype: str) -> str:
    # What is too large for float32 stays a spike, and does not turn into a gap.
    kept = values if dtype == "<f8" else np.clip(values, -_LARGEST, _LARGEST)
    return base64.b64encode(np.ascontiguousarray(kept, dtype).tobytes()).decode("ascii")


def _colors(sites: int) -> Mapping[str, list[str]]:
    """Colours of the sites on a light and on a dark ground, from first to last."""
    dark = colormaps["viridis"](np.linspace(1.0, 0.3, max(sites, 2)))[:sites]
    light = [to_hex(color) for color in site_colors(sites)]
    return {"light": light, "dark": [to_hex(color) for color in dark]}
