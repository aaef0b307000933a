from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from tfc_fast import reproduce
from tfc_fast.reproduce import effects
from tfc_fast.run_directory import RunDirectory
from tfc_fast.trainer import TrainConfig, Trainer
from tfc_fast.trials import (
    CONTROL,
    Trial,
    effect_in_words,
    ranked,
    remedies_for,
    rows,
    try_remedies,
)

# A deep network of small weights that learns nothing in 60 steps, unless it is helped.
STUCK: dict[str, Any] = {
    "dataset": "gaussian",
    "samples": 200,
    "dim": 16,
    "num_classes": 4,
    "separation": 3.0,
    "depth": 7,
    "width": 32,
    "batch_size": 50,
    "seed": 3,
    "threads": 1,
}


def trial(
    remedy: str, lengths: tuple[float, ...], losses: tuple[float, ...] = (2.3,), steps: int = 100
) -> Trial:
    return Trial(remedy, {}, lengths, losses, steps)


class TestRanking:
    def test_short_phase_before_long_before_none(self) -> None:
        trials = [
            trial("worse loss", (math.inf,), (2.4,)),
            trial("diverged", (math.inf,), (math.nan,)),
            trial(CONTROL, (math.inf,)),
            trial("slow", (90.0,), (2.2,)),
            trial("fast", (40.0,), (2.25,)),
            trial("lower loss", (math.inf,), (2.0,)),
        ]
        names = [each.remedy for each in ranked(trials)]
        assert names == ["fast", "slow", "lower loss", CONTROL, "worse loss", "diverged"]

    def test_by_the_median_of_the_seeds(self) -> None:
        lucky = trial("lucky", (10.0, 90.0, 95.0), (1.0, 1.0, 1.0))
        steady = trial("steady", (50.0, 60.0, 70.0), (1.0, 1.0, 1.0))
        assert [each.remedy for each in ranked([lucky, steady])] == ["steady", "lucky"]

    def test_what_diverged_comes_last_also_after_a_short_phase(self) -> None:
        trials = [
            trial("fast, then diverged", (12.0, 14.0), (math.nan, math.nan)),
            trial("diverged at once", (math.inf,), (math.inf,)),
            trial("never ended", (math.inf,), (2.3,)),
            trial("slow", (90.0,), (2.2,)),
        ]
        names = [each.remedy for each in ranked(trials)]
        assert names == ["slow", "never ended", "fast, then diverged", "diverged at once"]

    @pytest.mark.parametrize(
        ("length", "loss", "control_length", "told"),
        [
            (40.0, 1.0, 80.0, "0.5 times as long"),
            (40.0, 1.0, math.inf, "at most 0.4 times as long"),
            (math.inf, 2.3, 80.0, "longer"),
            (math.inf, 2.299, math.inf, "not ended; no difference seen in so few steps"),
            (math.inf, 2.07, math.inf, "not ended; loss 10% lower"),
            (math.inf, 2.53, math.inf, "not ended; loss 10% higher"),
            (math.inf, math.nan, math.inf, "loss not finite"),
            (12.0, math.nan, 80.0, "loss not finite"),
            (12.0, 1.0, 0.0, "doing nothing has no first phase"),
            (math.inf, 1.0, 0.0, "longer"),
        ],
    )
    def test_words(self, length: float, loss: float, control_length: float, told: str) -> None:
        control = trial(CONTROL, (control_length,))
        assert effect_in_words(trial("x", (length,), (loss,)), control) == told
        assert effect_in_words(control, control) == "for comparison"

    @pytest.mark.parametrize("length", [12.0, math.inf])
    def test_words_where_doing_nothing_diverges(self, length: float) -> None:
        control = trial(CONTROL, (math.inf,), (math.nan,))
        told = effect_in_words(trial("x", (length,), (2.2,)), control)
        assert told == "loss not finite without it"
        assert effect_in_words(trial("x", (length,), (math.inf,)), control) == "loss not finite"
        assert effect_in_words(control, control) == "for comparison"

    def test_words_where_doing_nothing_has_no_loss_left(self) -> None:
        control = trial(CONTROL, (math.inf,), (0.0,))
        told = effect_in_words(trial("x", (math.inf,), (0.1,)), control)
        assert told == "not ended; loss 0.1 instead of 0"

    def test_the_table_says_what_is_not_finite(self) -> None:
        table = rows([trial(CONTROL, (80.0,)), trial("x", (12.0,), (math.nan,))])
        assert [row["loss after 100 steps"] for row in table] == ["2.3", "not finite"]


