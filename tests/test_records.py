from __future__ import annotations

import numpy as np
import pytest

from tfc_fast import records as rec
from tfc_fast.sinks import MemorySink


def one_record(step: int, site: str) -> rec.Records:
    record: rec.Records = {name: np.array([np.nan]) for name in rec.VALUE_COLUMNS}
    record |= {name: np.array([7]) for name in rec.COUNT_COLUMNS}
    record["step"] = np.array([step])
    record["site"] = np.array([site])
    return record


def test_columns_are_the_contract() -> None:
    # Spelled out: a renamed column breaks stored runs and every tool that reads them.
    assert rec.COLUMNS == (
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
    assert rec.COLUMNS[-4:] == rec.COUNT_COLUMNS
    assert rec.COLUMNS[2:] == rec.VALUE_COLUMNS


def test_empty_has_every_column_with_its_dtype() -> None:
    empty = rec.empty()
    rec.validate(empty)
    assert tuple(empty) == rec.COLUMNS
    assert empty["step"].dtype == np.int64
    assert empty["n_nonfinite"].dtype == np.int64
    assert empty["loss"].dtype == np.float64
    assert all(len(column) == 0 for column in empty.values())


def test_concatenate_keeps_order_and_dtypes_and_copies() -> None:
    first, second = one_record(0, "short"), one_record(1, "a.much.longer.name")
    joined = rec.concatenate([first, second])
    rec.validate(joined)
    assert joined["step"].tolist() == [0, 1]
    assert joined["site"].tolist() == ["short", "a.much.longer.name"]
    assert joined["n_rows"].dtype == np.int64
    joined["step"][:] = 9
    assert first["step"].tolist() == [0]
    assert rec.concatenate([first])["step"] is not first["step"]


def test_concatenate_of_nothing_is_empty() -> None:
    rec.validate(rec.concatenate([]))
    assert len(rec.concatenate([])["step"]) == 0


def test_select_takes_the_rows_of_a_mask() -> None:
    joined = rec.concatenate([one_record(step, site) for step in range(3) for site in "ab"])
    chosen = rec.select(joined, joined["site"] == "b")
    rec.validate(chosen)
    assert chosen["step"].tolist() == [0, 1, 2]
    assert set(chosen["site"]) == {"b"}


def test_select_refuses_what_is_no_mask() -> None:
    joined = rec.concatenate([one_record(step, "a") for step in range(3)])
    with pytest.raises(TypeError, match="mask: dtype int64 given, bool wanted"):
        rec.select(joined, np.array([0, 1, 1]))
    with pytest.raises(ValueError, match=r"mask: shape \(2,\) given, \(3,\) wanted"):
        rec.select(joined, np.array([True, False]))


def test_validate_accepts_both_kinds_of_strings() -> None:
    record = one_record(0, "a")
    rec.validate(record)
    rec.validate({**record, "site": np.array(["a"], dtype=object)})


@pytest.mark.parametrize(
    ("column", "value", "error", "message"),
    [
        ("loss", np.zeros(2), ValueError, "'loss' has 2 rows but 'step' has 1"),
        ("loss", np.zeros((1, 1)), ValueError, r"'loss' has shape \(1, 1\), 1-D is wanted"),
        ("loss", np.zeros(1, np.float32), TypeError, "'loss' has dtype float32, float64 is wanted"),
        ("loss", [0.0], TypeError, "'loss' is a list, a numpy array is wanted"),
        ("step", np.zeros(1), TypeError, "'step' has dtype float64, int64 is wanted"),
        ("step", 3, TypeError, "'step' is a int, a numpy array is wanted"),
        ("step", np.array(3), ValueError, r"'step' has shape \(\), 1-D is wanted"),
        ("n_rows", np.zeros(1, np.int32), TypeError, "'n_rows' has dtype int32, int64 is wanted"),
        ("site", np.array([b"a"]), TypeError, "'site' has dtype .*module paths"),
        ("site", np.array([None], dtype=object), TypeError, "'site' .* no strings"),
        ("spread", np.zeros(1), ValueError, r"\['spread'\] are unknown"),
    ],
)
def test_validate_names_the_wrong_column(
    column: str, value: object, error: type[Exception], message: str
) -> None:
    record: dict[str, object] = {**one_record(0, "a"), column: value}
    with pytest.raises(error, match=message):
        rec.validate(record)  # type: ignore[arg-type]


def test_validate_names_missing_columns() -> None:
    record = one_record(0, "a")
    del record["loss"], record["n_rows"]
    with pytest.raises(ValueError, match=r"\['loss', 'n_rows'\] are missing"):
        rec.validate(record)


def test_any_class_with_the_three_methods_is_a_sink() -> None:
    class Printer:
        def write(self, records: rec.Records) -> None: ...
        def flush(self) -> None: ...
        def close(self) -> None: ...

    assert isinstance(Printer(), rec.Sink)
    assert isinstance(MemorySink(), rec.Sink)
    assert not isinstance([], rec.Sink)
