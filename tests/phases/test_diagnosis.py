from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from tests.training import train_steps
from tfc_fast import Probe
from tfc_fast.models import MLP
from tfc_fast.phases import Diagnosis, PhaseSummary, analyze, diagnose, remedies
from tfc_fast.phases.thresholds import INITIAL_COSINE, VANISHING

CHANCE = math.log(10)
SITES = ("a", "b", "c")
Values = float | npt.NDArray[np.float64]
Records = dict[str, npt.NDArray[Any]]


def records(
    steps: int, *, between: Values = 0.5, norm: Values = 1.0, dead: Values = 0.0, first: int = 1
) -> Records:
    """Three sites from step `first` on; values of one site, of `[sites]` or of `[steps, sites]`."""
    n = len(SITES)
    return {
        "step": np.repeat(np.arange(first, first + steps), n),
        "site": np.array(SITES * steps, dtype=object),
        "feature_cos_between": np.broadcast_to(between, (steps, n)).ravel(),
        "grad_cos_within": np.zeros(steps * n),
        "grad_norm_mean": np.broadcast_to(norm, (steps, n)).ravel(),
        "dead_window_frac": np.broadcast_to(dead, (steps, n)).ravel(),
        "n_zero_grads": np.zeros(steps * n, np.int64),
        "n_rows": np.full(steps * n, 10),
    }


def loss_curve(steps: int, plateau: int) -> npt.NDArray[np.float64]:
    """2.3 for `plateau` steps, then an exponential fall."""
    return 2.3 * np.exp(-np.maximum(np.arange(steps) - plateau, 0) / 40)


def diagnosed(loss: npt.NDArray[np.float64], found: Records | None) -> Diagnosis:
    return diagnose(analyze(loss, found, chance_loss=CHANCE), found)


def rise(steps: int, starts: dict[int, int], top: float = 0.2) -> npt.NDArray[np.float64]:
    """Cosines `[steps, sites]` that rise by `top` within 100 steps from the given step on."""
    values = np.full((steps, len(SITES)), 0.5)
    for site, at in starts.items():
        values[:, site] += np.interp(np.arange(steps), [at, at + 100], [0.0, top])
    return values


class TestInitialCollapse:
    def test_site_and_numbers(self) -> None:
        found = diagnosed(np.full(400, 2.3), records(400, between=np.array([0.5, 0.85, 0.9])))
        (finding,) = found.findings
        assert finding.kind == "collapse at initialisation"
        assert (finding.sites, finding.step) == (("b", "c"), 1)
        assert finding.evidence == pytest.approx({"start": 0.85, "largest_start": 0.9})
        assert "from b on: mean cosine 0.85 at step 1; likewise at c." in finding.sentence
        assert found.first_collapse is finding

    def test_threshold(self) -> None:
        above = records(400, between=INITIAL_COSINE + 1e-6)
        assert diagnosed(np.full(400, 2.3), above).kinds == ("collapse at initialisation",)
        below = records(400, between=INITIAL_COSINE - 1e-6)
        assert diagnosed(np.full(400, 2.3), below).kinds == ("unexplained",)

    def test_run_that_was_not_held_up_has_none(self) -> None:
        found = diagnosed(loss_curve(400, 20), records(400, between=0.9))
        assert found.kinds == ("none",)
        assert found.open == ()

    @pytest.mark.parametrize("every", [1, 20])
    def test_is_about_the_first_steps_only(self, every: int) -> None:
        steps = np.arange(1, 2401)
        between = np.interp(steps, [1, 60], [0.5, 0.95])[:, None]
        found = records(2400, between=between)
        found = {name: values[found["step"] % every == 1 % every] for name, values in found.items()}
        summary = analyze(np.full(2400, 2.3), found, steps=steps, chance_loss=CHANCE)
        assert diagnose(summary, found).kinds == ("collapse during training",)

    def test_site_that_begins_late_is_not_known(self) -> None:
        found = records(400, between=0.9)
        late = (found["site"] == "b") & (found["step"] < 100)
        found["feature_cos_between"] = np.where(late, np.nan, found["feature_cos_between"])
        assert diagnosed(np.full(400, 2.3), found).findings[0].sites == ("a", "c")
        none = {name: values[found["step"] >= 100] for name, values in found.items()}
        found = diagnose(analyze(np.full(400, 2.3), none, steps=np.arange(1, 401)), none)
        assert "nothing was recorded until step 11" in found.open[0].sentence


