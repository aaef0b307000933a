from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tfc_fast.cli import main
from tfc_fast.phases import PhaseMonitor
from tfc_fast.records import COLUMNS, COUNT_COLUMNS, Records
from tfc_fast.run_directory import RunDirectory
from tfc_fast.trainer import TrainConfig, Trainer, live, live_screen
from tfc_fast.trainer.live import LiveState, LiveView, SiteNow
from tfc_fast.trainer.live_screen import screen, sparkline

SITES = ("hidden.0.relu", "hidden.1.relu")


class Terminal(io.StringIO):
    """Standard error that says it is a terminal, and keeps what is written to it."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    # rich takes its word for it, whatever the tests themselves run in.
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "FORCE_COLOR", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("LINES", "40")
    found = Terminal()
    # Not that of the whole process, which pytest sets anew for each part of a test.
    monkeypatch.setattr(live, "sys", SimpleNamespace(stderr=found))
    return found


def made_up(steps: range, between: Any, *, sites: tuple[str, ...] = SITES, loss: Any = 2.3) -> Any:
    """Records of some steps; `between` is one value per step, a tenth higher at the second site."""
    count = len(steps) * len(sites)
    records: Records = {
        name: np.zeros(count, np.int64) if name in COUNT_COLUMNS else np.full(count, np.nan)
        for name in COLUMNS
    }
    records["step"] = np.repeat(np.array(steps), len(sites))
    records["site"] = np.array(sites * len(steps), dtype=object)
    records["loss"] = np.repeat(np.broadcast_to(loss, len(steps)), len(sites))
    values = np.repeat(np.broadcast_to(between, len(steps)), len(sites))
    records["feature_cos_between"] = values + np.tile(0.1 * np.arange(len(sites)), len(steps))
    records["grad_cos_within"] = np.full(count, 0.25)
    return records


def text_of(state: LiveState, height: int = 40, width: int = 110) -> str:
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(screen(state, height=height))
    return console.file.getvalue()  # type: ignore[attr-defined]


class TestState:
    def test_recent_values_and_the_rise_since_the_start(self) -> None:
        state = LiveState("run", 200)
        values = np.linspace(0.3, 0.7, 200)
        for first in range(0, 200, 50):
            state.take(made_up(range(first + 1, first + 51), values[first : first + 50]))
        site = state.sites["hidden.1.relu"]
        assert site.feature == pytest.approx(values[-20:].mean() + 0.1)
        assert site.start == pytest.approx(values[:20].mean() + 0.1)
        assert site.grad == 0.25

    def test_phase(self) -> None:
        state = LiveState("run", 400)
        values = np.interp(np.arange(400), [0, 200], [0.3, 0.8])
        loss = np.where(np.arange(400) < 250, 2.3, 0.5)
        seen = []
        for first in range(0, 400, 50):
            part = slice(first, first + 50)
            state.take(made_up(range(first, first + 50), values[part], loss=loss[part]))
            seen.append(state.monitor.state)
        assert seen[0] == "healthy"
        assert "collapsing" in seen
        assert seen[-1] == "recovered"

    def test_a_long_drain_costs_few_updates(self) -> None:
        state = LiveState("run", 10_000)
        updates = []
        real = state.monitor.update
        state.monitor.update = lambda *given: updates.append(given) or real(*given)  # type: ignore
        state.take(made_up(range(1, 5001), 0.5))
        assert 50 <= len(updates) <= 100
        assert len(updates[0][2]) == len(SITES)

    def test_without_labels_all_pairs_are_shown(self) -> None:
        records = made_up(range(1, 31), np.nan)
        records["feature_cos_all"] = np.full(60, 0.4)
        records["grad_cos_all"] = np.full(60, 0.6)
        state = LiveState("run", 30)
        state.take(records)
        site = state.sites["hidden.0.relu"]
        assert (site.feature, site.start, site.grad) == pytest.approx((0.4, 0.4, 0.6))
        assert "features, all pairs" in text_of(state)

    def test_labels_are_known_as_soon_as_two_classes_have_met(self) -> None:
        state = LiveState("run", 50)
        records = made_up(range(1, 11), np.nan)
        records["feature_cos_all"] = np.full(20, 0.4)
        state.take(records)
        assert not state.labelled
        state.take(made_up(range(11, 51), 0.7))
        assert state.labelled
        site = state.sites["hidden.0.relu"]
        assert (site.feature, site.start) == pytest.approx((0.7, 0.7))
        state.take(made_up(range(51, 61), np.nan))
        assert state.labelled

    def test_what_is_not_finite_is_left_out(self) -> None:
        state = LiveState("run", 30)
        loss = np.full(30, 2.0)
        loss[3] = np.nan
        state.take(made_up(range(1, 31), np.where(np.arange(30) % 2, 0.5, np.inf), loss=loss))
        assert state.sites["hidden.0.relu"].feature == 0.5
        assert list(state.losses) == [2.0, 2.0]

    def test_no_records(self) -> None:
        state = LiveState("run", 30)
        state.take(made_up(range(0), 0.5))
        assert state.sites == {}


class TestScreen:
    def test_shows_progress_loss_phase_and_sites(self) -> None:
        state = LiveState("digits", 1500, step=350, seconds=5.0, done=100, loss=2.2987)
        state.take(made_up(range(100, 350), np.linspace(0.3, 0.7, 250)))
        text = text_of(state)
        for part in ("digits", "step 350 of 1,500", "50 steps/s", "23 s left", "2.299"):
            assert part in text, part
        assert "collapsing since step" in text
        assert "features of different classes grow more alike, most of all at hidden." in text
        (line,) = [line for line in text.splitlines() if line.startswith("hidden.1.relu")]
        site = state.sites["hidden.1.relu"]
        for part in (f"{site.feature:.3f}", f"+{site.feature - site.start:.3f}", "0.250"):
            assert part in line, part
        first = next(line for line in text.splitlines() if line.startswith("hidden.0.relu"))
        assert line.count("█") > first.count("█") > 0

    def test_before_anything_is_known(self) -> None:
        text = text_of(LiveState("digits", 1500))
        assert "not known yet" in text
        assert "phase" not in text

    def test_of_more_sites_than_lines_some_are_shown(self) -> None:
        names = tuple(f"layer{number}" for number in range(50))
        state = LiveState("deep", 10)
        state.take(made_up(range(1, 3), 0.3, sites=names))
        text = text_of(state, height=20)
        assert len(text.splitlines()) <= 20
        assert "12 of 50 sites" in text
        assert "layer0 " in text
        assert "layer49" in text

    def test_names_are_no_markup(self) -> None:
        state = LiveState("[bold]run", 10)
        state.take(made_up(range(1, 3), 0.3, sites=("[red]a[/red]", "b")))
        assert "[red]a[/red]" in text_of(state)
        assert "[bold]run" in text_of(state)

    def test_what_was_not_measured(self) -> None:
        state = LiveState("run", 10)
        state.sites["a"] = SiteNow()
        assert text_of(state).count("n/a") == 3


def test_sparkline_keeps_spikes_and_gaps() -> None:
    values = [1.0] * 600
    values[311] = 9.0
    assert sparkline(values, 60) == "▁" * 31 + "█" + "▁" * 28
    assert sparkline([1.0, float("nan"), 2.0]) == "▁ █"
    assert sparkline([float("nan")]) == ""
    assert sparkline([1e308, -1e308, 0.0, 5e-324]) == "█▁▄▄"
    state = LiveState("run", 30)
    state.take(made_up(range(1, 31), 0.5, loss=1e308))
    assert "1e+308" not in text_of(state)


def test_training_is_the_same_with_the_view(
    small: Callable[..., TrainConfig],
    assert_same_run: Callable[..., None],
    terminal: Terminal,
) -> None:
    plain = Trainer(small("plain", steps=120), progress=False).fit()
    assert terminal.getvalue() == ""
    shown = Trainer(small("shown", steps=120), live=True).fit()
    assert_same_run(plain.run_directory, shown.run_directory)
    text = terminal.getvalue()
    assert "step 120 of 120" in text
    assert "hidden.2.relu" in text
    assert "no sign of a collapse" in text


def test_a_resumed_run_is_shown_from_its_beginning(
    small: Callable[..., TrainConfig], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[LiveState] = []
    monkeypatch.setattr(live_screen, "screen", lambda state, height: shown.append(state) or "")
    config = small(steps=250)
    Trainer(config, progress=False).fit()
    run = Trainer.resume(config.run_path, steps=300, live=True).fit().run_directory
    state, records = shown[-1], run.read_metrics()
    assert (state.done, state.step) == (250, 300)
    assert state.losses[0] == pytest.approx(run.read_train()["loss"][:20].mean())
    start = records["feature_cos_between"][records["site"] == "hidden.0.relu"][:20].mean()
    assert state.sites["hidden.0.relu"].start == pytest.approx(start)


def test_a_first_phase_that_was_over_before_a_resume_is_no_new_one(terminal: Terminal) -> None:
    loss = np.concatenate([np.full(400, 2.3), np.full(1000, 0.01)])
    between = np.interp(np.arange(1400), [0, 300], [0.3, 0.8])
    view = LiveView("run", 1400, chance_loss=2.3)
    view.begin(1000, made_up(range(1, 1001), between[:1000], loss=loss[:1000]))
    with view:
        for first in range(1000, 1400, 100):
            part = slice(first, first + 100)
            view.write(made_up(range(first + 1, first + 101), between[part], loss=loss[part]))
    whole = PhaseMonitor(chance_loss=2.3)
    for step in range(1400):
        whole.update(step + 1, loss[step], {"a": between[step], "b": between[step] + 0.1})
    changes = [(change.step, change.state) for change in view.state.monitor.changes]
    assert changes == [(change.step, change.state) for change in whole.changes]
    assert [state for _, state in changes] == ["collapsing", "recovered"]


def test_train_live_on_the_command_line(
    small_flags: list[str], terminal: Terminal, tmp_path: Any, capsys: Any
) -> None:
    run = str(tmp_path / "run")
    assert main(["train", *small_flags, "--steps=30", "--live", "--out", run]) == 0
    assert "step 30 of 30" in terminal.getvalue()
    terminal.truncate(0)
    assert main(["train", "--resume", run, "--steps=50", "--live"]) == 0
    assert "step 50 of 50" in terminal.getvalue()
    assert "look at it with" in capsys.readouterr().out
    assert RunDirectory(run).read_train()["step"].size == 50


def test_without_a_probe_there_is_only_the_loss(
    small: Callable[..., TrainConfig], terminal: Terminal
) -> None:
    Trainer(small(steps=10, probe=False), live=True).fit()
    assert "step 10 of 10" in terminal.getvalue()
    assert "phase" not in terminal.getvalue()


def test_no_terminal_no_view(small: Callable[..., TrainConfig], capsys: Any) -> None:
    Trainer(small(steps=10), live=True).fit()
    assert capsys.readouterr().err == ""


def test_records_wait_for_the_screen_and_not_the_other_way(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = LiveView("run", 10)
    records = made_up(range(1, 3), 0.3)
    view.write(records)
    # Nothing was looked at; the arrays belong to the probe, which writes over them.
    assert view.state.sites == {}
    records["feature_cos_between"][:] = 0.9
    with view:
        pass
    assert view.state.sites["hidden.0.relu"].feature == pytest.approx(0.3)


class GoneTerminal(Terminal):
    """Takes so many writes, and then says what a closed terminal says."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.left = writes

    def write(self, text: str) -> int:
        self.left -= 1
        if self.left < 0:
            raise OSError(5, "Input/output error")
        return super().write(text)


