from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tfc_fast.data import Dataset, load_dataset
from tfc_fast.files import StorageError
from tfc_fast.records import Records
from tfc_fast.sinks import MemorySink, read_parquet
from tfc_fast.trainer import TrainConfig, Trainer
from tfc_fast.trainer.store import locked

Small = Callable[..., TrainConfig]


class _Net(nn.Module):
    """A model of the user's own, which can do something at one of its steps."""

    def __init__(self, outputs: int = 3, at: int = 0, event: Callable[[], None] | None = None):
        super().__init__()
        self.first = nn.Conv1d(1, 4, 3)
        self.act = nn.ReLU()
        self.last = nn.Linear(4 * 6, outputs)
        self.calls, self.at, self.event = 0, at, event

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.event is not None and self.calls == self.at:
            self.event()
        return self.last(self.act(self.first(x)).flatten(1))


def _own_data(samples: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(samples) % 3
    return torch.randn(samples, 1, 8, generator=generator) + labels[:, None, None], labels


def test_a_run_leaves_settings_log_records_checkpoint_and_summary(small: Small) -> None:
    result = Trainer(small(steps=60)).fit()
    run = result.run_directory
    config = run.read_json(run.config_path)
    assert config["settings"] == small(steps=60).to_dict()
    assert config["seed"] == 0
    assert set(config["versions"]) == {"tfc_fast", "torch", "numpy", "python"}
    assert config["platform"]
    assert config["dataset"]["samples"] == 230
    log = run.read_train()
    np.testing.assert_array_equal(log["step"], np.arange(1, 61))
    assert set(log["lr"]) == {0.05}
    assert (log["step_seconds"] > 0).all()
    records = run.read_metrics()
    np.testing.assert_array_equal(records["step"], np.repeat(np.arange(1, 61), 3))
    np.testing.assert_array_equal(records["loss"][::3], log["loss"])
    assert not list(run.path.rglob("*.tmp"))
    summary = json.loads(run.summary_path.read_text())
    assert summary == result.summary
    assert summary["steps"] == summary["planned_steps"] == result.steps == 60
    assert summary["verdict"] == result.phases.verdict
    assert summary["overhead"]["steps"] > 0
    assert summary["stopped_by"] is None
    # The four classes hold 58, 58, 57 and 57 samples.
    assert summary["chance_loss"] == pytest.approx(np.log(4), abs=1e-4)


def test_the_network_learns(small: Small) -> None:
    summary = Trainer(small(steps=400, gain=1.0, separation=6.0, momentum=0.9)).fit().summary
    assert summary["accuracy"] > 0.95
    assert summary["final_loss"] < 0.2 * summary["chance_loss"]


def test_mse_has_its_own_chance_level(small: Small) -> None:
    summary = Trainer(small(steps=5, loss="mse")).fit().summary
    assert summary["chance_loss"] == pytest.approx(0.25 * 0.75, abs=1e-4)


def test_epochs_count_full_batches(small: Small) -> None:
    assert Trainer(small(epochs=2)).fit().steps == 22


def test_without_probe_there_are_no_records(small: Small) -> None:
    result = Trainer(small(steps=5, probe=False)).fit()
    assert len(result.run_directory.read_metrics()["step"]) == 0
    assert not result.run_directory.metrics_folder.exists()
    assert result.summary["overhead"] is None


def test_chosen_sites_and_every(small: Small) -> None:
    config = small(steps=10, sites="hidden.0.relu,hidden.2.*", every=4)
    records = Trainer(config).fit().run_directory.read_metrics()
    assert list(dict.fromkeys(records["site"])) == [
        "hidden.0.relu",
        "hidden.2.linear",
        "hidden.2.relu",
    ]
    assert list(dict.fromkeys(records["step"])) == [1, 5, 9]


def test_records_go_to_further_sinks(small: Small) -> None:
    sink = MemorySink()
    result = Trainer(small(steps=30), sinks=[sink]).fit()
    on_disk = result.run_directory.read_metrics()
    for name, column in sink.history().items():
        np.testing.assert_array_equal(column, on_disk[name])


def test_sinks_without_a_probe_are_refused(small: Small) -> None:
    with pytest.raises(ValueError, match="sinks: given, but probe=False"):
        Trainer(small(probe=False), sinks=[MemorySink()])


def test_a_loss_that_is_not_finite_is_recorded_and_training_goes_on(small: Small) -> None:
    result = Trainer(small(steps=40, lr=1e20)).fit()
    assert result.steps == 40
    assert result.summary["final_loss"] is None
    assert not np.isfinite(result.run_directory.read_train()["loss"][-1])
    assert result.summary["n_nonfinite_losses"] > 0


def test_own_model_and_tensors(tmp_path: Path) -> None:
    model = _Net()
    config = TrainConfig(steps=50, batch_size=15, lr=0.1, out=tmp_path)
    result = Trainer(config, model=model, dataset=_own_data()).fit()
    assert result.model is model
    assert set(result.run_directory.read_metrics()["site"]) == {"act"}
    assert type(model.act) is nn.ReLU
    stored = result.run_directory.read_json("config.json")
    assert stored["model"]["given"]
    assert stored["dataset"]["given"]
    assert stored["settings"]["dataset"] == "custom"
    assert result.summary["accuracy"] > 0.5


def test_own_dataset(small: Small, tmp_path: Path) -> None:
    dataset = load_dataset("gaussian", samples=230, dim=12, num_classes=4, separation=3.0)
    config = TrainConfig(steps=12, depth=3, width=16, batch_size=20, out=tmp_path / "own")
    own = Trainer(config, dataset=dataset).fit()
    named = Trainer(small(steps=12, depth=3, gain=0.41)).fit()
    np.testing.assert_array_equal(
        own.run_directory.read_train()["loss"], named.run_directory.read_train()["loss"]
    )


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ("digits", TypeError, "dataset: a str given"),
        ((torch.zeros(4, 2, dtype=torch.int32), torch.zeros(4).long()), TypeError, "floating"),
        ((torch.zeros(4, 2), torch.zeros(4)), TypeError, r"labels are torch\.float32, int64"),
        ((torch.zeros(4, 2), torch.zeros(5).long()), ValueError, r"inputs \[4, 2\] and labels"),
        ((torch.zeros(4, 2), -torch.ones(4).long()), ValueError, "labels lie from -1 to -1"),
        ((torch.zeros(4, 2).double(), torch.arange(4)), TypeError, "MLP wants float32"),
    ],
)
def test_unsuitable_data_are_refused(
    tmp_path: Path, data: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Trainer(TrainConfig(batch_size=2, out=tmp_path / "run"), dataset=data)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_noise": 0.5}, r"label_noise: 0\.5 given, but it does nothing"),
        ({"standardize": "global"}, "standardize: 'global' given, but it does nothing"),
        ({"num_classes": 20}, "num_classes: 20 given, but the data set has 3; leave it out"),
    ],
)
def test_settings_of_loading_do_not_go_with_own_data(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    dataset = Dataset(torch.randn(6, 4), torch.arange(6) % 3, num_classes=3)
    with pytest.raises(ValueError, match=message):
        Trainer(TrainConfig(**settings, out=tmp_path / "run"), dataset=dataset)
    assert not (tmp_path / "run").exists()


def test_the_number_of_classes_may_be_told_of_own_data(tmp_path: Path) -> None:
    dataset = Dataset(torch.randn(6, 4), torch.arange(6) % 3, num_classes=3)
    config = TrainConfig(num_classes=3, batch_size=2, out=tmp_path / "a")
    assert Trainer(config, dataset=dataset).model(dataset.inputs).shape == (6, 3)
    # Labels alone do not show classes of which there is no sample.
    config = TrainConfig(num_classes=5, batch_size=2, out=tmp_path / "b")
    trainer = Trainer(config, dataset=(dataset.inputs, dataset.labels))
    assert trainer.model(dataset.inputs).shape == (6, 5)


def test_a_model_with_other_outputs_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    config = TrainConfig(steps=5, batch_size=15, out=tmp_path / "run")
    with pytest.raises(ValueError, match=r"output has shape \[15, 2\].*\[15, 3\] is wanted"):
        Trainer(config, model=_Net(outputs=2), dataset=_own_data()).fit()
    assert not (tmp_path / "run").exists()


def test_an_unknown_site_leaves_nothing(small: Small) -> None:
    config = small(sites="conv*")
    with pytest.raises(ValueError, match=r"sites: 'conv\*' matches no module"):
        Trainer(config).fit()
    assert not Path(config.run_path).exists()


def test_a_model_that_fails_in_the_middle_keeps_the_records_before(tmp_path: Path) -> None:
    def fail() -> None:
        raise ArithmeticError("in the model")

    model = _Net(at=31, event=fail)
    config = TrainConfig(steps=50, batch_size=15, checkpoint_every=20, out=tmp_path)
    trainer = Trainer(config, model=model, dataset=_own_data())
    with pytest.raises(ArithmeticError, match="in the model"):
        trainer.fit()
    run = trainer.run_directory
    assert run.read_train()["step"][-1] == 30
    assert run.read_metrics()["step"][-1] == 30
    assert type(model.act) is nn.ReLU


class _FullSink:
    def write(self, records: Records) -> None:
        raise StorageError("cannot write: No space left on device")

    def flush(self) -> None: ...

    def close(self) -> None: ...


def test_a_sink_that_fails_ends_training_with_its_error(tmp_path: Path) -> None:
    model = _Net()
    config = TrainConfig(steps=400, batch_size=15, checkpoint_every=0, out=tmp_path)
    trainer = Trainer(config, model=model, dataset=_own_data(), sinks=[_FullSink()])
    with pytest.raises(StorageError, match="No space left"):
        trainer.fit()
    assert type(model.act) is nn.ReLU


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_its_step(tmp_path: Path, number: signal.Signals) -> None:
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    model = _Net(at=30, event=lambda: signal.raise_signal(number))
    config = TrainConfig(steps=500, batch_size=15, out=tmp_path)
    result = Trainer(config, model=model, dataset=_own_data()).fit()
    assert result.stopped_by == result.summary["stopped_by"] == number.name
    assert result.steps == result.summary["steps"] == 30
    assert result.run_directory.read_metrics()["step"][-1] == 30
    assert result.run_directory.checkpoint_path.exists()
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_second_ctrl_c_interrupts_at_once(tmp_path: Path) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    model = _Net(at=30, event=twice)
    config = TrainConfig(steps=500, batch_size=15, out=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        Trainer(config, model=model, dataset=_own_data()).fit()
    assert type(model.act) is nn.ReLU


def test_training_works_in_a_thread(small: Small) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(Trainer(small(steps=5)).fit()))
    thread.start()
    thread.join()
    assert results[0].steps == 5


def test_a_folder_with_a_run_is_refused_before_anything_is_touched(small: Small) -> None:
    run = Trainer(small(steps=5)).fit().run_directory
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    with pytest.raises(FileExistsError, match=r"--resume, .*--out, .*--overwrite"):
        Trainer(small(steps=7))
    assert before == {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}


def test_a_trainer_trains_once(small: Small) -> None:
    trainer = Trainer(small(steps=5), overwrite=True)
    trainer.fit()
    with pytest.raises(RuntimeError, match=r"go on with Trainer\.resume"):
        trainer.fit()
    assert trainer.run_directory.read_train()["step"][-1] == 5


def test_overwrite_replaces_a_run_and_nothing_else(small: Small) -> None:
    run = Trainer(small(steps=30, tensorboard=True)).fit().run_directory
    (run.path / "notes.txt").write_text("mine")
    Trainer(small(steps=5), overwrite=True).fit()
    assert run.read_metrics()["step"][-1] == run.read_train()["step"][-1] == 5
    assert (run.path / "notes.txt").read_text() == "mine"
    assert not (run.path / "tensorboard").exists() or not list(run.path.glob("tensorboard/*"))


def test_tensorboard_curves_stand_in_the_folder_of_the_run(small: Small) -> None:
    run = Trainer(small(steps=5, tensorboard=True)).fit().run_directory
    (events,) = (run.path / "tensorboard").iterdir()
    assert b"tfc/feature_cos_between/hidden.0.relu" in events.read_bytes()


def test_two_processes_cannot_train_in_one_folder(small: Small) -> None:
    trainer = Trainer(small(steps=5))
    with (
        locked(trainer.run_directory.create()),
        pytest.raises(ValueError, match="another process is training in this folder"),
    ):
        trainer.fit()
    assert trainer.fit().steps == 5


def test_threads_of_torch_are_as_before(small: Small) -> None:
    before = torch.get_num_threads()
    Trainer(small(steps=3, threads=before + 1)).fit()
    assert torch.get_num_threads() == before


def test_a_device_that_is_not_there_is_refused(small: Small) -> None:
    with pytest.raises(ValueError, match=r"device: 'cuda:99' given, torch .* sees \d+ CUDA"):
        Trainer(small(device="cuda:99"))


def test_a_folder_that_cannot_be_made_is_one_clear_error(small: Small, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file stands where a folder is wanted"):
        Trainer(small(out="file/run")).fit()


def test_an_event_ends_the_run_and_a_resume_goes_on(small: Small) -> None:
    config = small(lr=1e-9, steps=600, stop_on="nonfinite, stuck")
    result = Trainer(config, progress=False).fit()
    assert (result.stopped_by, result.interrupted) == ("stuck", False)
    # Known after 300 steps without progress, found when records are drained.
    assert 300 < result.steps <= 300 + 128
    assert result.summary["stopped_by"] == "stuck"
    resumed = Trainer.resume(config.run_path, progress=False).fit()
    assert (resumed.stopped_by, resumed.steps) == (None, 600)


class _Logits(nn.Module):
    """Gives the logits that a function makes of the input and the number of the call."""

    def __init__(self, logits: Callable[[torch.Tensor, int], torch.Tensor]):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.act = nn.ReLU()
        self.logits, self.calls = logits, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.act(self.weight * self.logits(x, self.calls))


@pytest.mark.parametrize(
    ("logits", "stopped_by", "verdict"),
    [
        # Confident and wrong at first, and then at chance for good.
        (lambda x, call: 0 * x + 9 * (call < 10) * torch.eye(3)[0], "stuck", "stuck"),
        (lambda x, call: x, None, "none"),
    ],
    ids=["from large logits to chance", "trained before"],
)
def test_events_that_end_a_run_are_by_the_rule_of_its_verdict(
    tmp_path: Path, logits: Any, stopped_by: str | None, verdict: str
) -> None:
    labels = torch.arange(60) % 3
    data = 3 * torch.eye(3)[labels], labels
    config = TrainConfig(steps=600, batch_size=60, lr=1e-9, stop_on="stuck", out=tmp_path)
    result = Trainer(config, model=_Logits(logits), dataset=data, progress=False).fit()
    assert (result.stopped_by, result.summary["verdict"]) == (stopped_by, verdict)


def test_a_resumed_run_may_stop_on_other_events(small: Small) -> None:
    config = small(lr=1e-9, steps=5)
    Trainer(config, progress=False).fit()
    resumed = Trainer.resume(config.run_path, progress=False, steps=500, stop_on="stuck").fit()
    assert resumed.stopped_by == "stuck"


def test_a_budget_thins_the_records_and_leaves_the_training_alone(small: Small) -> None:
    plain = Trainer(small(out="plain", steps=80), progress=False).fit()
    thinned = Trainer(small(out="thinned", steps=80, budget=1e-6), progress=False).fit()
    steps = read_parquet(thinned.run_directory.metrics_folder)["step"]
    # Every second step at first, then as seldom as the budget wants.
    assert 16 <= len(np.unique(steps)) < 40
    for actual, expected in zip(thinned.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(actual, expected)
    resumed = Trainer.resume(
        thinned.run_directory.path, progress=False, steps=90, budget=None
    ).fit()
    steps = read_parquet(resumed.run_directory.metrics_folder)["step"]
    assert set(range(81, 91)) <= set(steps.tolist())
