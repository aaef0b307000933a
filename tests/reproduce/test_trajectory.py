"""Verdicts on the way of the class means, directions of updates, and other architectures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfc_fast.reproduce import Setting, reproduce, runner
from tfc_fast.reproduce.architectures import ARCHITECTURES, Architectures
from tfc_fast.reproduce.directions import DIRECTIONS, Directions
from tfc_fast.reproduce.trajectory import TRAJECTORY, Trajectory, moments, salient_overlap
from tfc_fast.reproduce.trajectory_figure import projection

from .conftest import Make, hump
from .observed import write_features, write_update_shares

SMALL = {"dataset": "gaussian", "samples": 80, "dim": 6, "depth": 4, "width": 12, "batch_size": 20}

Curve = Callable[[Any], Any]


# ---- the way of the class means ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("between", "holds"),
    [
        (lambda steps: 0.9 - np.abs(steps - 300) / 800, True),
        (lambda steps: 0.5 + 0.0004 * np.minimum(steps, 800 - steps), False),  # it hardly rises
        (lambda steps: np.minimum(0.5 + steps / 1000, 0.9), False),  # it stays
        (lambda steps: 0.9 - steps / 1000, False),  # it falls all the time
    ],
)
def test_classes_that_come_together_and_part(made: Make, between: Curve, holds: bool) -> None:
    judgement = TRAJECTORY.judge([write_features(made(), between)])
    assert judgement.holds is holds


def test_one_run_without_the_way_is_enough_to_fail(made: Make) -> None:
    def way(steps: Any) -> Any:
        return 0.9 - np.abs(steps - 300) / 800

    runs = [write_features(made(seed=seed), way) for seed in range(2)]
    assert TRAJECTORY.judge(runs).holds
    stuck = write_features(made(seed=2, end=None), way)
    judgement = TRAJECTORY.judge([*runs, stuck])
    assert not judgement.holds
    assert "as claimed in 2 of 3 runs" in judgement.evidence[0]
    assert "(medians; after it, of the 2 of 3 runs where it is known)" in judgement.evidence[0]
    assert judgement.effect == pytest.approx(TRAJECTORY.judge(runs).effect, abs=0.05)
    assert TRAJECTORY.judge([stuck]).effect["rise_factor"] is None


def test_observations_that_are_not_finite_are_no_moments(made: Make) -> None:
    def way(steps: Any) -> Any:
        return np.where(np.isin(steps, (150, 700)), np.nan, 0.9 - np.abs(steps - 300) / 800)

    run = write_features(made(), way)
    at = moments(run)
    assert run.observed["steps"][[at.nearest, at.apart]].tolist() == [300, 800]
    assert TRAJECTORY.judge([run]).holds
    TRAJECTORY.figure([run])


@pytest.mark.parametrize("first", [0, 200, 500])
def test_a_run_that_diverged_is_judged_and_drawn(made: Make, first: int) -> None:
    run = write_features(made(), lambda steps: np.where(steps < first, 0.5, np.nan))
    assert not TRAJECTORY.judge([run]).holds
    TRAJECTORY.figure([run]).canvas.draw()
    write_update_shares(run, lambda steps: np.where(steps < first, 0.9, np.nan))
    run = dataclasses.replace(run)  # without what it has read
    assert not DIRECTIONS.judge([run]).holds
    DIRECTIONS.figure([run]).canvas.draw()


def test_effect_sizes_are_factors_of_the_distance(made: Make) -> None:
    run = write_features(
        made(), lambda steps: np.select([steps < 200, steps < 400], [0.2, 0.8], 0.0)
    )
    effect = TRAJECTORY.judge([run]).effect
    assert effect["distance_nearest"] == pytest.approx(0.2)
    assert effect["fall_factor"] == pytest.approx(4)
    assert effect["rise_factor"] == pytest.approx(5)


def test_salient_dimensions_are_shared_by_all_or_by_none() -> None:
    assert salient_overlap(np.ones((3, 20)) * np.arange(20), [0, 1, 1]) == 1
    assert salient_overlap(np.eye(4).repeat(10, axis=1), [0, 1, 2, 3]) == 0


def test_salient_dimensions_of_samples_of_one_class_are_not_compared() -> None:
    features = np.array([[1, 0], [1, 0], [0, 1]])
    assert salient_overlap(features, [0, 0, 1], 1) == 0
    assert salient_overlap(features, [0, 1, 0], 1) == 0.5


def test_a_projection_keeps_the_distances_of_points_in_a_plane() -> None:
    generator = np.random.default_rng(0)
    plane = generator.normal(size=(5, 3, 2))
    axes, _ = np.linalg.qr(generator.normal(size=(7, 2)))
    points = projection(plane @ axes.T + 3.0)
    for shown in (points, plane):
        assert shown.shape == (5, 3, 2)
    distance = [np.linalg.norm(shown[0, 0] - shown[4, 2]) for shown in (points, plane)]
    assert distance[0] == pytest.approx(distance[1])


# ---- directions of updates ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("share", "holds"),
    [
        (lambda steps: np.where(steps < 400, 0.95, 0.5), True),
        (lambda steps: np.full(steps.shape, 0.95), False),  # later, too
        (lambda steps: np.where(steps < 400, 0.4, 0.1), False),  # along several all the time
        (lambda steps: np.where(steps < 400, 0.5, 0.95), False),  # the opposite
    ],
)
def test_updates_along_one_direction_in_the_first_phase_only(
    made: Make, share: Curve, holds: bool
) -> None:
    judgement = DIRECTIONS.judge([write_update_shares(made(), share)])
    assert judgement.holds is holds


def test_directions_without_an_end_of_the_phase_do_not_hold(made: Make) -> None:
    run = write_update_shares(made(end=None), lambda steps: np.full(steps.shape, 0.95))
    judgement = DIRECTIONS.judge([run])
    assert not judgement.holds
    assert judgement.effect["share_first_phase"] == pytest.approx(0.95)
    assert judgement.effect["share_later"] is None
    assert "nothing known after it" in judgement.evidence[0]


def test_shares_are_of_the_runs_that_ended(made: Make) -> None:
    def share(steps: Any) -> Any:
        return np.where(steps < 400, 0.95, 0.5)

    runs = [write_update_shares(made(seed=seed), share) for seed in range(2)]
    judgement = DIRECTIONS.judge([*runs, write_update_shares(made(seed=2, end=None), share)])
    assert not judgement.holds
    assert judgement.effect["share_later"] == pytest.approx(0.5)
    assert "50% after it (medians; after it, of the 2 of 3 runs" in judgement.evidence[0]
    assert "nothing known" not in judgement.evidence[2]


# ---- other architectures -----------------------------------------------------------------------


def test_an_architecture_that_does_not_collapse_is_enough_to_fail(made: Make) -> None:
    rising = {"feature_cos_between": hump(0.3)}
    runs = [made("VGG-11", curves=rising), made("RNN", curves=rising)]
    assert ARCHITECTURES.judge(runs).holds
    judgement = ARCHITECTURES.judge([*runs, made("LSTM")])
    assert not judgement.holds
    assert "LSTM" in judgement.evidence[2]
    assert "collapsed in 0 of 1 runs" in judgement.evidence[2]


def test_when_an_architecture_is_most_alike_is_told(made: Make) -> None:
    early = made("LSTM", curves={"feature_cos_between": hump(0.3, at=100)})
    late = made("RNN", curves={"feature_cos_between": hump(0.3, at=200)})
    assert "after 50% at RNN, 25% at LSTM." in ARCHITECTURES.judge([early, late]).evidence[-1]


# ---- real runs ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "experiment",
    [
        Trajectory("t", "T", "A claim.", (Setting("a", 20, SMALL, observer="features"),)),
        Directions("d", "D", "A claim.", (Setting("a", 20, SMALL, observer="update-shares"),)),
        Architectures(
            "a",
            "A",
            "A claim.",
            (
                Setting("VGG-11", 3, {"model": "vgg11", "width": 1, "batch_size": 10}),
                Setting(
                    "RNN", 20, {"model": "rnn", "depth": 3, "width": 5, "sites": "recurrent.*"}, 1
                ),
            ),
        ),
    ],
    ids=lambda experiment: experiment.name,
)
def test_a_tiny_run_is_trained_judged_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: Any
) -> None:
    monkeypatch.setattr(runner, "EXPERIMENTS", {experiment.name: experiment})
    (outcome,) = reproduce(
        [experiment.name], tmp_path, quick=True, seeds=1, workers=1, progress=False
    )
    assert not outcome.judgement.holds
    assert {path.name for path in outcome.folder.iterdir()} == {
        *("table.csv", "table.md", "figure.png", "figure.svg", "verdict.json")
    }
