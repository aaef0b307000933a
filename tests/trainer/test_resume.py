from __future__ import annotations

import json
import shutil
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tfc_fast.environment import thread_count
from tfc_fast.files import DamagedFileError
from tfc_fast.run_directory import RunDirectory
from tfc_fast.sinks import MemorySink
from tfc_fast.trainer import CheckpointError, TrainConfig, Trainer, load_checkpoint, store

Small = Callable[..., TrainConfig]
SameRun = Callable[..., None]


@pytest.mark.parametrize(
    "settings",
    [
        {"momentum": 0.9, "weight_decay": 1e-3},
        {"optimizer": "adam", "lr": 1e-3},
        {"batch_norm": True, "momentum": 0.9},
        {"loss": "mse", "bias": True, "inplace": True, "every": 3, "window": 30},
    ],
    ids=["momentum", "adam", "batch norm", "mse"],
)
def test_a_resumed_run_is_bitwise_one_without_a_stop(
    small: Small, assert_same_run: SameRun, settings: dict[str, Any]
) -> None:
    whole = Trainer(small("whole", steps=90, **settings)).fit()
    # 37 is in the middle of an epoch (11 steps) and of the probe's window.
    Trainer(small("parts", steps=37, **settings)).fit()
    torch.manual_seed(12345)
    result = Trainer.resume(small("parts").run_path, steps=90).fit()
    assert result.steps == 90
    assert_same_run(whole.run_directory, result.run_directory)
    for a, b in zip(whole.model.parameters(), result.model.parameters(), strict=True):
        assert torch.equal(a, b)
    times = ("overhead", "seconds")
    assert {k: v for k, v in whole.summary.items() if k not in times} == {
        k: v for k, v in result.summary.items() if k not in times
    }


class _Dropout(nn.Module):
    """Draws from torch's global generator at every step; can stop the run."""

    def __init__(self, stop_at: int = 0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))
        self.calls, self.stop_at = 0, stop_at

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.stop_at:
            signal.raise_signal(signal.SIGINT)
        return self.layers(x)


def _dropout(stop_at: int = 0) -> _Dropout:
    torch.manual_seed(4)
    return _Dropout(stop_at)


def test_a_run_stopped_by_ctrl_c_goes_on_bitwise_with_its_own_model(
    small: Small, assert_same_run: SameRun
) -> None:
    whole = Trainer(small("whole", steps=80), model=_dropout()).fit()
    stopped = Trainer(small("parts", steps=80), model=_dropout(stop_at=33)).fit()
    assert (stopped.stopped_by, stopped.steps) == ("SIGINT", 33)
    sink = MemorySink()
    result = Trainer.resume(stopped.run_directory.path, model=_dropout(), sinks=[sink]).fit()
    assert_same_run(whole.run_directory, result.run_directory)
    assert sink.history()["step"][0] == 34


def _killed_at(config: TrainConfig, step: int) -> RunDirectory:
    """A run as a kill leaves it: files up to its end, but the checkpoint of an earlier step."""
    run = RunDirectory(config.run_path)
    Trainer(TrainConfig.from_dict(config.to_dict() | {"steps": step})).fit()
    checkpoint = run.checkpoint_path.read_bytes()
    Trainer.resume(run.path, steps=config.steps).fit()
    run.checkpoint_path.write_bytes(checkpoint)
    (run.path / "checkpoint.pt.0123abcd.tmp").write_bytes(b"half")
    (run.metrics_folder / "part-00009.parquet.0123abcd.tmp").write_bytes(b"half")
    return run


def test_what_was_done_after_the_checkpoint_is_done_again(
    small: Small, assert_same_run: SameRun
) -> None:
    whole = Trainer(small("whole", steps=90)).fit()
    run = _killed_at(small("killed", steps=70), step=40)
    result = Trainer.resume(run.path, steps=90).fit()
    assert_same_run(whole.run_directory, result.run_directory)
    assert not list(run.path.rglob("*.tmp"))


def test_without_a_checkpoint_a_run_starts_again(small: Small, assert_same_run: SameRun) -> None:
    whole = Trainer(small("whole", steps=60)).fit()
    run = Trainer(small("killed", steps=60)).fit().run_directory
    run.checkpoint_path.unlink()
    assert_same_run(whole.run_directory, Trainer.resume(run.path).fit().run_directory)


