from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from tfc_fast.records import Records
from tfc_fast.report import (
    bin_records,
    gates_figure,
    heatmap_figure,
    loss_figure,
    similarity_figure,
)
from tfc_fast.report.style import site_colors


def drawn(figure: Figure | None) -> Figure:
    """The figure after it was drawn once: layout and ticks stand, and drawing raised nothing."""
    assert figure is not None
    figure.savefig(io.BytesIO(), format="png")
    return figure


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def texts(figure: Figure) -> str:
    return "\n".join(
        text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_visible()
    )


def vertical_lines(axes: Any) -> list[float]:
    lines = [line.get_xdata() for line in axes.get_lines()]
    return [x[0] for x in lines if len(x) == 2 and x[0] == x[1]]


class TestLoss:
    steps = np.arange(1, 401)
    loss = 2.3 * np.exp(-np.maximum(np.arange(400) - 200, 0) / 20)

    def test_end_of_the_first_phase_is_marked(self) -> None:
        figure = drawn(loss_figure(self.steps, self.loss, first_phase_end=222))
        assert "first phase ends: step 222" in texts(figure)
        assert vertical_lines(figure.axes[0]) == [222]
        (shade,) = figure.axes[0].patches
        assert shade.get_extents().x1 == pytest.approx(
            figure.axes[0].transData.transform((222, 0))[0]
        )

    def test_phase_that_did_not_end_is_shaded_to_the_last_step(self) -> None:
        figure = drawn(loss_figure(self.steps, self.loss))
        assert "first phase: not ended" in texts(figure)
        assert vertical_lines(figure.axes[0]) == []
        (shade,) = figure.axes[0].patches
        assert shade.get_extents().x1 == pytest.approx(
            figure.axes[0].transData.transform((400, 0))[0]
        )

    def test_without_a_first_phase_nothing_is_shaded(self, records: Records) -> None:
        figure = drawn(loss_figure(self.steps, self.loss, has_first_phase=False))
        assert "first phase" not in texts(figure)
        binned = bin_records(records)
        others = [
            similarity_figure(binned, "grad", has_first_phase=False),
            gates_figure(binned, has_first_phase=False),
        ]
        for axes in [axes for one in [figure, *map(drawn, others)] for axes in one.axes]:
            assert not axes.patches
        assert drawn(gates_figure(binned)).axes[0].patches

    def test_axes_are_labelled(self) -> None:
        axes = drawn(loss_figure(self.steps, self.loss)).axes[0]
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("step", "training loss")

    def test_shows_raw_average_and_chance(self) -> None:
        figure = drawn(loss_figure(self.steps, self.loss, chance_loss=2.3, decay=0.9))
        for label in ("loss of the step", "exponential average (decay 0.9)", "chance"):
            assert label in texts(figure)

    @pytest.mark.parametrize("chance", [None, 2.3])
    def test_spike_is_cut_off_and_told(self, chance: float | None) -> None:
        loss = self.loss.copy()
        loss[[100, 300]] = 400.0
        axes = drawn(loss_figure(self.steps, loss, chance_loss=chance)).axes[0]
        assert axes.get_ylabel() == "training loss (spikes up to 400 cut off)"
        low, high = axes.get_ylim()
        assert -0.5 < low < 0.0
        assert 2.3 < high < 5.0

    def test_short_plateau_of_a_long_run_is_not_cut_off(self) -> None:
        loss = np.full(100_000, 0.1)
        loss[:1500] = 2.3
        axes = drawn(loss_figure(np.arange(100_000), loss)).axes[0]
        assert axes.get_ylim()[1] > 2.3
        assert axes.get_ylabel() == "training loss"

    def test_plateau_above_the_start_is_not_cut_off(self) -> None:
        loss = np.concatenate([[1.0], np.full(199, 6.0), np.full(200, 0.1)])
        axes = drawn(loss_figure(self.steps, loss)).axes[0]
        assert axes.get_ylim()[1] > 6.0
        assert axes.get_ylabel() == "training loss"

    def test_flat_curve_looks_flat(self) -> None:
        noise = 1e-5 * np.random.default_rng(0).standard_normal(400)
        low, high = drawn(loss_figure(self.steps, 2.3 + noise)).axes[0].get_ylim()
        assert high - low > 0.2

    @pytest.mark.parametrize("loss", [[2.3], [0.0], [-1.0], [np.nan, 2.3, np.inf], [np.nan, 0.0]])
    @pytest.mark.parametrize("chance", [None, 2.3])
    def test_almost_nothing_can_be_drawn(self, loss: list[float], chance: float | None) -> None:
        figure = drawn(loss_figure(np.arange(len(loss)), loss, chance_loss=chance))
        low, high = figure.axes[0].get_ylim()
        assert low < high

    def test_nothing_finite_is_no_figure(self) -> None:
        assert loss_figure([1, 2], [np.nan, np.inf]) is None
        assert loss_figure([], []) is None

    def test_long_run_is_thinned_out(self) -> None:
        figure = loss_figure(np.arange(200_000), np.linspace(2.3, 0.1, 200_000))
        assert figure is not None
        assert max(len(line.get_xdata()) for line in figure.axes[0].get_lines()) <= 500


