"""Training many runs: each once, side by side, and on from where it was."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import joblib
import pytest

from tfc_fast import cli
from tfc_fast.reproduce import EXPERIMENTS, Job, Setting, reproduce, runner, sweep, train_all
from tfc_fast.reproduce.dose import Dose
from tfc_fast.trainer import Trainer

SMALL = {"dataset": "gaussian", "samples": 80, "dim": 6, "depth": 3, "width": 8, "batch_size": 20}


def job(steps: int = 6, **changes: Any) -> Job:
    return Job({**SMALL, **changes}, steps)


def stamps(folder: Path) -> dict[str, float]:
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/summary.json")}


@pytest.mark.parametrize("workers", [1, 2])
def test_runs_are_those_of_the_trainer(tmp_path: Path, workers: int) -> None:
    jobs = [job(seed=seed) for seed in range(3)]
    runs = train_all(jobs, tmp_path / "sweep", workers=workers, progress=False)
    for seed, run in enumerate(runs):
        alone = Trainer(job(seed=seed).config(tmp_path / "alone"), progress=False).fit()
        assert run.read_train()["loss"].tolist() == (
            alone.run_directory.read_train()["loss"].tolist()
        )
        assert run.read_json(run.config_path)["settings"]["seed"] == seed


def test_what_is_there_is_not_trained_again(tmp_path: Path) -> None:
    train_all([job(seed=0), job(seed=1)], tmp_path, workers=1, progress=False)
    before = stamps(tmp_path)
    train_all([job(seed=0), job(seed=1), job(seed=2)], tmp_path, workers=1, progress=False)
    after = stamps(tmp_path)
    assert len(before) == 2
    assert len(after) == 3
    assert before.items() <= after.items()


def test_alike_jobs_are_one_run_with_the_most_steps(tmp_path: Path) -> None:
    runs = train_all([job(4), job(9), job(6)], tmp_path, workers=1, progress=False)
    assert len({run.path for run in runs}) == 1
    assert len(runs[0].read_train()["step"]) == 9


def test_a_run_that_is_too_short_goes_on(tmp_path: Path) -> None:
    train_all([job(4)], tmp_path, workers=1, progress=False)
    (longer,) = train_all([job(9)], tmp_path, workers=1, progress=False)
    (whole,) = train_all([job(9)], tmp_path / "other", workers=1, progress=False)
    assert longer.read_train()["loss"].tolist() == whole.read_train()["loss"].tolist()


def test_a_run_that_was_killed_goes_on(tmp_path: Path) -> None:
    (run,) = train_all([job()], tmp_path, workers=1, progress=False)
    expected = run.read_train()["loss"].tolist()
    run.summary_path.unlink()  # what is written last
    run.checkpoint_path.unlink()
    (again,) = train_all([job()], tmp_path, workers=1, progress=False)
    assert again.read_train()["loss"].tolist() == expected


@pytest.mark.parametrize("how", ["interrupted", "killed"])
def test_a_longer_run_that_did_not_end_is_no_hindrance(tmp_path: Path, how: str) -> None:
    (run,) = train_all([job(9)], tmp_path, workers=1, progress=False)
    losses = run.read_train()["loss"].tolist()
    if how == "interrupted":
        summary = run.read_json(run.summary_path)
        run.write_json(run.summary_path, {**summary, "planned_steps": 20, "stopped_by": "SIGINT"})
    else:
        run.summary_path.unlink()
    (again,) = train_all([job(4)], tmp_path, workers=1, progress=False)
    assert again.read_train()["loss"].tolist() == losses
    assert again.read_json(again.summary_path)["steps"] == 9
    (longer,) = train_all([job(12)], tmp_path, workers=1, progress=False)
    assert len(longer.read_train()["loss"]) == 12


def test_a_run_with_other_settings_is_not_overwritten(tmp_path: Path) -> None:
    (run,) = train_all([job()], tmp_path, workers=1, progress=False)
    config = run.read_json(run.config_path)
    config["settings"]["lr"] = 7.0
    run.write_json(run.config_path, config)
    with pytest.raises(ValueError, match=r"lr=7.0, 0.05 is wanted; give another folder"):
        train_all([job()], tmp_path, workers=1, progress=False)


@pytest.mark.parametrize(
    ("cannot", "observer", "told"),
    [
        ({"model": "vgg11", "depth": 7}, None, "vgg11 wants images"),
        ({"batch_size": 81}, None, "batch_size: 81 given"),
        ({"dataset": "npz", "data_dir": "gone.npz"}, None, r"gone\.npz"),
        ({"momentum": 0.9}, "update-shares", "sgd with momentum"),
    ],
)
def test_what_cannot_start_is_told_before_anything_is_trained(
    tmp_path: Path, cannot: dict[str, Any], observer: str | None, told: str
) -> None:
    changes = {**SMALL, **cannot}
    if "data_dir" in cannot:
        changes = {name: changes[name] for name in changes.keys() - {"samples", "dim"}}
    jobs = [job(30), Job(changes, 6, observer)]
    with pytest.raises((OSError, ValueError), match=told):
        train_all(jobs, tmp_path, workers=1, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_a_check_leaves_what_is_there_alone(tmp_path: Path) -> None:
    (run,) = train_all([job(4)], tmp_path, workers=1, progress=False)
    with pytest.raises(ValueError, match="vgg11 wants images"):
        train_all([job(9), job(model="vgg11", depth=7)], tmp_path, workers=1, progress=False)
    assert len(run.read_train()["step"]) == 4


def test_runs_on_other_data_are_not_gone_on_with(tmp_path: Path) -> None:
    jobs = [job(seed=seed) for seed in range(2)]
    (run,) = train_all(jobs[:1], tmp_path, workers=1, progress=False)
    config = run.read_json(run.config_path)
    config["dataset"]["checksum"] = "0"
    run.write_json(run.config_path, config)
    # Nothing is trained beside it.
    assert train_all(jobs[:1], tmp_path, workers=1, progress=False)[0].path == run.path
    with pytest.raises(ValueError, match=r"seed=0.* was trained on other data than the settings"):
        train_all(jobs, tmp_path, workers=1, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == [run.path.name]


@pytest.mark.parametrize(
    ("chosen", "workers", "used"), [({"n_jobs": 2}, None, 2), ({"n_jobs": 2}, 3, 3)]
)
def test_a_back_end_of_the_user_is_used(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    chosen: dict[str, int],
    workers: int | None,
    used: int,
) -> None:
    together = threading.Barrier(used)
    processes = []

    def train(job: Job, folder: str) -> bool:
        together.wait(timeout=60)  # for ever, if fewer are trained at a time
        processes.append(os.getpid())
        return True

    monkeypatch.setattr(sweep, "_train", train)
    jobs = [job(seed=seed) for seed in range(2 * used)]
    with joblib.parallel_config(backend="threading", **chosen):
        runs = train_all(jobs, tmp_path, workers=workers, progress=False)
    assert [run.path.name for run in runs] == [each.name for each in jobs]
    assert processes == [os.getpid()] * len(jobs)


def test_names_of_folders_are_short_and_different() -> None:
    long = {"data_dir": "/".join(["folder"] * 40)}
    names = {Job({**long, "seed": seed}, 5).name for seed in range(3)} | {Job({}, 5).name}
    assert len(names) == 4
    assert all(len(name) <= 100 and "/" not in name for name in names)


# ---- the whole command -------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One experiment of small runs."""
    settings = (
        Setting("0", 8, SMALL, 0),
        Setting("0.5", 8, {**SMALL, "momentum": 0.5}, 0.5, quick=False),
        Setting("0.9", 8, {**SMALL, "momentum": 0.9}, 0.9),
    )
    dose = Dose("momentum", "Momentum", "It shortens.", settings, knob="momentum", longer=False)
    monkeypatch.setattr(runner, "EXPERIMENTS", {"momentum": dose})