class TestCollapseDuringTraining:
    def test_first_layer_and_when(self) -> None:
        found = diagnosed(
            loss_curve(1000, 600), records(1000, between=rise(1000, {0: 400, 2: 200}))
        )
        (finding,) = found.findings
        assert finding.kind == "collapse during training"
        assert finding.sites == ("c", "a")
        # 0.04 of 0.2 in 100 steps
        assert finding.step == pytest.approx(200 + 20, abs=5)
        assert finding.evidence["rise"] == pytest.approx(0.2, abs=0.005)
        assert finding.evidence["peak"] == pytest.approx(0.7, abs=0.005)

    def test_rise_after_the_first_phase_is_none(self) -> None:
        found = diagnosed(loss_curve(1000, 200), records(1000, between=rise(1000, {0: 400})))
        assert found.kinds == ("none",)

    def test_both_ways_of_collapse(self) -> None:
        between = rise(1000, {1: 300})
        between[:, 2] = 0.95
        found = diagnosed(loss_curve(1000, 600), records(1000, between=between))
        assert found.kinds == ("collapse at initialisation", "collapse during training")
        assert found.first_collapse is found.findings[0]


class TestDeadUnits:
    def test_site_and_since_when(self) -> None:
        dead = np.zeros((400, 3))
        dead[:, 1] = np.where(np.arange(1, 401) >= 250, 0.6, 0.1)
        found = diagnosed(loss_curve(400, 20), records(400, dead=dead))
        (finding,) = found.findings
        assert (finding.kind, finding.sites, finding.step) == ("dead units", ("b",), 250)
        assert finding.evidence["dead_window_frac"] == pytest.approx(0.6)
        assert "60% of the units at b were above 0 for no sample of 100 steps" in finding.sentence

    def test_last_value_below_is_not_since_when(self) -> None:
        dead = np.zeros((400, 3))
        dead[:, 1] = np.where(np.arange(1, 401) >= 250, 0.9, 0.1)
        dead[-1, 1] = 0.4
        (finding,) = diagnosed(loss_curve(400, 20), records(400, dead=dead)).findings
        assert finding.step == 250

    def test_those_that_came_back_are_none(self) -> None:
        dead = np.where(np.arange(400) < 300, 0.9, 0.1)[:, None]
        assert diagnosed(loss_curve(400, 20), records(400, dead=dead)).kinds == ("none",)

    def test_too_short_for_the_window(self) -> None:
        summary = analyze(loss_curve(400, 20), None, chance_loss=CHANCE)
        found = diagnose(summary, records(400, dead=0.9), dead_window=500)
        assert found.kinds == ("undecided",)
        assert any("only 400 steps, 500 are wanted" in sentence for sentence in found.sentences)

    def test_site_that_was_left_out_early_is_not_known(self) -> None:
        found = records(400, dead=0.9)
        kept = (found["site"] != "b") | (found["step"] <= 30)
        found = {name: values[kept] for name, values in found.items()}
        (finding,) = diagnosed(loss_curve(400, 20), found).findings
        assert finding.sites == ("a", "c")

    def test_window_is_checked(self) -> None:
        with pytest.raises(ValueError, match=r"^dead_window: 0 given, at least 1 step is wanted"):
            diagnose(analyze([2.3], None), None, dead_window=0)