@pytest.mark.parametrize("writes", [0, 1])
def test_a_terminal_that_goes_away_ends_the_view_and_not_the_run(
    small: Callable[..., TrainConfig],
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    writes: int,
) -> None:
    monkeypatch.setattr(live, "sys", SimpleNamespace(stderr=GoneTerminal(writes)))
    streams = sys.stdout, sys.stderr
    with pytest.warns(RuntimeWarning, match="live view has ended.*Input/output") as told:
        result = Trainer(small(steps=60), live=True).fit()
    assert len(told) == 1
    assert result.steps == result.run_directory.read_json("summary.json")["steps"] == 60
    assert (sys.stdout, sys.stderr) == streams


@pytest.mark.parametrize("name", ["take", "screen"])
def test_so_does_an_error_of_the_view_itself(
    small: Callable[..., TrainConfig],
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("in the view")

    owner = {"take": live.LiveState, "screen": live_screen}[name]
    monkeypatch.setattr(owner, name, fail)
    with pytest.warns(RuntimeWarning, match="ZeroDivisionError: in the view") as told:
        result = Trainer(small(steps=60), live=True).fit()
    assert len(told) == 1
    assert result.summary["steps"] == 60


def test_an_error_while_training_is_told_before_its_end_and_frees_the_records(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        # At first there is nothing to be seen yet, and nothing to fail.
        if view.state.step:
            raise ZeroDivisionError("in the view")

    monkeypatch.setattr(live_screen, "screen", fail)
    view = LiveView("run", 10)
    with view:
        view.advance(2.3)
        while view._console is not None:
            time.sleep(0.01)
        with pytest.warns(RuntimeWarning, match="in the view"):
            view.advance(2.3)
        view.write(made_up(range(1, 3), 0.3))
        view.advance(2.3)
    assert not view._waiting


def test_missing_rich_names_the_extra(
    small: Callable[..., TrainConfig], terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "rich.console", None)
    with pytest.raises(ImportError, match=r"live view needs rich.*tfc_fast\[live\]"):
        Trainer(small(steps=10), live=True)
    Trainer(small(steps=10), progress=False).fit()
