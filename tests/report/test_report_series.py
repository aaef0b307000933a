from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tfc_fast.analyzed_run import AnalyzedRun, read_run, read_runs
from tfc_fast.records import VALUE_COLUMNS, Records
from tfc_fast.report import series
from tfc_fast.report.scripts import content_security_policy, scripts
from tfc_fast.report.series import STATISTICS, json_for_script, page_data
from tfc_fast.run_directory import RunDirectory

MakeRun = Callable[..., RunDirectory]
SITES = 3


def floats(text: str, dtype: str = "<f4", sites: int = SITES) -> Any:
    return np.frombuffer(base64.b64decode(text), dtype).reshape(sites, -1)


def data_of(run: RunDirectory) -> dict[str, Any]:
    """Through JSON, as the page gets it."""
    data: dict[str, Any] = json.loads(json_for_script(page_data([read_run(run.path)])))
    return data


def test_every_column_can_be_chosen_and_has_a_title() -> None:
    named = [name for group in STATISTICS.values() for name in group]
    assert sorted(named) == sorted(VALUE_COLUMNS)
    titles = [title for group in STATISTICS.values() for title in group.values()]
    assert len(set(titles)) == len(titles)


def test_values_of_a_short_run_are_all_there(
    make_run: MakeRun, records: Records, rng: np.random.Generator
) -> None:
    values = rng.normal(size=records["step"].size)
    records["feature_cos_between"] = values
    (run,) = data_of(make_run(records, records["loss"][::SITES]))["runs"]
    table = run["records"]
    assert table["sites"] == ["hidden.0.relu", "hidden.1.relu", "hidden.2.relu"]
    column = table["columns"]["feature_cos_between"]
    assert list(column) == ["mean"]  # the range of one value is that value
    np.testing.assert_array_equal(
        floats(column["mean"]), values.reshape(-1, SITES).T.astype(np.float32)
    )
    np.testing.assert_array_equal(floats(table["steps"], "<f8", 1)[0], np.arange(1, 401))


def test_spikes_of_one_step_survive_the_bins(
    make_run: MakeRun, make_records: Any, rng: np.random.Generator
) -> None:
    records = make_records(steps=5000)
    values = rng.uniform(size=(5000, SITES))
    values[1234, 1], values[4321, 2] = 77.0, -55.0
    records["grad_norm_mean"] = values.ravel()
    loss = records["loss"][::SITES].copy()
    loss[2500] = 99.0
    (run,) = data_of(make_run(records, loss))["runs"]
    bins = floats(run["records"]["steps"], "<f8", 1).size
    assert bins <= series.MAX_BINS
    column = run["records"]["columns"]["grad_norm_mean"]
    low, high = floats(column["low"]), floats(column["high"])
    assert high.max(axis=1).tolist()[1] == 77.0
    assert low.min(axis=1).tolist()[2] == -55.0
    np.testing.assert_allclose(high.max(axis=1), values.max(axis=0), rtol=1e-6)
    np.testing.assert_allclose(low.min(axis=1), values.min(axis=0), rtol=1e-6)
    assert floats(run["log"]["columns"]["loss"]["high"], sites=1).max() == 99.0


def test_what_was_not_measured_is_nan_and_never_zero(make_run: MakeRun, records: Records) -> None:
    records["active_rate"][30:60] = np.nan
    records["active_rate"][60] = np.inf
    records["dead_frac"][:] = np.nan
    (run,) = data_of(make_run(records, records["loss"][::SITES]))["runs"]
    found = floats(run["records"]["columns"]["active_rate"]["mean"])
    assert np.isnan(found[:, 10:20]).all()
    assert np.isnan(found[0, 20])
    assert np.isnan(found).sum() == 31
    assert "dead_frac" not in run["records"]["columns"]


def test_values_beyond_float32_stay_spikes(make_run: MakeRun, records: Records) -> None:
    loss = records["loss"][::SITES].copy()
    loss[7] = 1e300
    (run,) = data_of(make_run(records, loss))["runs"]
    found = floats(run["log"]["columns"]["loss"]["mean"], sites=1)[0]
    assert np.isfinite(found).all()
    assert found.argmax() == 7


def test_many_sites_get_fewer_bins(
    make_run: MakeRun, make_records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(make_records(steps=2000), None)
    monkeypatch.setattr(series, "_MOST_NUMBERS", 30_000)
    table = data_of(run)["runs"][0]["records"]
    bins = floats(table["steps"], "<f8", 1).size
    numbers = sum(floats(part).size for one in table["columns"].values() for part in one.values())
    assert 50 < bins < 2000
    assert numbers <= 30_000


def test_the_loss_keeps_its_bins_with_many_sites(
    make_run: MakeRun, make_records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = make_records(steps=2000)
    monkeypatch.setattr(series, "_MOST_NUMBERS", 1)
    (run,) = data_of(make_run(records, records["loss"][::SITES]))["runs"]
    assert floats(run["log"]["steps"], "<f8", 1).size == series.MAX_BINS
    assert floats(run["records"]["steps"], "<f8", 1).size == 50


def test_marks_and_colours(make_run: MakeRun, records: Records) -> None:
    (run,) = data_of(make_run(records, records["loss"][::SITES]))["runs"]
    summary = read_run(make_run(records, records["loss"][::SITES], name="again").path).summary
    assert run["firstPhaseEnd"] == summary.first_phase_end
    assert run["peak"]["site"] == "hidden.2.relu"
    assert run["peak"]["step"] == summary.peak_step
    for colors in run["colors"].values():
        assert len(set(colors)) == SITES


def test_run_without_anything(make_run: MakeRun) -> None:
    (run,) = data_of(make_run())["runs"]
    assert run["records"]["columns"] == run["log"]["columns"] == {}
    assert run["peak"] is None
    assert run["firstStep"] is None


@pytest.mark.parametrize("evil", ["</script><script>alert(1)</script>", "<!--<script>", "a&b"])
def test_json_cannot_leave_its_script_element(evil: str) -> None:
    text = json_for_script({evil: [evil]})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {evil: [evil]}


def test_nan_does_not_become_json() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_for_script({"value": float("nan")})


def test_scripts_are_those_that_the_policy_allows() -> None:
    policy = content_security_policy(scripts(), live=False)
    for text in scripts():
        # Else the element would end there, or the hash be of something else.
        assert "</script" not in text.lower()
        assert "<!--" not in text
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "connect-src 'self'" in content_security_policy(scripts(), live=True)


def test_the_library_comes_with_its_licence() -> None:
    assert "Permission is hereby granted, free of charge" in scripts()[0]


class TestReadRuns:
    def names(self, *paths: Any) -> list[str]:
        runs: list[AnalyzedRun] = read_runs(paths)
        return [run.name for run in runs]

    def test_names_are_those_of_the_folders(self, make_run: MakeRun) -> None:
        assert self.names(make_run(name="a").path, make_run(name="b").path) == ["a", "b"]

    def test_names_that_are_alike_get_longer(self, make_run: MakeRun) -> None:
        paths = make_run(name="deep/run").path, make_run(name="wide/run").path
        assert self.names(*paths) == ["deep/run", "wide/run"]

    def test_a_run_given_twice(self, make_run: MakeRun) -> None:
        path = make_run().path
        with pytest.raises(ValueError, match=r"runs: .*run is given twice"):
            self.names(path, path / ".." / "run")

    def test_none(self) -> None:
        with pytest.raises(ValueError, match="at least one folder is wanted"):
            self.names()