class TestVanishingGradients:
    def test_ratio(self) -> None:
        norm = np.array([0.004, 0.1, 1.0])
        (finding,) = diagnosed(np.full(400, 2.3), records(400, norm=norm)).findings
        assert (finding.kind, finding.sites, finding.step) == (
            "vanishing gradients",
            ("a", "c"),
            1,
        )
        assert finding.evidence["ratio"] == pytest.approx(0.004)

    def test_threshold(self) -> None:
        norm = np.array([1.01 * VANISHING, 1.0, 1.0])
        found = diagnosed(np.full(400, 2.3), records(400, norm=norm))
        assert found.kinds == ("unexplained",)

    def test_tap_stands_behind_all_modules(self) -> None:
        norm = np.array([1e-5, 1.0, 1e-5])  # the last one is recorded last, and is before the first
        (finding,) = diagnosed(np.full(400, 2.3), records(400, norm=norm)).findings
        assert (finding.kind, finding.sites) == ("vanishing gradients", ("a", "b"))

    def test_most_of_the_first_phase_counts(self) -> None:
        norm = np.ones((400, 3))
        norm[:150, 0] = 1e-4
        assert diagnosed(np.full(400, 2.3), records(400, norm=norm)).kinds == ("unexplained",)
        norm[:250, 0] = 1e-4
        assert diagnosed(np.full(400, 2.3), records(400, norm=norm)).kinds == (
            "vanishing gradients",
        )

    def test_small_gradients_after_the_first_phase_are_none(self) -> None:
        norm = np.ones((2000, 3))
        norm[320:, 0] = 1e-4
        assert diagnosed(loss_curve(2000, 300), records(2000, norm=norm)).kinds == ("none",)

    def test_gradients_that_are_all_zero_have_vanished(self) -> None:
        found = records(400)
        found["grad_norm_mean"] = np.where(found["site"] == "a", np.nan, 1.0)
        found["n_zero_grads"] = np.where(found["site"] == "a", 10, 0)
        (finding,) = diagnosed(np.full(400, 2.3), found).findings
        assert (finding.kind, finding.evidence) == ("vanishing gradients", {"ratio": 0.0})


class TestDivergence:
    def test_is_told_and_what_came_after_it_is_not(self) -> None:
        loss = np.full(500, 2.3)
        loss[400:] = np.nan
        gone = np.arange(1, 501)[:, None] >= 401
        found = records(500, between=np.where(gone, 1.0, 0.5), dead=np.where(gone, 1.0, 0.0))
        found["n_nonfinite"] = np.where((found["step"] >= 401) & (found["site"] != "a"), 10, 0)
        (finding,) = diagnosed(loss, found).findings
        assert (finding.kind, finding.sites, finding.step) == ("divergence", ("b", "c"), 401)
        assert finding.evidence == {"n_nonfinite_losses": 100}
        assert "from step 401 on" in finding.sentence
        assert "seen first at b" in finding.sentence

    def test_from_the_first_step_on(self) -> None:
        found = diagnosed(np.full(50, np.inf), None)
        assert found.kinds == ("divergence",)
        assert found.findings[0].step == 0

    def test_spike_is_none(self) -> None:
        loss = np.full(500, 2.3)
        loss[100:103] = np.nan
        assert diagnosed(loss, records(500)).kinds == ("unexplained",)

    def test_nothing_is_advised(self) -> None:
        stuck = np.full(800, 2.3)
        assert remedies(analyze(stuck, None)) != []
        stuck[-5:] = np.nan
        summary = analyze(stuck, None)
        assert (summary.verdict, remedies(summary)) == ("stuck", [])