@pytest.mark.usefixtures("small")
def test_reproduce_is_quick_or_full_and_goes_on(tmp_path: Path) -> None:
    (quick,) = reproduce(["momentum"], tmp_path, quick=True, workers=1, progress=False)
    before = stamps(tmp_path / "runs")
    assert [(run.setting, run.seed) for run in quick.runs] == [
        *(("0", 0), ("0", 1), ("0.9", 0), ("0.9", 1))
    ]
    (full,) = reproduce(["momentum"], tmp_path, seeds=3, workers=1, progress=False, command="x")
    assert len(full.runs) == 9
    assert before.items() <= stamps(tmp_path / "runs").items()
    verdict = json.loads((full.folder / "verdict.json").read_text())
    assert (verdict["command"], verdict["seeds"]) == ("x", [0, 1, 2])
    assert all((tmp_path / "runs" / name / "config.json").is_file() for name in verdict["runs"])
    assert len(verdict["runs"]) == 9
    assert "Momentum" in (tmp_path / "index.md").read_text()


@pytest.mark.usefixtures("small")
def test_settings_of_the_user_are_those_of_all_runs(tmp_path: Path) -> None:
    (outcome,) = reproduce(
        ["momentum"], tmp_path, quick=True, seeds=1, settings={"lr": 0.3}, workers=1, progress=False
    )
    for run in outcome.runs:
        assert run.run.read_json("config.json")["settings"]["lr"] == 0.3


