from __future__ import annotations

import inspect
import json
import math
import re

import numpy as np
import numpy.typing as npt
import pytest

from tfc_fast.phases import PhaseMonitor, analyze, describe, remedies
from tfc_fast.phases.thresholds import PATIENCE

CHANCE = math.log(10)
Records = dict[str, npt.NDArray[np.generic]]


def loss_curve(plateau: int, steps: int) -> npt.NDArray[np.float64]:
    """2.3 for `plateau` steps, then an exponential fall."""
    return 2.3 * np.exp(-np.maximum(np.arange(steps) - plateau, 0) / 40)


def records(steps: int, rises: dict[str, float], peak_at: int) -> Records:
    """Each site starts at 0.5, rises to its peak and falls to 0.4."""
    curve = np.interp(np.arange(steps), [0, peak_at, steps], [0.0, 1.0, 0.0])
    fall = np.interp(np.arange(steps), [peak_at, steps], [0.0, -0.1])
    values = np.stack([0.5 + rise * curve + fall for rise in rises.values()], 1)
    return {
        "step": np.repeat(np.arange(steps), len(rises)),
        "site": np.array(list(rises) * steps, dtype=object),
        "feature_cos_between": values.ravel(),
        "grad_cos_within": values.ravel() / 2,
    }


class TestVerdict:
    def test_collapsed(self) -> None:
        found = records(1500, {"a": 0.1, "b": 0.3, "c": 0.2}, peak_at=550)
        summary = analyze(loss_curve(600, 1500), found, chance_loss=CHANCE)
        assert summary.verdict == "collapsed"
        assert summary.first_phase_end == pytest.approx(615, abs=10)
        assert summary.collapse_site == "b"
        assert summary.peak_step == pytest.approx(550, abs=10)
        assert summary.peak_feature_cos_between == pytest.approx(0.8, abs=0.01)
        assert [site.site for site in summary.sites] == ["a", "b", "c"]
        assert summary.final_loss < 0.01

    def test_stuck(self) -> None:
        summary = analyze(np.full(1500, 2.3), records(1500, {"a": 0.3}, 700), chance_loss=CHANCE)
        assert summary.verdict == "stuck"
        assert summary.first_phase_end is None
        assert summary.final_loss == pytest.approx(2.3)

    def test_none_if_the_phase_was_short(self) -> None:
        found = records(400, {"a": 0.3}, peak_at=25)
        summary = analyze(loss_curve(25, 400), found)
        assert summary.first_phase_end is not None
        assert summary.verdict == "none"
        assert analyze(loss_curve(25, 400), found, min_phase=20).verdict == "collapsed"

    def test_none_if_the_features_did_not_rise(self) -> None:
        found = records(1500, {"a": 0.03}, peak_at=550)
        assert analyze(loss_curve(600, 1500), found).verdict == "none"
        assert analyze(loss_curve(600, 1500), found, min_rise=0.02).verdict == "collapsed"

    @pytest.mark.parametrize("patience", [50, PATIENCE])
    def test_stuck_is_what_the_monitor_of_the_running_run_calls_stuck(self, patience: int) -> None:
        for steps in (1, 2, 50, patience, patience + 1, 1000):
            loss, monitor = np.full(steps, 2.3), PhaseMonitor(patience=patience)
            for step in range(steps):
                monitor.update(step, 2.3)
            verdict = analyze(loss, None, patience=patience).verdict
            assert (verdict == "stuck") == (monitor.state == "stuck") == (steps > patience)
            assert verdict in ("stuck", "undecided")

    def test_undecided_as_long_as_the_loss_falls_slowly(self) -> None:
        loss = 2.3 * np.exp(-np.arange(600) / 6000)  # 10 % in 600 steps
        assert analyze(loss, None).verdict == "undecided"
        assert analyze(np.append(loss, np.full(300, loss[-1])), None).verdict == "stuck"

    def test_undecided_as_long_as_the_features_grow_more_alike(self) -> None:
        loss = np.full(700, 2.3)
        assert analyze(loss, records(700, {"a": 0.3}, peak_at=699)).verdict == "undecided"
        assert analyze(loss, records(700, {"a": 0.3}, peak_at=300)).verdict == "stuck"

    def test_stuck_if_the_loss_came_back_and_stays(self) -> None:
        loss = np.full(1000, 2.3)
        loss[100:200] = 1.0
        assert analyze(loss, None).verdict == "stuck"
        assert analyze(loss[:400], None).verdict == "undecided"

    def test_length_is_counted_in_steps(self) -> None:
        flat = np.full(101, 2.3)
        assert analyze(flat, None, steps=5 * np.arange(101)).verdict == "stuck"
        assert analyze(flat, None, steps=1000 + np.arange(101)).verdict == "undecided"

    def test_a_handful_of_losses_decides_nothing(self) -> None:
        assert analyze(np.full(10, 2.3), None, steps=50 * np.arange(10)).verdict == "undecided"

    def test_undecided_if_it_diverged_before_anything_could_be_told(self) -> None:
        loss = np.full(1000, np.nan)
        loss[:10] = 2.3
        summary = analyze(loss, None)
        assert summary.verdict == "undecided"
        assert (summary.first_step, summary.last_step) == (0, 9)
        assert summary.n_nonfinite_losses == 990
        assert math.isnan(summary.final_loss)

    def test_none_if_the_network_was_trained_before(self) -> None:
        loss = np.linspace(0.3, 0.2, 1000)
        summary = analyze(loss, records(1000, {"a": 0.3}, 100), chance_loss=CHANCE)
        assert summary.always_below_chance
        assert summary.verdict == "none"
        assert analyze(np.full(1000, 0.3), None).verdict == "stuck"  # chance level unknown

    def test_one_lucky_first_batch_is_not_training_before(self) -> None:
        loss = np.full(1000, 2.3)
        loss[0] = 1.0
        assert analyze(loss, None, chance_loss=CHANCE).verdict == "stuck"

    def test_undecided_without_labels(self) -> None:
        found = records(1500, {"a": 0.3}, 550)
        found["feature_cos_between"] = np.full(1500, np.nan)
        assert analyze(loss_curve(20, 1500), found).verdict == "none"  # too short for a collapse
        summary = analyze(loss_curve(600, 1500), found)
        assert summary.verdict == "undecided"
        assert summary.collapse_site is None
        assert summary.peak_step is None
        assert math.isnan(summary.peak_feature_cos_between)

    @pytest.mark.parametrize("loss", [[], [math.nan, math.inf], [2.3]])
    def test_undecided_of_almost_nothing(self, loss: list[float]) -> None:
        summary = analyze(loss, None, chance_loss=CHANCE)
        assert summary.verdict == "undecided"
        assert summary.first_phase_end is None