class TestWhatCannotBeDecided:
    def test_short_run(self) -> None:
        found = diagnosed(np.full(30, 2.3), records(30, between=0.9, norm=0.1))
        assert found.kinds == ("undecided",)
        assert len(found.open) == 4
        assert sum("only 30 steps" in finding.sentence for finding in found.open) == 4

    def test_no_labels(self) -> None:
        found = diagnosed(np.full(400, 2.3), records(400, between=np.nan))
        assert found.kinds == ("undecided",)
        assert [finding.sentence for finding in found.open] == [
            f"Not known whether features {kind}: the similarity of features between classes was "
            "not measured, which needs a probe and class labels."
            for kind in ("were alike at initialisation", "grew alike during training")
        ]

    def test_what_is_known_is_told_beside_it(self) -> None:
        found = diagnosed(
            np.full(400, 2.3), records(400, between=np.nan, norm=np.array([1e-3, 1, 1]))
        )
        assert found.kinds == ("vanishing gradients",)
        assert len(found.open) == 2

    def test_first_phase_that_goes_on(self) -> None:
        found = diagnosed(2.3 * np.exp(-np.arange(600) / 6000), records(600))
        assert found.kinds == ("undecided",)
        assert "features can still grow alike" in found.open[0].sentence

    @pytest.mark.parametrize("missing", [None, {}])
    def test_no_records(self, missing: Records | None) -> None:
        assert len(diagnosed(np.full(400, 2.3), missing).open) == 4

    def test_missing_beginning(self) -> None:
        found = records(400, between=0.9, first=5001)
        blind = diagnose(analyze(np.full(400, 2.3), found), found)
        assert blind.kinds == ("undecided",)
        assert "the first 5,000 steps of the run are not recorded" in blind.open[0].sentence
        at_chance = diagnosed(np.full(400, 2.3), found)
        assert at_chance.kinds == ("undecided",)
        assert len(at_chance.open) == 2

    def test_trained_before_is_nothing_to_cure(self) -> None:
        assert diagnosed(np.full(400, 0.3), records(400, between=0.9)).kinds == ("none",)


def test_is_strict_json() -> None:
    found = diagnosed(np.full(400, 2.3), records(400, between=0.9, norm=np.nan))
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [finding["kind"] for finding in read["findings"]] == ["collapse at initialisation"]
    assert read["findings"][0]["sites"] == ["a", "b", "c"]
    assert [finding["kind"] for finding in read["open"]] == ["undecided"]


def trained(model: MLP, steps: int, lr: float = 0.05) -> tuple[PhaseSummary, Diagnosis]:
    """A real run on clusters around four points."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(4, model.in_features, generator=generator)
    y = torch.arange(200) % 4
    x = centres[y] + 0.5 * torch.randn(200, model.in_features, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    with Probe(model, num_classes=4) as probe:
        losses = train_steps(model, optimizer, [(x, y)] * steps, probe)
        history = probe.history()
    summary = analyze(torch.stack(losses).tolist(), history, chance_loss=math.log(4))
    return summary, diagnose(summary, history)


class TestRealRuns:
    @staticmethod
    def mlp(depth: int, **options: Any) -> MLP:
        generator = torch.Generator().manual_seed(1)
        return MLP(16, 4, depth, 32, generator=generator, **options)

    def test_deep_network_of_small_weights(self) -> None:
        summary, found = trained(self.mlp(11, bias=False, gain=0.41), 320)
        assert summary.verdict == "stuck"
        assert "vanishing gradients" in found.kinds
        ratio = found.findings[-1].evidence["ratio"]
        assert 0.1 * 0.41**9 < ratio < 10 * 0.41**9

    def test_negative_biases_kill_units(self) -> None:
        model = self.mlp(3)
        bias = model.hidden[1].linear.bias  # type: ignore[union-attr]
        assert isinstance(bias, nn.Parameter)
        with torch.no_grad():
            bias.fill_(-100.0)
        _, found = trained(model, 120)
        dead = next(finding for finding in found.findings if finding.kind == "dead units")
        assert dead.sites == ("hidden.1.relu",)
        assert dead.evidence == {"dead_window_frac": 1.0, "largest": 1.0}

    def test_large_biases_make_features_alike_from_the_start(self) -> None:
        model = self.mlp(3, gain=0.2)
        with torch.no_grad():
            model.hidden[0].linear.bias.fill_(10.0)  # type: ignore[union-attr, operator]
        summary, found = trained(model, 60, lr=1e-6)
        assert summary.verdict == "undecided"
        assert found.findings[0].kind == "collapse at initialisation"
        assert found.findings[0].sites[0] == "hidden.0.relu"

    def test_shallow_network_is_healthy(self) -> None:
        summary, found = trained(self.mlp(3), 120)
        assert summary.verdict == "none"
        assert found.kinds == ("none",)
        assert found.open == ()
