"""Records: the statistics of every (step, site), kept as one array per column.

The column names are a contract: history, Parquet parts, TensorBoard tags and reports all use them.
Whatever takes records from a probe is a `Sink`; a user's own class needs only its three methods.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = [
    "COLUMNS",
    "COUNT_COLUMNS",
    "VALUE_COLUMNS",
    "Records",
    "Sink",
    "concatenate",
    "empty",
    "select",
    "validate",
]

COLUMNS = (
    "step",
    "site",
    "loss",
    "feature_cos_all",
    "feature_cos_within",
    "feature_cos_between",
    "grad_cos_all",
    "grad_cos_within",
    "grad_cos_between",
    "feature_norm_mean",
    "grad_norm_mean",
    "active_rate",
    "gate_agreement_all",
    "gate_agreement_within",
    "gate_agreement_between",
    "dead_frac",
    "always_on_frac",
    "dead_window_frac",
    "n_rows",
    "n_zero_features",
    "n_zero_grads",
    "n_nonfinite",
)
"""All columns of a record, in the order in which they are stored."""

VALUE_COLUMNS = COLUMNS[2:]
"""The columns that hold a measured number: all but `step` and `site`."""

COUNT_COLUMNS = tuple(name for name in COLUMNS if name.startswith("n_"))
"""The columns that count rows."""

Records: TypeAlias = dict[str, npt.NDArray[Any]]
"""Equal-length 1-D arrays, one per name in `COLUMNS`: `step` and the `n_*` columns int64, `site` of
strings (dtype `U` or object), all others float64 with NaN for "not measured"."""

_INTEGER_COLUMNS = frozenset(("step", *COUNT_COLUMNS))


@runtime_checkable
class Sink(Protocol):
    """Where records go: anything with these three methods can be given to a probe."""

    def write(self, records: Records) -> None:
        """Take one batch of records.

        Args:
            records: Whole steps, in step order; see `Records`. The arrays belong to the caller, who
                may overwrite them afterwards: a sink that keeps them keeps a copy.
        """

    def flush(self) -> None:
        """Bring everything taken so far to where it can be read."""

    def close(self) -> None:
        """Flush and let go of files. A second call does nothing."""


def empty() -> Records:
    """Return records with all columns and no row.

    Returns:
        Arrays of length 0 with the dtypes of `Records`; `site` has dtype object.

    Example:
        >>> empty()["loss"]
        array([], dtype=float64)
    """
    return {name: np.empty(0, dtype=_dtype(name)) for name in COLUMNS}


def concatenate(parts: Iterable[Records]) -> Records:
    """Join records one after the other.

    Args:
        parts: Records in the order wanted; none at all give `empty()`.

    Returns:
        New arrays that share no memory with `parts`.

    Example:
        >>> concatenate([empty(), empty()])["step"].size
        0
    """
    kept = list(parts)
    if not kept:
        return empty()
    return {name: np.concatenate([part[name] for part in kept]) for name in COLUMNS}


def select(records: Records, mask: npt.NDArray[np.bool_]) -> Records:
    """Return the records for which a mask is true.

    Args:
        records: Records of R rows.
        mask: Booleans, shape [R].

    Returns:
        New records, in the same order.

    Raises:
        TypeError: `mask` is not boolean.
        ValueError: `mask` has not one entry per record.

    Example:
        >>> from tfc_fast.records import empty, select
        >>> records = empty()
        >>> select(records, records["site"] == "hidden.0.relu")["step"].size
        0
    """
    mask = np.asarray(mask)
    if mask.dtype != np.bool_:
        raise TypeError(
            f"mask: dtype {mask.dtype} given, bool wanted; compare a column to make one"
        )
    rows = records["step"].shape
    if mask.shape != rows:
        raise ValueError(f"mask: shape {mask.shape} given, {rows} wanted: one entry per record")
    return {name: column[mask] for name, column in records.items()}


def validate(records: Records) -> None:
    """Check that records have all columns, equal lengths and the right dtypes.

    Args:
        records: What to check; see `Records`.

    Raises:
        TypeError: A column is no numpy array or has another dtype.
        ValueError: A column is missing, unknown, not 1-D or of another length.

    Example:
        >>> validate({**empty(), "loss": np.zeros(3)})
        Traceback (most recent call last):
        ...
        ValueError: records: column 'loss' has 3 rows but 'step' has 0; all columns need one length
    """
    missing = [name for name in COLUMNS if name not in records]
    if missing:
        raise ValueError(
            f"records: columns {missing} are missing; fill a column that was not measured with NaN "
            "(counts with 0)"
        )
    unknown = [name for name in records if name not in COLUMNS]
    if unknown:
        raise ValueError(
            f"records: columns {unknown} are unknown and would be lost; leave them out"
        )
    for name in COLUMNS:
        _validate_column(name, records)


def _validate_column(name: str, records: Records) -> None:
    column = records[name]
    if not isinstance(column, np.ndarray):
        raise TypeError(
            f"records: column '{name}' is a {type(column).__name__}, a numpy array is wanted"
        )
    if column.ndim != 1:
        raise ValueError(f"records: column '{name}' has shape {column.shape}, 1-D is wanted")
    # `step` is the first column, so it is an array by now.
    rows = len(records["step"])
    if len(column) != rows:
        raise ValueError(
            f"records: column '{name}' has {len(column)} rows but 'step' has {rows}; "
            "all columns need one length"
        )
    if name == "site":
        # An object array may hold anything: look, or a later part of the way fails obscurely.
        if column.dtype.kind != "U" and not set(map(type, column.tolist())) <= {str, np.str_}:
            raise TypeError(
                f"records: column 'site' has dtype {column.dtype} with values that are no strings; "
                "give module paths"
            )
    elif column.dtype != _dtype(name):
        raise TypeError(
            f"records: column '{name}' has dtype {column.dtype}, {_dtype(name)} is wanted; "
            "convert it with .astype"
        )


def _dtype(name: str) -> np.dtype[Any]:
    if name == "site":
        return np.dtype(object)
    return np.dtype(np.int64 if name in _INTEGER_COLUMNS else np.float64)