class TestRemedies:
    def test_what_the_run_has_is_left_out(self) -> None:
        plain = remedies_for(TrainConfig())
        assert [*plain.values()] == [
            {},
            {"gain": 0.7},
            {"batch_norm": True},
            {"momentum": 0.9},
            {"lr": 0.1},
            {"weight_decay": 0.001},
        ]
        rich = TrainConfig(batch_norm=True, momentum=0.95, weight_decay=0.1, lr=0.2)
        assert [*remedies_for(rich).values()] == [{}, {"lr": 0.4}, {"weight_decay": 0.0}]
        assert {"gain": 1.0} in remedies_for(TrainConfig(gain=0.8)).values()
        for cannot in ({"batch_size": 1}, {"model": "rnn", "sites": "recurrent.*"}):
            assert {"batch_norm": True} not in remedies_for(TrainConfig(**cannot)).values()

    @pytest.mark.parametrize(
        "settings",
        [
            *({}, {"optimizer": "adam"}, {"batch_size": 1}),
            {"model": "lstm", "sites": "recurrent.*"},
        ],
    )
    def test_all_can_be_trained(self, settings: dict[str, Any]) -> None:
        for changes in remedies_for(TrainConfig(**settings)).values():
            TrainConfig(**{**settings, **changes})


@pytest.fixture
def stuck(tmp_path: Path) -> RunDirectory:
    state = torch.get_rng_state()
    config = TrainConfig(**STUCK, steps=60, out=str(tmp_path / "run"))
    run = Trainer(config, progress=False).fit().run_directory
    torch.set_rng_state(state)
    return run