class TestSimilarity:
    def test_has_a_panel_per_kind_of_pairs_and_a_line_per_site(self, records: Records) -> None:
        figure = drawn(similarity_figure(bin_records(records), "feature", first_phase_end=200))
        assert titles(figure) == ["Features, within classes", "Features, between classes"]
        for axes in figure.axes:
            assert vertical_lines(axes) == [200]
            assert len(axes.get_lines()) == 3 + 1
        assert figure.axes[0].get_ylabel() == "mean cosine"
        for site in ("hidden.0.relu", "hidden.1.relu", "hidden.2.relu"):
            assert site in texts(figure)

    def test_lines_are_the_records(self, records: Records) -> None:
        records["feature_cos_between"] = np.random.default_rng(0).random(1200)
        figure = similarity_figure(bin_records(records), "feature")
        assert figure is not None
        for index, line in enumerate(figure.axes[1].get_lines()):
            assert np.array_equal(line.get_ydata(), records["feature_cos_between"][index::3])

    def test_of_gradients(self, records: Records) -> None:
        figure = drawn(similarity_figure(bin_records(records), "grad"))
        assert titles(figure) == ["Gradients, within classes", "Gradients, between classes"]

    def test_without_labels_shows_all_pairs(self, make_records: Callable[..., Records]) -> None:
        binned = bin_records(make_records(labels=False))
        assert titles(drawn(similarity_figure(binned, "grad"))) == ["Gradients, all pairs"]

    def test_not_measured_is_no_figure(self, records: Records) -> None:
        for name in ("all", "within", "between"):
            records[f"grad_cos_{name}"][:] = np.nan
        assert similarity_figure(bin_records(records), "grad") is None
        assert similarity_figure(bin_records(records), "feature") is not None

    def test_one_step_is_drawn_as_points(self, make_records: Callable[..., Records]) -> None:
        figure = drawn(similarity_figure(bin_records(make_records(1)), "feature"))
        assert figure.axes[0].get_lines()[0].get_marker() == "o"

    def test_many_sites_get_a_colour_bar(self, make_records: Callable[..., Records]) -> None:
        records = make_records(20, sites=tuple(f"block.{index}.relu" for index in range(40)))
        figure = drawn(similarity_figure(bin_records(records), "feature"))
        assert not figure.legends
        assert "block.0.relu" in texts(figure)
        assert "block.39.relu" in texts(figure)

    def test_names_are_shown_as_they_are(self, make_records: Callable[..., Records]) -> None:
        sites = ("_orig_mod.relu", "x$y$z", "relu#1", "a.very.long.path.of.modules.to.the.relu")
        figure = drawn(similarity_figure(bin_records(make_records(5, sites=sites)), "feature"))
        assert len(figure.legends[0].get_texts()) == 4
        for name in ("_orig_mod.relu", "x$y$z", "relu#1", "….path.of.modules.to.the.relu"[-27:]):
            assert name in texts(figure)
        assert all(not text.get_parse_math() for text in figure.legends[0].get_texts())

    def test_letters_that_the_font_lacks_are_replaced(
        self, make_records: Callable[..., Records]
    ) -> None:
        binned = bin_records(make_records(5, sites=("\u5c42.relu",)))
        assert "?.relu" in texts(drawn(similarity_figure(binned, "feature")))