class TestCollapseSite:
    def test_tie_goes_to_the_deepest(self) -> None:
        found = records(1500, {"a": 0.300, "b": 0.299, "c": 0.1}, 550)
        assert analyze(loss_curve(600, 1500), found).collapse_site == "b"

    def test_tie_does_not_take_a_collapse_for_none(self) -> None:
        rises = {"a": 0.0444, "b": 0.0379}
        for order in (rises, dict(reversed(rises.items()))):
            found = {**records(1500, order, 550)}
            # no smaller than they are by the mean over 21 steps
            found["feature_cos_between"] = found["feature_cos_between"].astype(float) * 1.05
            summary = analyze(loss_curve(600, 1500), found)
            assert (summary.verdict, summary.collapse_site) == ("collapsed", "a"), order

    def test_what_came_after_divergence_is_no_collapse(self) -> None:
        found = records(600, {"a": 0.0}, 300)
        loss = np.full(600, 2.3)
        loss[400:] = math.nan
        found["feature_cos_between"] = np.where(found["step"] > 410, 1.0, 0.5)
        (site,) = analyze(loss, found).sites
        assert site.feature_between.rise == 0.0

    def test_site_that_was_not_measured_is_passed_over(self) -> None:
        found = records(1500, {"a": 0.2, "b": 0.3}, 550)
        found["feature_cos_between"] = np.where(
            found["site"] == "b", np.nan, found["feature_cos_between"].astype(float)
        )
        assert analyze(loss_curve(600, 1500), found).collapse_site == "a"