def test_helps_are_ranked_above_doing_nothing_and_kept(
    stuck: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = try_remedies(stuck.path, steps=60, seeds=1, workers=1, progress=False)
    order = [each.remedy for each in trials]
    for helps in ("batch normalisation", "initial weights 0.7 instead of 0.41"):
        assert order.index(helps) < order.index(CONTROL)
    folder = stuck.path / "advice"
    stored = json.loads((folder / "trials.json").read_text())["trials"]
    assert [each["remedy"] for each in stored] == order
    with (folder / "trials.csv").open(newline="") as file:
        assert [row["remedy"] for row in csv.DictReader(file)] == order
    assert (folder / "trials.md").read_text().count("\n") == len(order) + 2
    runs = [RunDirectory(path) for path in (folder / "runs").iterdir()]
    settings = [run.read_json(run.config_path)["settings"] for run in runs]
    assert len(settings) == len(order)
    for name, value in {**STUCK, "seed": 3}.items():
        assert all(each[name] == value for each in settings), name

    # What is there is not trained again, and the control is the run itself.
    def fail(*_: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(Trainer, "fit", fail)
    again = try_remedies(stuck.path, steps=60, seeds=1, workers=1, progress=False)
    assert [each.to_dict() for each in again] == [each.to_dict() for each in trials]
    control = next(
        run for run, each in zip(runs, settings, strict=True) if _same_learning(each, stuck)
    )
    assert control.read_train()["loss"].tolist() == stuck.read_train()["loss"].tolist()


def _same_learning(settings: dict[str, Any], run: RunDirectory) -> bool:
    own = run.read_json(run.config_path)["settings"]
    names = ("gain", "batch_norm", "momentum", "lr", "weight_decay")
    return all(settings[name] == own[name] for name in names)


class TestDataThatChange:
    """A run on a file, whose samples are replaced."""

    FILE: ClassVar[dict[str, Any]] = {
        **{name: STUCK[name] for name in ("depth", "width", "batch_size", "threads")},
        "dataset": "npz",
        "optimizer": "adam",
        "batch_norm": True,
        "seed": 0,
    }

    def file(self, folder: Path, seed: int) -> Path:
        generator = np.random.default_rng(seed)
        inputs = generator.normal(size=(100, 8)).astype(np.float32)
        np.savez(folder / "data.npz", x=inputs, y=np.arange(100) % 4)
        return folder / "data.npz"

    def trained(self, folder: Path, seed: int) -> Path:
        config = TrainConfig(
            **self.FILE, data_dir=str(self.file(folder, seed)), steps=8, out=str(folder / "run")
        )
        Trainer(config, progress=False, overwrite=True).fit()
        return folder / "run"

    def tried(self, run: Path) -> list[float]:
        return [each.loss for each in try_remedies(run, steps=4, workers=1, progress=False)]

    def test_trials_of_other_data_are_trained_anew(self, tmp_path: Path) -> None:
        before = self.tried(self.trained(tmp_path, 1))
        run = self.trained(tmp_path, 2)
        with pytest.warns(RuntimeWarning, match="6 trials in .*runs were of other data than the"):
            after = self.tried(run)
        assert set(after).isdisjoint(before)
        assert self.tried(run) == after

    def test_data_that_are_no_longer_those_of_the_run_are_told(self, tmp_path: Path) -> None:
        run = self.trained(tmp_path, 1)
        self.file(tmp_path, 2)
        with pytest.raises(ValueError, match=r"'npz' in .*data\.npz gives other data now than"):
            self.tried(run)
        assert not (run / "advice").exists()


class TestErrors:
    def test_numbers(self, tmp_path: Path) -> None:
        for name in ("steps", "seeds"):
            with pytest.raises(ValueError, match=f"^{name}: 0 given, at least 1 is wanted"):
                try_remedies(tmp_path, **{name: 0})

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="is not a run directory"):
            try_remedies(tmp_path)

    @pytest.mark.parametrize("what", ["model", "dataset"])
    def test_what_settings_cannot_make_again(self, tmp_path: Path, what: str) -> None:
        run = RunDirectory(tmp_path)
        run.write_json(
            run.config_path, {"settings": TrainConfig().to_dict(), what: {"given": True}}
        )
        with pytest.raises(ValueError, match=f"with a {what} of your own"):
            try_remedies(tmp_path)
        assert not (tmp_path / "advice").exists()

    def test_data_that_are_gone(self, tmp_path: Path) -> None:
        run = RunDirectory(tmp_path)
        config = TrainConfig(dataset="mnist", data_dir=str(tmp_path / "gone"))
        run.write_json(run.config_path, {"settings": config.to_dict()})
        with pytest.raises(FileNotFoundError, match=r"data_dir: .*gone of the run is not .* back"):
            try_remedies(tmp_path)
        assert not (tmp_path / "advice").exists()

    def test_data_of_another_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        run = RunDirectory(tmp_path / "run").create()
        config = TrainConfig(dataset="npz", data_dir="data.npz")
        run.write_json(run.config_path, {"settings": config.to_dict()})
        (tmp_path / "data.npz").touch()
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        with pytest.raises(FileNotFoundError, match=r"it was looked for in .*elsewhere; call from"):
            try_remedies(run.path)


def write_experiments(folder: Path, **settings: Any) -> None:
    """What `tfc-fast reproduce` leaves of its experiments, as far as effects are read from it."""
    for name in effects.REMEDIES:
        lines, runs = ["setting,seed,first_phase_end"], []
        for setting in reproduce.EXPERIMENTS[name].settings:
            ends = ("101", "301", "201") if not setting.changes else ("51", "", "151")
            for seed, end in enumerate(ends):
                lines.append(f"{setting.label},{seed},{end}")
                runs.append(f"{name}-{setting.label}-{seed}")
                run = RunDirectory(folder / "runs" / runs[-1]).create()
                config = TrainConfig(**{**settings, **setting.changes}, seed=seed)
                run.write_json(run.config_path, {"settings": config.to_dict()})
        (folder / name).mkdir()
        (folder / name / "table.csv").write_text("\n".join(lines) + "\n")
        verdict = {"command": "tfc-fast reproduce x", "runs": runs}
        (folder / name / "verdict.json").write_text(json.dumps(verdict))


def test_measured_effects_are_those_of_the_tables(tmp_path: Path) -> None:
    write_experiments(tmp_path)
    found = effects.measured_effects(tmp_path)
    assert found["command"] == "tfc-fast reproduce x"
    batch_norm = next(each for each in found["effects"] if each["setting"] == "batch_norm")
    assert (batch_norm["steps"], batch_norm["baseline_steps"]) == (150, 200)
    assert (batch_norm["ratio"], batch_norm["each"]) == (0.75, [50, None, 150])
    table = effects.markdown_table(found).splitlines()
    assert "| `batch_norm` True | 150 | 200 | 0.75 | 50; not ended; 150 |" in table
    assert table[-1] == "With the defaults, each seed: 100; 300; 200."
    (tmp_path / "l2" / "table.csv").unlink()
    with pytest.raises(FileNotFoundError, match="run tfc-fast reproduce initialization"):
        effects.measured_effects(tmp_path)


def test_measured_effects_say_what_they_were_measured_on(tmp_path: Path) -> None:
    write_experiments(tmp_path, dataset="mnist", data_dir="data", width=128, batch_size=64)
    found = effects.measured_effects(tmp_path)
    assert found["dataset"] == "mnist"
    assert found["network"].startswith("7 linear layers of 128 units without bias, initial weights")
    assert found["training"] == "sgd, learning rate 0.05, batches of 64"


def test_effects_of_runs_that_differ_are_refused(tmp_path: Path) -> None:
    write_experiments(tmp_path)
    run = RunDirectory(next((tmp_path / "runs").glob("l2-*")))
    config = TrainConfig(dataset="mnist", data_dir="data")
    run.write_json(run.config_path, {"settings": config.to_dict()})
    with pytest.raises(ValueError, match=r"l2-.* was trained with dataset='mnist', others of .*"):
        effects.measured_effects(tmp_path)
