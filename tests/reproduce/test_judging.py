"""Verdicts on runs whose curves are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfc_fast.reproduce import EXPERIMENTS, Measurement, Setting
from tfc_fast.reproduce.course import Course
from tfc_fast.reproduce.dose import Dose, Occurrence, concordance
from tfc_fast.reproduce.output import markdown_table, write_index, write_outcome

from .conftest import Make, hump
from .observed import write_observed

SETTINGS = (Setting("0", 800, value=0), Setting("1", 800, value=1), Setting("2", 800, value=2))
COSINE = "feature_cos_between"


def dose(longer: bool) -> Dose:
    return Dose("knob", "A knob", "It matters.", SETTINGS, knob="the knob", longer=longer)


def runs_of(made: Make, ends: dict[str, list[int | None]]) -> list[Measurement]:
    return [
        made(setting, seed, end=end, curves={COSINE: hump(0.2)})
        for setting, of_setting in ends.items()
        for seed, end in enumerate(of_setting)
    ]


# ---- a knob ------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 9), min_size=1), st.lists(st.integers(0, 9), min_size=1))
def test_concordance(lower: list[float], upper: list[float]) -> None:
    share = concordance(lower, upper)
    assert 0 <= share <= 1
    assert share + concordance(upper, lower) == pytest.approx(1)
    assert concordance(lower, lower) == pytest.approx(0.5)


def test_without_pairs_there_is_no_concordance() -> None:
    assert math.isnan(concordance([], [1.0]))


@pytest.mark.parametrize("longer", [True, False])
def test_all_in_order_holds_in_one_direction(made: Make, longer: bool) -> None:
    runs = runs_of(made, {"0": [100, 120], "1": [200, 220], "2": [None, 500]})
    judgement = dose(longer).judge(runs)
    assert judgement.holds is longer
    assert judgement.effect["concordance"] == (1 if longer else 0)
    assert ("opposite" in judgement.evidence[1]) is not longer


def test_a_phase_that_did_not_end_is_the_longest(made: Make) -> None:
    judgement = dose(True).judge(runs_of(made, {"0": [100, 100], "2": [None, None]}))
    assert judgement.holds
    assert judgement.effect["median_length_last"] is None
    assert judgement.effect["ratio"] is None
    assert "more steps than the runs have at 0 and 2" in judgement.evidence[0]


def test_no_difference_does_not_hold(made: Make) -> None:
    judgement = dose(True).judge(runs_of(made, {"0": [100, 200], "1": [200, 100]}))
    assert not judgement.holds
    assert judgement.effect["concordance"] == 0.5


def test_one_setting_out_of_order_does_not_hold(made: Make) -> None:
    judgement = dose(True).judge(runs_of(made, {"0": [100], "1": [400], "2": [300]}))
    assert not judgement.holds
    assert judgement.effect["concordance"] == 0.5


# ---- everywhere, or only in the first phase ------------------------------------------------------


def test_an_occurrence_holds_if_all_runs_collapse(made: Make) -> None:
    everywhere = Occurrence("all", "All", "It is everywhere.", SETTINGS)
    runs = runs_of(made, {"0": [400, 300], "1": [200, 250]})
    assert everywhere.judge(runs).holds
    stuck = everywhere.judge([*runs, *runs_of(made, {"2": [None]})])
    assert not stuck.holds
    assert stuck.effect["share_collapsed"] == 0.8


def course() -> Course:
    return Course("c", "C", "Up and down.", (Setting("0", 800),), {COSINE: "cosines"}, {})


@pytest.mark.parametrize(
    ("curve", "holds"),
    [
        (hump(0.2), True),
        (hump(0.02), False),  # it hardly rises
        (lambda steps: 0.5 + 0.001 * steps, False),  # it goes on rising
        (lambda steps: 0.5 + 0.001 * steps.clip(max=400), False),  # it stays
        (lambda steps: 0.9 - 0.001 * steps, False),  # it falls
    ],
)
def test_a_course_rises_in_the_first_phase_only(made: Make, curve: object, holds: bool) -> None:
    judgement = course().judge([made(curves={COSINE: curve})])
    assert judgement.holds is holds


def test_a_course_without_an_end_of_the_phase_does_not_hold(made: Make) -> None:
    judgement = course().judge([made(end=None, curves={COSINE: hump(0.2)})])
    assert not judgement.holds
    assert judgement.effect[f"fall_{COSINE}"] is None


def test_medians_are_of_the_runs_that_ended(made: Make) -> None:
    runs = [made(seed=seed, curves={COSINE: hump(0.2)}) for seed in range(2)]
    all_ended = course().judge(runs)
    judgement = course().judge([*runs, made(seed=2, end=None, curves={COSINE: hump(0.2)})])
    assert not judgement.holds
    assert judgement.effect == pytest.approx(all_ended.effect, abs=0.01)
    fall = judgement.effect[f"fall_{COSINE}"]
    told = f"down by {fall:.3f} (medians; after it, of the 2 of 3 runs where it is known)"
    assert told in judgement.evidence[0]
    stuck = course().judge([made(seed=3, end=None, curves={COSINE: hump(0.2)})])
    assert "then nothing known (medians)" in stuck.evidence[0]


def test_the_site_that_rises_most_counts(made: Make) -> None:
    run = made(curves={COSINE: hump(0.2)})
    assert course().rising(run, COSINE).rise == pytest.approx(0.2, abs=0.01)


# ---- all of them -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_is_written_and_read(made: Make, name: str, tmp_path: Path) -> None:
    experiment = EXPERIMENTS[name]
    assert len({setting.label for setting in experiment.settings}) == len(experiment.settings)
    values = [setting.value for setting in experiment.settings]
    assert values == sorted(values)
    curves = {column: hump(0.2) for column in (COSINE, "grad_cos_within", "feature_cos_within")}
    runs = [
        write_observed(made(setting.label, seed, end=300 + seed, curves=curves), setting.observer)
        for setting in experiment.settings
        for seed in range(2)
    ]
    judgement = experiment.judge(runs)
    about = {"command": "tfc-fast reproduce", "device_name": "a machine", "torch": "2"}
    folder = tmp_path / "out"
    write_outcome(folder / name, experiment, runs, judgement, about)
    verdict = json.loads((folder / name / "verdict.json").read_text())
    assert verdict["holds"] is judgement.holds
    assert verdict["seeds"] == [0, 1]
    assert len((folder / name / "table.csv").read_text().splitlines()) == 1 + len(runs)
    assert (folder / name / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / name / "figure.svg").read_text()
    index = write_index(folder, list(EXPERIMENTS.values())).read_text()
    assert experiment.claim in index
    assert markdown_table(runs) in index
    assert sum(line.startswith("## ") for line in index.splitlines()) == 1


def test_the_same_runs_give_the_same_files(made: Make, tmp_path: Path) -> None:
    experiment = EXPERIMENTS["momentum"]
    runs = [made(setting.label, 0) for setting in experiment.settings]
    about = {"command": "", "device_name": "", "torch": ""}
    for folder in ("a", "b"):
        write_outcome(tmp_path / folder, experiment, runs, experiment.judge(runs), about)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name