class TestArguments:
    def test_thresholds_are_kept(self) -> None:
        summary = analyze(
            [2.3], None, chance_loss=CHANCE, min_rise=0.1, min_phase=7, patience=70, window=5
        )
        assert summary.thresholds == {
            "decay": 0.95,
            "drop": 0.1,
            "chance_loss": CHANCE,
            "min_rise": 0.1,
            "min_phase": 7,
            "patience": 70,
            "window": 5,
        }

    def test_defaults_are_those_of_the_monitor(self) -> None:
        ours, monitors = (inspect.signature(f).parameters for f in (analyze, PhaseMonitor))
        shared = {"decay", "drop", "min_rise", "min_phase", "patience", "chance_loss"}
        assert monitors.keys() == shared
        for name in shared:
            assert ours[name].default == monitors[name].default, name

    def test_are_checked(self) -> None:
        with pytest.raises(ValueError, match="patience: 0 given"):
            analyze([2.3], None, patience=0)
        with pytest.raises(ValueError, match="min_rise: 0 given"):
            analyze([2.3], None, min_rise=0)
        with pytest.raises(ValueError, match="min_phase: 0 given"):
            analyze([2.3], None, min_phase=0)

    @pytest.mark.parametrize(
        "name", ["chance_loss", "decay", "drop", "min_rise", "min_phase", "patience", "window"]
    )
    @pytest.mark.parametrize("value", ["x", [1]])
    def test_that_are_no_numbers_are_named(self, name: str, value: object) -> None:
        message = re.escape(f"{name}: {value!r} given, a number is wanted")
        with pytest.raises(TypeError, match=f"^{message}"):
            analyze([2.3], None, **{name: value})  # type: ignore[arg-type]


class TestLossAndRecords:
    @pytest.mark.parametrize("loss", [{}, "abc", [[1.0, 2.0], [3.0]], [object()]])
    def test_losses_that_are_no_numbers(self, loss: object) -> None:
        message = f"^loss: a {type(loss).__name__} given, one number per step is wanted"
        with pytest.raises(TypeError, match=message):
            analyze(loss, None)  # type: ignore[arg-type]

    def test_exchanged_are_told_apart(self) -> None:
        found = records(20, {"a": 0.3}, 10)
        with pytest.raises(TypeError, match=r"^loss: a dict given"):
            analyze(found, np.full(20, 2.3))  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^records: a ndarray given, a dict of columns"):
            analyze(np.full(20, 2.3), np.full(20, 2.3))  # type: ignore[arg-type]

    def test_losses_are_of_the_steps_of_the_records(self) -> None:
        found = records(800, {"a": 0.3, "b": 0.2}, 350)
        found["step"] = found["step"] + 5001  # the newest of a long run
        summary = analyze(loss_curve(400, 800), found, chance_loss=CHANCE)
        assert summary.verdict == "collapsed"
        assert (summary.first_step, summary.last_step) == (5001, 5800)
        assert summary.first_phase_end == pytest.approx(5001 + 415, abs=10)
        assert summary.peak_step == pytest.approx(5001 + 350, abs=10)

    @pytest.mark.parametrize("losses", [0, 100, 799, 1600])
    def test_of_another_number_are_refused(self, losses: int) -> None:
        found = records(800, {"a": 0.3, "b": 0.2}, 350)
        message = rf"^loss: {losses} values given, but the records are of 800 steps, 0 to 799; give"
        with pytest.raises(ValueError, match=message):
            analyze(np.full(losses, 2.3), found)

    def test_of_another_run_are_refused(self) -> None:
        found = records(800, {"a": 0.3}, 350)
        message = r"^steps: 800 to 809 given, but the records are of 800 steps, 0 to 799; give"
        with pytest.raises(ValueError, match=message):
            analyze(np.full(10, 2.3), found, steps=800 + np.arange(10))

    def test_may_be_of_different_steps_of_one_run(self) -> None:
        loss, found = loss_curve(600, 1500), records(1500, {"a": 0.3}, 550)
        every_tenth = {name: column[::10] for name, column in found.items()}
        summary = analyze(loss, every_tenth, steps=np.arange(1500))
        assert summary.verdict == "collapsed"
        thinned = analyze(loss[5::10], found, steps=np.arange(5, 1500, 10))
        assert thinned.verdict == "collapsed"
        killed = analyze(loss[:310], found, steps=np.arange(310))
        assert killed.verdict == "undecided"
        assert killed.last_step == 309

    def test_no_records_fit_all_losses(self) -> None:
        nothing = {name: column[:0] for name, column in records(5, {"a": 0.3}, 2).items()}
        assert analyze(loss_curve(20, 400), nothing).verdict == "none"