def test_the_initial_weights_of_an_own_model_are_in_the_first_checkpoint(small: Small) -> None:
    model = _dropout()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}

    def fail(*_: object) -> None:
        if model.calls == 5:
            raise ArithmeticError

    model.register_forward_pre_hook(fail)
    trainer = Trainer(small(steps=60, checkpoint_every=0), model=model)
    with pytest.raises(ArithmeticError):
        trainer.fit()
    checkpoint = load_checkpoint(trainer.run_directory.checkpoint_path)
    assert checkpoint.step == 0
    for name, weight in before.items():
        assert torch.equal(checkpoint.model[name], weight)


class _Kill(BaseException):
    """As sudden as a kill: nothing is saved on the way out."""


def test_rows_that_the_log_file_lacks_are_in_the_checkpoint(
    small: Small, assert_same_run: SameRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Trainer(small("whole", steps=80), model=_dropout()).fit()
    monkeypatch.setattr(store, "_SAVE_SECONDS", 1e9)
    model = _dropout()

    def kill(*_: object) -> None:
        if model.calls in (40, 70):
            raise _Kill

    model.register_forward_pre_hook(kill)
    trainer = Trainer(small("killed", steps=80), model=model)
    with pytest.raises(_Kill):
        trainer.fit()
    run = trainer.run_directory
    assert not run.train_path.exists()
    assert load_checkpoint(run.checkpoint_path).log["step"].tolist() == list(range(1, 26))
    # Once more, killed after the checkpoint of another 25 steps.
    model.calls = 41
    with pytest.raises(_Kill):
        Trainer.resume(run.path, model=model).fit()
    assert run.read_train()["step"].tolist() == list(range(1, 26))
    assert load_checkpoint(run.checkpoint_path).log["step"].tolist() == list(range(26, 51))
    result = Trainer.resume(run.path, model=_dropout()).fit()
    assert_same_run(whole.run_directory, result.run_directory)


def test_resuming_a_finished_run_changes_nothing(small: Small, assert_same_run: SameRun) -> None:
    run = Trainer(small(steps=30)).fit().run_directory
    shutil.copytree(run.path, run.path.parent / "copy")
    result = Trainer.resume(run.path).fit()
    assert result.steps == 30
    assert_same_run(RunDirectory(run.path.parent / "copy"), run)


def test_a_run_can_be_moved_and_go_on(small: Small, assert_same_run: SameRun) -> None:
    whole = Trainer(small("whole", steps=50)).fit()
    run = Trainer(small("old", steps=30)).fit().run_directory
    moved = run.path.rename(run.path.parent / "new")
    result = Trainer.resume(moved, steps=50).fit()
    assert result.run_directory.path == moved
    assert not run.path.exists()
    assert_same_run(whole.run_directory, result.run_directory)


def test_config_tells_where_the_run_went_on(small: Small) -> None:
    run = Trainer(small(steps=30)).fit().run_directory
    started = run.read_json("config.json")
    Trainer.resume(run.path, epochs=4, checkpoint_every=7).fit()
    config = run.read_json("config.json")
    assert config["versions"] == started["versions"]
    assert config["settings"]["steps"] is None
    assert config["settings"]["epochs"] == 4
    assert config["settings"]["checkpoint_every"] == 7
    assert [stretch["step"] for stretch in config["resumed"]] == [30]


def test_threads_are_those_of_the_start(small: Small) -> None:
    before = torch.get_num_threads()
    seen = []

    class Spy(_Dropout):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_num_threads())
            return super().forward(x)

    with thread_count(before + 1):
        run = Trainer(small(steps=2, threads=None), model=Spy()).fit().run_directory
    Trainer.resume(run.path, steps=4, model=Spy()).fit()
    Trainer.resume(run.path, steps=6, threads=before + 2, model=Spy()).fit()
    assert seen == [before + 1] * 4 + [before + 2] * 2