class TestGates:
    def test_panels(self, records: Records) -> None:
        figure = drawn(gates_figure(bin_records(records), first_phase_end=200))
        assert titles(figure) == [
            "Open gates",
            "Agreement within classes",
            "Agreement between classes",
            "Dead in the step",
            "Dead in the window",
        ]
        assert figure.axes[0].get_ylabel() == "fraction"
        assert figure.axes[0].get_ylim() == pytest.approx((-0.03, 1.03))

    def test_without_labels_shows_all_pairs(self, make_records: Callable[..., Records]) -> None:
        figure = drawn(gates_figure(bin_records(make_records(labels=False))))
        assert titles(figure) == [
            "Open gates",
            "Agreement, all pairs",
            "Dead in the step",
            "Dead in the window",
        ]

    def test_column_that_was_not_measured_is_left_out(self, records: Records) -> None:
        records["dead_window_frac"][:] = np.nan
        assert "Dead in the window" not in titles(drawn(gates_figure(bin_records(records))))

    def test_not_measured_is_no_figure(self, records: Records) -> None:
        for name in records:
            if name.startswith(("gate", "active", "dead")):
                records[name][:] = np.nan
        assert gates_figure(bin_records(records)) is None


class TestHeatmap:
    def test_shows_sites_against_steps(self, records: Records) -> None:
        figure = drawn(heatmap_figure(bin_records(records), first_phase_end=200))
        assert titles(figure) == ["Features, between classes", "Gradients, within classes"]
        axes = figure.axes[0]
        assert [tick.get_text() for tick in axes.get_yticklabels()] == [
            "hidden.0.relu",
            "hidden.1.relu",
            "hidden.2.relu",
        ]
        assert axes.yaxis_inverted()  # the input is on top
        assert set(vertical_lines(axes)) == {200}
        (mesh,) = axes.collections
        band = bin_records(records).band("feature_cos_between")
        assert band is not None
        assert np.array_equal(np.asarray(mesh.get_array()).reshape(3, 400), band.mean)
        assert "mean cosine" in texts(figure)

    def test_last_step_is_as_wide_as_the_others(self, make_records: Callable[..., Records]) -> None:
        binned = bin_records(make_records(5, every=100))
        assert drawn(heatmap_figure(binned)).axes[0].get_xlim() == (1, 501)
        assert drawn(similarity_figure(binned, "feature")).axes[0].get_xlim() == (1, 401)

    def test_without_labels_shows_all_pairs(self, make_records: Callable[..., Records]) -> None:
        figure = drawn(heatmap_figure(bin_records(make_records(labels=False))))
        assert titles(figure) == ["Features, all pairs", "Gradients, all pairs"]

    def test_one_of_the_two_can_be_missing(self, records: Records) -> None:
        for name in ("all", "within", "between"):
            records[f"feature_cos_{name}"][:] = np.nan
        assert titles(drawn(heatmap_figure(bin_records(records)))) == ["Gradients, within classes"]

    def test_one_step_of_one_site(self, make_records: Callable[..., Records]) -> None:
        drawn(heatmap_figure(bin_records(make_records(1, sites=("relu",)))))

    def test_not_measured_is_no_figure(self, records: Records) -> None:
        for name in records:
            if "cos" in name:
                records[name][:] = np.nan
        assert heatmap_figure(bin_records(records)) is None


def test_colours_of_sites_go_from_dark_to_light_and_stay_off_white() -> None:
    weights = np.array([0.2126, 0.7152, 0.0722])
    light = [float(weights @ to_rgb(tuple(color))) for color in site_colors(8)]
    assert light == sorted(light)
    assert light[-1] < 0.8


def test_no_global_state_is_touched() -> None:
    code = """
import sys
import numpy as np
import matplotlib
# "backend" is left out: to read it is to choose one
names = [name for name in matplotlib.rcParams if name != "backend"]
before = [matplotlib.rcParams[name] for name in names]
from tfc_fast.report import loss_figure
loss_figure([1, 2], [2.0, 1.0]).savefig("/dev/null", format="png")
assert [matplotlib.rcParams[name] for name in names] == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
