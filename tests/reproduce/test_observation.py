"""What is looked at while a run trains: by a slow twin, and without a trace in the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tfc_fast.analyzed_run import read_run
from tfc_fast.models import MLP
from tfc_fast.reproduce import Job, train_all
from tfc_fast.reproduce.job import steps_done
from tfc_fast.reproduce.measurement import OBSERVED, Measurement
from tfc_fast.reproduce.observation import Features, UpdateShares, first_share
from tfc_fast.trainer import TrainConfig, Trainer
from tfc_fast.trainer.samples import training_samples

SMALL = {"dataset": "gaussian", "samples": 80, "dim": 6, "depth": 4, "width": 8, "batch_size": 20}


def config_of(steps: int = 4, **changes: Any) -> TrainConfig:
    return TrainConfig(**{**SMALL, **changes}, steps=steps)


def trained(observer: str, folder: Path, steps: int = 4, **changes: Any) -> Measurement:
    job = Job({**SMALL, **changes}, steps, observer)
    (run,) = train_all([job], folder, workers=1, progress=False)
    return Measurement("a", 0, run, read_run(run.path).summary)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 10_000))
def test_first_share_is_that_of_the_singular_values(rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    values = torch.linalg.svdvals(matrix.double()).square()
    assert first_share(matrix) == pytest.approx(float(values[0] / values.sum()), rel=1e-9)


@pytest.mark.parametrize("mixed", [0.0, 1e-4])
def test_first_share_is_not_that_of_the_longest_row(mixed: float) -> None:
    # The longest row lies along the second direction.
    matrix = torch.tensor([[3.0, mixed, 0.0], [0.0, 2.0, 2.0], [0.0, 2.0, 2.0]])
    assert first_share(matrix) == pytest.approx(0.64, rel=1e-6)
    assert first_share(matrix.T) == pytest.approx(0.64, rel=1e-6)


def test_first_share_of_one_direction_is_all_and_of_none_is_not_known() -> None:
    column, row = torch.randn(5, 1), torch.randn(1, 7)
    assert first_share(column @ row) == pytest.approx(1, abs=1e-6)
    assert first_share(torch.eye(4)) == pytest.approx(0.25)
    for nothing in (torch.zeros(3, 3), torch.full((2, 2), torch.inf)):
        assert np.isnan(first_share(nothing))


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("observer", ["features", "update-shares"])
def test_a_run_with_an_observer_is_the_run_without(
    tmp_path: Path, observer: str, batch_norm: bool
) -> None:
    changes = {**SMALL, "batch_norm": batch_norm}
    run = trained(observer, tmp_path / "observed", batch_norm=batch_norm)
    alone = Trainer(Job(changes, 4).config(tmp_path / "alone"), progress=False).fit()
    assert run.log["loss"].tolist() == alone.run_directory.read_train()["loss"].tolist()
    plain = alone.run_directory.read_metrics()
    for column, values in run.run.read_metrics().items():
        np.testing.assert_array_equal(values, plain[column])
    after = torch.load(run.run.checkpoint_path)["model"]
    assert any("running_mean" in name for name in after) == batch_norm
    for name, tensor in torch.load(alone.run_directory.checkpoint_path)["model"].items():
        assert torch.equal(after[name], tensor), name
    assert run.observed["steps"].tolist() == [1, 2, 3, 4]


def test_features_are_those_of_the_same_samples(tmp_path: Path) -> None:
    seen = trained("features", tmp_path).observed
    samples = training_samples(config_of(), None)
    model = MLP(6, samples.num_classes, 4, 8, bias=False, gain=0.41, generator=seeded())
    layer = int(seen["layer"])
    features = model.hidden[: layer + 1](samples.inputs).detach()
    by_class = [features[samples.labels == c] for c in range(samples.num_classes)]
    assert max(map(len, by_class)) < 50
    means = torch.stack([rows.mean(0) for rows in by_class])
    np.testing.assert_allclose(seen["means"][0], means, rtol=1e-5, atol=1e-7)
    cosines = nn.functional.cosine_similarity(features[:, None], features[None], dim=-1)
    alike = samples.labels[:, None] == samples.labels[None]
    others = ~torch.eye(len(features), dtype=torch.bool)
    # Rows without an open unit have no direction.
    known = (features.norm(dim=1) > 0)[:, None] & (features.norm(dim=1) > 0)[None]
    for name, pairs in (("between", ~alike), ("within", alike & others)):
        assert seen[name][0, layer] == pytest.approx(float(cosines[pairs & known].mean()), rel=1e-4)
    cosines = nn.functional.cosine_similarity(means[:, None], means[None], dim=-1)
    pairs = ~torch.eye(len(means), dtype=torch.bool)
    assert seen["means_cosine"][0, layer] == pytest.approx(float(cosines[pairs].mean()), rel=1e-4)
    assert seen["between"].shape == (4, 3)
    first = torch.cat([rows[:4] for rows in by_class])
    np.testing.assert_allclose(seen["samples"][0], first, rtol=2e-3, atol=1e-6)
    assert seen["labels"].tolist() == np.arange(samples.num_classes).repeat(4).tolist()


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_shares_are_those_of_what_moves_the_weights(tmp_path: Path) -> None:
    run = trained("update-shares", tmp_path, steps=1)
    samples = training_samples(config_of(), None)
    before = MLP(6, samples.num_classes, 4, 8, bias=False, gain=0.41, generator=seeded())
    after = torch.load(run.run.checkpoint_path)["model"]
    for name, share in zip(run.observed["layers"], run.observed["share"][0], strict=True):
        update = after[f"{name}.weight"].double() - before.state_dict()[f"{name}.weight"].double()
        values = torch.linalg.svdvals(update).square()
        assert share == pytest.approx(float(values[0] / values.sum()), rel=1e-2)


def test_a_run_that_was_not_observed_to_its_end_is_trained_anew(tmp_path: Path) -> None:
    run = trained("update-shares", tmp_path)
    expected = run.observed
    written = (run.run.path / OBSERVED).stat().st_mtime_ns
    trained("update-shares", tmp_path)
    assert (run.run.path / OBSERVED).stat().st_mtime_ns == written
    (run.run.path / OBSERVED).unlink()
    again = trained("update-shares", tmp_path).observed
    for name, values in expected.items():
        np.testing.assert_array_equal(again[name], values)
    longer = trained("update-shares", tmp_path, steps=6)
    assert longer.observed["steps"].tolist() == [1, 2, 3, 4, 5, 6]


def test_a_longer_run_that_fails_leaves_the_shorter_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = trained("update-shares", tmp_path).observed

    def fail(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("tfc_fast.trainer.session.ParquetSink", fail)
        with pytest.raises(Exception, match="the disk is full"):
            trained("update-shares", tmp_path, steps=8)
    job = Job(SMALL, 4, "update-shares")
    assert steps_done(job, tmp_path) == 4
    again = trained("update-shares", tmp_path).observed
    for name, values in expected.items():
        np.testing.assert_array_equal(again[name], values)


def test_what_cannot_be_observed_is_named() -> None:
    with pytest.raises(TypeError, match="model: a Linear given, an MLP is wanted"):
        Features(nn.Linear(2, 2), config_of())
    with pytest.raises(ValueError, match=r"sgd with momentum 0\.9 .* given, sgd without"):
        UpdateShares(nn.Linear(2, 2), config_of(momentum=0.9))


def test_long_runs_are_looked_at_about_150_times() -> None:
    config = config_of(steps=450)
    model = MLP(6, training_samples(config, None).num_classes, 4, 8, generator=seeded())
    observer = Features(model, config)
    for _ in range(7):
        model(torch.zeros(2, 6))
    observer.close()
    model(torch.zeros(2, 6))
    assert observer.arrays()["steps"].tolist() == [1, 3, 6]