@pytest.mark.usefixtures("small")
def test_the_machine_is_that_of_the_runs(tmp_path: Path) -> None:
    options: dict[str, Any] = {"quick": True, "seeds": 2, "workers": 1, "progress": False}
    (outcome,) = reproduce(["momentum"], tmp_path, **options)
    first, second = (run.run for run in outcome.runs[:2])
    here = first.read_json(first.config_path)
    gpu = {"device_name": "A GPU", "versions": {**here["versions"], "torch": "9.9"}}
    first.write_json(first.config_path, {**here, **gpu})
    second.write_json(
        second.config_path, {**second.read_json(second.config_path), "resumed": [gpu]}
    )
    reproduce(["momentum"], tmp_path, **options)
    verdict = json.loads((outcome.folder / "verdict.json").read_text())
    assert verdict["device_name"] == f"A GPU, {here['device_name']}"
    assert verdict["torch"] == f"9.9, {here['versions']['torch']}"
    assert f"A GPU, {here['device_name']}, torch 9.9, " in (tmp_path / "index.md").read_text()


def test_what_is_wrong_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"experiment: 'dept' given, known are depth, .*architectures$"
    ):
        reproduce(["dept"], tmp_path)
    with pytest.raises(ValueError, match="seeds: 0 given"):
        reproduce(["depth"], tmp_path, seeds=0)
    with pytest.raises(ValueError, match=r"lr: .* given"):
        reproduce(["depth"], tmp_path, settings={"lr": -1.0})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small")
def test_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["tfc-fast", "reproduce", "momentum"])
    out = str(tmp_path / "out")
    arguments = ["reproduce", "momentum", "--quick", "--jobs", "1", "--out", out]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "momentum: " in printed
    assert f"{out}/index.md" in printed
    assert cli.main(["reproduce", "nothing", "--out", out]) == 2
    assert "experiment: 'nothing' given" in capsys.readouterr().err
    assert cli.main(["reproduce", "momentum", "--jobs", "0", "--out", out]) == 2
    assert "--jobs: 0 given" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["all", "list"])
def test_all_and_list_stand_alone(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce", word, "depth"]) == 2
    assert f"experiment: {word} given among others, it stands alone" in capsys.readouterr().err


def test_all_experiments_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["reproduce", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines if not line.startswith(" ")]
    assert names == list(EXPERIMENTS)


def test_all_experiments_have_a_baseline_among_their_settings() -> None:
    for experiment in EXPERIMENTS.values():
        if experiment.name != "trajectory":  # that of the paper has 9 layers
            assert any(not setting.changes for setting in experiment.settings), experiment.name
        assert sum(setting.quick for setting in experiment.settings) >= 1
