"""Evaluation: forwards without gradients are left alone, and measured where that is asked for."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from by_hand import assert_record, features_by_hand, row
from checks import assert_same_bits
from small_models import CLASSES, assert_same_records, batch, build, random_batch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from tfc_fast import Probe, tap
from tfc_fast.records import COLUMNS, Records, empty
from tfc_fast.sinks import ParquetSink
from tfc_fast.sinks.parquet import read_parquet

WITHOUT_GRADIENTS = pytest.mark.parametrize(
    "without_gradients", [torch.no_grad, torch.inference_mode]
)
UNMEASURED = [name for name in COLUMNS if name.startswith("grad_")] + ["dead_window_frac"]
Context = Callable[[], Any]


def train(probe: Probe, model: nn.Module, steps: int = 1) -> None:
    x, y = batch()
    for _ in range(steps):
        probe.batch(labels=y)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        probe.step(loss=loss)


def evaluate(
    probe: Probe,
    run: Callable[[Tensor], Tensor],
    batches: list[tuple[Tensor, Tensor]],
    without_gradients: Context = torch.no_grad,
) -> None:
    with without_gradients():
        losses = []
        for x, y in batches:
            probe.batch(labels=y)
            losses.append(F.cross_entropy(run(x), y))
        probe.step(loss=torch.stack(losses).mean(), split="eval")


def end_evaluation(probe: Probe) -> None:
    probe.step(split="eval")
    probe.flush()  # a GPU tells what is wrong no sooner


def expected_record(features: list[Tensor], labels: list[Tensor] | None) -> dict[str, float]:
    record = reference.site_record(features, features, labels)
    return record | dict.fromkeys(UNMEASURED, math.nan) | {"n_zero_grads": 0}


@WITHOUT_GRADIENTS
@pytest.mark.parametrize("inplace", [False, True], ids=["out-of-place", "inplace"])
def test_nothing_is_recorded_unless_asked(without_gradients: Context, inplace: bool) -> None:
    model = build(inplace=inplace)
    x, y = batch()
    expected = model(x).detach()
    with Probe(model, num_classes=CLASSES) as probe:
        for _ in range(2):
            with without_gradients():
                assert_same_bits(model(x), expected)
            train(probe, model)
            with without_gradients():
                probe.batch(labels=y)  # announced, and then not asked for
                assert_same_bits(model(x), expected)
        train(probe, model)
    assert probe.history()["step"].tolist() == [1, 1, 2, 2, 3, 3]
    assert probe.sites == ("1", "3")
    assert_same_records(probe.history(split="eval"), empty())


@WITHOUT_GRADIENTS
@pytest.mark.parametrize("inplace", [False, True], ids=["out-of-place", "inplace"])
@pytest.mark.parametrize("num_batches", [1, 3])
def test_features_and_gates_agree_with_brute_force(
    rng: np.random.Generator, without_gradients: Context, inplace: bool, num_batches: int
) -> None:
    model = build(inplace=inplace)
    batches = [random_batch(rng, int(rng.integers(2, 60))) for _ in range(num_batches)]
    with Probe(model, num_classes=CLASSES) as probe:
        train(probe, model)
        seen = features_by_hand(model)
        model.eval()
        evaluate(probe, model, batches, without_gradients)
        records = probe.history(split="eval")
    assert records["step"].tolist() == [1, 1]
    assert records["site"].tolist() == ["1", "3"]
    assert not np.isnan(records["loss"]).any()
    for index, site in enumerate(probe.sites):
        assert_record(row(records, index), expected_record(seen[site], [y for _, y in batches]))


def test_without_classes(rng: np.random.Generator) -> None:
    model = build()
    x, _ = random_batch(rng)
    with Probe(model) as probe:
        seen = features_by_hand(model)
        with torch.no_grad():
            probe.batch()
            model(x)
        probe.step(split="eval")
    records = probe.history(split="eval")
    assert_record(row(records, 1), expected_record(seen["3"], None))


@pytest.mark.parametrize("reduction", ["flatten", "pool", "tokens"])
def test_rows_are_those_of_the_training(rng: np.random.Generator, reduction: Any) -> None:
    model = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.ReLU())
    x = torch.from_numpy(rng.standard_normal((9, 2, 5, 5)).astype(np.float32))
    x = x.to(memory_format=torch.channels_last)
    y = torch.from_numpy(rng.integers(0, CLASSES, 9))
    with Probe(model, num_classes=CLASSES, reduction=reduction) as probe:
        probe.batch(labels=y)
        model(x).sum().backward()
        probe.step()
        evaluate(probe, lambda x: model(x).mean((2, 3)), [(x, y)])
    trained, evaluated = probe.history(), probe.history(split="eval")
    assert evaluated["n_rows"].tolist() == ([225] if reduction == "tokens" else [9])
    for name in set(COLUMNS) - {*UNMEASURED, "loss", "n_zero_grads"}:
        np.testing.assert_array_equal(evaluated[name], trained[name], err_msg=name)


def test_training_is_not_disturbed(rng: np.random.Generator) -> None:
    """Neither its records, its windows and events, nor its labels, even in the midst of a step."""

    def run(*, evaluated: bool) -> tuple[Records, list[str]]:
        model = build()
        told: list[str] = []
        probe = Probe(model, num_classes=CLASSES, window=3, every=2, capacity=4)
        probe.on("nonfinite", lambda event: told.append(str(event)))
        x, y = batch()
        other = [(torch.full_like(x, torch.nan), y), random_batch(rng, 7)]
        with probe:
            for _ in range(11):
                for part in (slice(0, 10), slice(10, None)):
                    probe.batch(labels=y[part])
                    loss = F.cross_entropy(model(x[part]), y[part])
                    if evaluated:
                        evaluate(probe, model, other)
                    loss.backward()
                    if evaluated:
                        evaluate(probe, model, other)
                probe.step(loss=loss)
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter -= 0.1 * parameter.grad
        if evaluated:
            records = probe.history(split="eval")
            assert records["step"].tolist() == np.repeat(np.arange(11), 8).tolist()
            assert records["n_nonfinite"].tolist() == [24] * 88
        return probe.history(), told

    expected, _ = run(evaluated=False)
    actual, told = run(evaluated=True)
    assert_same_records(actual, expected)
    assert told == []


def test_evaluations_of_one_step_know_nothing_of_each_other() -> None:
    model = nn.Sequential(nn.Linear(1, 4, bias=False), nn.ReLU())
    with Probe(model) as probe:
        for open_unit in range(4):
            with torch.no_grad():
                model[0].weight.fill_(-1.0)[open_unit] = 1.0
                probe.batch()
                model(torch.ones(5, 1))
                probe.step(split="eval")
    records = probe.history(split="eval")
    assert records["step"].tolist() == [0, 0, 0, 0]
    assert records["dead_frac"].tolist() == [0.75] * 4
    assert records["always_on_frac"].tolist() == [0.25] * 4


def test_a_module_used_twice_and_a_tap(rng: np.random.Generator) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return tap(torch.tanh(self.act(-self.act(x) + 1)), "squash")

    model = Net()
    x, y = random_batch(rng)
    features = [x.relu(), (1 - x.relu()).relu(), (1 - x.relu()).relu().tanh()]
    with Probe(model, num_classes=CLASSES) as probe:
        # Before the training nobody knows that a second call is of the same forward.
        evaluate(probe, model, [(x, y)])
        probe.batch(labels=y)
        model(x.clone().requires_grad_()).sum().backward()
        probe.step()
        evaluate(probe, model, [(x, y), (x, y)])
    records = probe.history(split="eval")
    assert records["step"].tolist() == [0, 0, 1, 1, 1]
    assert records["site"].tolist() == ["act", "squash", "act", "squash", "act#1"]
    for index, feature in enumerate(features[i] for i in (0, 2, 0, 2, 1)):
        times = 1 if index < 2 else 2
        assert_record(row(records, index), expected_record([feature] * times, [y] * times))


def test_an_announcement_serves_one_forward(rng: np.random.Generator) -> None:
    model = build()
    x, y = random_batch(rng)
    with Probe(model, num_classes=CLASSES) as probe:
        with torch.no_grad():
            probe.batch(labels=y)
            for _ in range(3):
                model(x)
        probe.step(split="eval")
        with torch.no_grad():
            model(x)
        train(probe, model)
    assert probe.sites == ("1", "3")
    assert probe.history(split="eval")["n_rows"].tolist() == [24, 24]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@WITHOUT_GRADIENTS
def test_compiled(rng: np.random.Generator, backend: str, without_gradients: Context) -> None:
    torch.compiler.reset()
    counters.clear()
    model = build()
    run = torch.compile(model, fullgraph=True, backend=backend)
    batches = [random_batch(rng), random_batch(rng)]
    with Probe(model, num_classes=CLASSES) as probe:
        evaluate(probe, model, batches)
        for _ in range(3):
            x, y = batches[0]
            probe.batch(labels=y)
            run(x).sum().backward()
            probe.step()
            evaluate(probe, run, batches, without_gradients)
            with without_gradients():
                run(x)
    assert counters["graph_break"] == {}
    # The training, the evaluation, and the forward without gradients that is not measured.
    assert counters["stats"]["unique_graphs"] == 3
    records = probe.history(split="eval")
    assert records["step"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    for name in set(COLUMNS) - {"step", "site", "loss"}:
        eager, compiled = records[name][:2], records[name][-2:]
        np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_refused_loss_leaves_a_compiled_evaluation_open(rng: np.random.Generator) -> None:
    torch.compiler.reset()
    counters.clear()
    model = build()
    run = torch.compile(model, fullgraph=True, backend="aot_eager")
    x, y = random_batch(rng)
    with Probe(model, num_classes=CLASSES) as probe:
        for _ in range(2):
            with torch.no_grad():
                probe.batch(labels=y)
                losses = F.cross_entropy(run(x), y, reduction="none")
            with pytest.raises(ValueError, match="loss: wanted one number, got shape"):
                probe.step(loss=losses, split="eval")
            probe.step(loss=losses.mean(), split="eval")
    assert counters["graph_break"] == {}
    assert counters["stats"]["unique_graphs"] == 1
    assert probe.history(split="eval")["n_rows"].tolist() == [len(x)] * 4


def test_records_go_to_sinks_of_their_own(tmp_path: Path) -> None:
    model = build()
    sinks = [ParquetSink(tmp_path / "train"), ParquetSink(tmp_path / "eval")]
    probe = Probe(model, num_classes=CLASSES, sinks=sinks[:1], eval_sinks=sinks[1:])
    with probe:
        for _ in range(3):
            train(probe, model)
            evaluate(probe, model, [batch()])
    probe.close()
    for split in ("train", "eval"):
        stored = read_parquet(tmp_path / split)
        assert stored["step"].tolist() == [1, 1, 2, 2, 3, 3]
        assert_same_records(stored, probe.history(split=split))
    with pytest.raises(ValueError, match="is closed"):
        sinks[1].write(empty())


def test_what_cannot_be_measured_is_an_error() -> None:
    model = build()
    x, y = batch()
    with Probe(model, num_classes=CLASSES) as probe:
        with pytest.raises(ValueError, match="split: nothing was measured for 'eval'; call probe"):
            probe.step(split="eval")
        with pytest.raises(ValueError, match="split: wanted 'train' or 'eval', got 'test'"):
            probe.step(split="test")  # type: ignore[arg-type]
        with torch.no_grad():
            with pytest.raises(ValueError, match="labels: wanted one label per sample"):
                probe.batch()
            probe.batch(labels=y[:5])
            with pytest.raises(ValueError, match="was given 5 labels, but a watched feature has"):
                model(x)
        train(probe, model)
        with pytest.raises(ValueError, match="nothing was measured"):
            probe.step(split="eval")
    assert probe.history()["step"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="split: wanted 'train' or 'eval', got 'test'"):
        probe.history(split="test")  # type: ignore[arg-type]


def with_gradients(model: nn.Module, x: Tensor, _probe: Probe, _y: Tensor) -> None:
    model(x)


def with_gradients_that_nothing_needs(
    model: nn.Module, x: Tensor, _probe: Probe, _y: Tensor
) -> None:
    model.requires_grad_(False)(x)
    model.requires_grad_(True)


def after_a_batch_of_the_training(model: nn.Module, x: Tensor, probe: Probe, y: Tensor) -> None:
    probe.batch(labels=y)
    with torch.no_grad():
        model(x)


@pytest.mark.parametrize(
    "forward",
    [with_gradients, with_gradients_that_nothing_needs, after_a_batch_of_the_training],
)
def test_forwards_that_are_not_of_the_evaluation(
    forward: Callable[[nn.Module, Tensor, Probe, Tensor], None],
) -> None:
    model = build()
    x, y = batch()
    with Probe(model, num_classes=CLASSES) as probe:
        with torch.no_grad():
            probe.batch(labels=y)
        forward(model, x, probe, y)
        with pytest.warns(RuntimeWarning, match="no watched site took part in the evaluation"):
            end_evaluation(probe)
        with torch.no_grad():
            model(x)  # comes after the evaluation
        evaluate(probe, model, [(x, y)])
    assert probe.history(split="eval")["n_rows"].tolist() == [24, 24]


@WITHOUT_GRADIENTS
def test_wide_sites_get_room_for_their_units(without_gradients: Context) -> None:
    model = nn.Sequential(nn.Linear(6, 9000), nn.ReLU())
    x, y = batch()
    with Probe(model, num_classes=CLASSES) as probe:
        for _ in range(2):
            evaluate(probe, lambda x: model(x)[:, :CLASSES], [(x, y)], without_gradients)
        evaluate(probe, lambda x: model(x)[:, :CLASSES], [(x, y)])
    first, *others = probe.history(split="eval")["dead_frac"].tolist()
    assert math.isnan(first)
    assert others == [float((model(x) <= 0).all(0).double().mean())] * 2


def test_a_state_does_not_bring_evaluations_back() -> None:
    model = build()
    with Probe(model, num_classes=CLASSES) as probe:
        train(probe, model, 2)
        evaluate(probe, model, [batch()])
        state = probe.state_dict()
        probe.load_state_dict(state)
        assert len(probe.history(split="eval")["step"]) == 0
        train(probe, model)
        evaluate(probe, model, [batch()])
    assert probe.history(split="eval")["step"].tolist() == [3, 3]