class TestToDict:
    def test_is_strict_json(self) -> None:
        loss = np.full(1000, 2.3)
        loss[-1] = math.nan
        found = records(1000, {"a": 0.3}, 500)
        found["grad_cos_within"] = np.full(1000, np.nan)
        summary = analyze(loss, found, chance_loss=np.float64(CHANCE))
        read = json.loads(json.dumps(summary.to_dict(), allow_nan=False))
        assert read["verdict"] == "stuck"
        assert read["first_phase_end"] is None
        assert read["final_loss"] is None
        assert read["n_nonfinite_losses"] == 1
        assert read["sites"][0]["site"] == "a"
        assert read["sites"][0]["grad_within"]["rise"] is None
        assert read["sites"][0]["feature_between"]["rise"] > 0.2
        assert read["thresholds"]["chance_loss"] == CHANCE


class TestDescribe:
    def test_collapsed(self) -> None:
        summary = analyze(loss_curve(600, 1500), records(1500, {"a.relu": 0.3}, 550))
        text = describe(summary)
        assert text.startswith("Temporary feature collapse: the first phase lasted 615 steps")
        assert (
            "at a.relu as much as anywhere: the mean cosine between classes rose from 0.50 to 0.8"
            in text
        )
        assert "later fell to 0.40" in text

    def test_stuck(self) -> None:
        text = describe(analyze(np.full(1500, 2.3), records(1500, {"a": 0.001}, 700)))
        assert text.startswith(
            "Stuck in the first phase: after 1,500 steps the loss is not 10 % below its first "
            "plateau (it is 2.3 at the end), and at least the last 300 steps brought no progress."
        )
        assert "did not grow more alike" in text

    def test_none(self) -> None:
        text = describe(analyze(loss_curve(20, 400), records(400, {"a": 0.01}, 20)))
        assert text.startswith("No temporary feature collapse: the first phase lasted only 3")

    def test_without_labels(self) -> None:
        text = describe(analyze(loss_curve(600, 1500), None))
        assert text.startswith("Not known whether features collapsed: the first phase lasted")
        assert "was not measured: it needs a probe that is given class labels" in text

    @pytest.mark.parametrize(("steps", "told"), [(1, "1 step"), (2, "2 steps"), (300, "300 steps")])
    def test_too_short(self, steps: int, told: str) -> None:
        assert describe(analyze([2.3] * steps, None)) == (
            f"Too short to tell: after {told} the loss is not 10 % below its first plateau (it is "
            "2.3 at the end). Only after more than 300 steps can a run be called stuck."
        )

    def test_still_in_the_first_phase(self) -> None:
        text = describe(analyze(np.full(700, 2.3), records(700, {"a": 0.3}, 699)))
        assert text.startswith("Still in the first phase: after 700 steps the loss is not 10 %")
        assert "but the last 300 steps brought progress" in text
        assert "grew more alike, at a" in text

    def test_length_is_told_in_steps(self) -> None:
        summary = analyze(np.full(10, 2.3), None, steps=10 * np.arange(10))
        assert "after 91 steps" in describe(summary)

    def test_trained_before(self) -> None:
        text = describe(analyze(np.full(1000, 0.3), None, chance_loss=CHANCE))
        assert text.startswith("No first phase: the loss was below chance level from the start")

    def test_nonfinite_losses_are_told(self) -> None:
        loss = np.full(1000, 2.3)
        loss[10] = math.inf
        assert "1 of 1000 losses were not finite." in describe(analyze(loss, None))
        loss[-1] = math.nan
        assert "2 of 1000 losses were not finite, the last one" in describe(analyze(loss, None))

    def test_nothing(self) -> None:
        assert describe(analyze([], None)) == "Nothing to judge: no finite loss was recorded."
        assert describe(analyze([math.nan], None)).startswith("Nothing to judge")


def test_remedies_are_for_those_who_need_them() -> None:
    stuck = remedies(analyze(np.full(400, 2.3), None))
    collapsed = remedies(analyze(loss_curve(600, 1500), records(1500, {"a": 0.3}, 550)))
    assert stuck == collapsed
    for word in ("batch normalisation", "momentum", "initial weights", "layers", "weight decay"):
        assert any(word in remedy for remedy in stuck), word
    assert remedies(analyze([2.3], None)) == []
    assert remedies(analyze(loss_curve(20, 400), None)) == []