def test_a_resumed_run_that_fails_keeps_its_new_records(small: Small) -> None:
    run = Trainer(small(steps=30), model=_dropout()).fit().run_directory
    model = _dropout()

    def fail(*_: object) -> None:
        if model.calls == 7:
            raise ArithmeticError

    model.register_forward_pre_hook(fail)
    with pytest.raises(ArithmeticError):
        Trainer.resume(run.path, steps=60, checkpoint_every=0, model=model).fit()
    assert run.read_train()["step"][-1] == run.read_metrics()["step"][-1] == 37
    assert load_checkpoint(run.checkpoint_path).step == 30


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": 0.1}, "lr: a run that goes on cannot change it; it can change steps, epochs"),
        ({"steps": 20}, "steps: 20 given, but the run has done 30 already"),
        ({"steps": 0}, "steps: 0 given, at least 1"),
        ({"steps": 40, "epochs": 9}, "only one of them is wanted"),
    ],
)
def test_an_impossible_change_is_refused(
    small: Small, changes: dict[str, Any], message: str
) -> None:
    run = Trainer(small(steps=30)).fit().run_directory
    before = run.config_path.read_bytes()
    with pytest.raises(ValueError, match=message):
        Trainer.resume(run.path, **changes)
    assert run.config_path.read_bytes() == before


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a run directory"):
        Trainer.resume(tmp_path)


def test_own_model_and_data_have_to_be_given_again(small: Small, tmp_path: Path) -> None:
    data = (torch.randn(60, 12), torch.arange(60) % 4)
    config = TrainConfig(steps=5, batch_size=20, out=tmp_path / "run")
    run = Trainer(config, model=_dropout(), dataset=data).fit().run_directory
    with pytest.raises(ValueError, match=r"model: the run .* was started with one of its own"):
        Trainer.resume(run.path, dataset=data)
    with pytest.raises(ValueError, match=r"dataset: the run .* was started with one of its own"):
        Trainer.resume(run.path, model=_dropout())
    with pytest.raises(ValueError, match=r"dataset: .* differs from what the run was started with"):
        Trainer.resume(run.path, model=_dropout(), dataset=(data[0] + 1, data[1]))
    other = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4))
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError, match="does not fit the model"):
        Trainer.resume(run.path, model=other, dataset=data, steps=9).fit()
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    assert Trainer.resume(run.path, model=_dropout(), dataset=data, steps=9).fit().steps == 9


def test_a_damaged_checkpoint_is_one_clear_error_and_its_remedy_works(
    small: Small, assert_same_run: SameRun
) -> None:
    whole = Trainer(small("whole", steps=60)).fit()
    run = Trainer(small("damaged", steps=60)).fit().run_directory
    run.checkpoint_path.write_bytes(run.checkpoint_path.read_bytes()[:-500])
    with pytest.raises(CheckpointError, match="remove it and resume"):
        Trainer.resume(run.path)
    run.checkpoint_path.unlink()
    assert_same_run(whole.run_directory, Trainer.resume(run.path).fit().run_directory)


def test_a_train_log_that_lacks_steps_is_noticed(small: Small) -> None:
    run = Trainer(small(steps=30)).fit().run_directory
    log = run.read_train()
    run.write_train({name: column[:20] for name, column in log.items()})
    trainer = Trainer.resume(run.path, steps=40)
    with pytest.raises(DamagedFileError, match="lacks steps before the checkpoint at step 30"):
        trainer.fit()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda stored: stored.pop("settings"), r"\['settings'\] are missing"),
        (lambda stored: stored["settings"].update(depth=-1), "depth: -1 given"),
        (lambda stored: stored["settings"].update(colour="red"), "unknown setting 'colour'"),
    ],
)
def test_a_damaged_config_is_one_clear_error(
    small: Small, change: Callable[[Any], Any], message: str
) -> None:
    run = Trainer(small(steps=5)).fit().run_directory
    stored = json.loads(run.config_path.read_text())
    change(stored)
    run.config_path.write_text(json.dumps(stored))
    with pytest.raises(DamagedFileError, match=rf"config\.json is damaged: .*{message}"):
        Trainer.resume(run.path)


def test_another_version_is_told(small: Small) -> None:
    run = Trainer(small(steps=5)).fit().run_directory
    stored = run.read_json("config.json")
    stored["versions"]["torch"] = "1.0"
    run.write_json("config.json", stored)
    with pytest.warns(UserWarning, match=r"versions: the run was started with .*torch 1\.0"):
        Trainer.resume(run.path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_equal(Trainer.resume(run.path, steps=8).fit().steps, 8)
