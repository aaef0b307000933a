"""A probe with a budget: what it measures, how often it records then, which sites it leaves out.

Costs come from meters, recorders, clocks and events that tell what the test says: nothing is timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_models import CLASSES, batch, build
from torch import nn
from torch._dynamo.utils import counters

from tfc_fast import Probe
from tfc_fast.probe import budget as module
from tfc_fast.probe.budget import (
    LOOK_AGAIN,
    MOST_EVERY,
    PERIOD,
    Budget,
    Costs,
    DeviceMeter,
    HostMeter,
)


class Told:
    """A meter that says what it is told."""

    def __init__(self, *costs: Costs) -> None:
        self.left = list(costs)
        self.recorded: list[bool] = []

    def step_ended(self, recorded: bool) -> None:
        self.recorded.append(recorded)

    def costs(self) -> Costs:
        return self.left.pop(0) if len(self.left) > 1 else self.left[0]


def run(meter: Told, share: float, *, periods: int, least: int = 1) -> tuple[list[int], int]:
    """The `every` of each period, and how often half of the sites were left out."""
    left_out: list[int] = []
    budget = Budget(share, least, meter, lambda every: None, lambda: left_out.append(1))
    chosen = []
    for _ in range(periods):
        chosen.append(budget.every)
        for _ in range(max(PERIOD, 8 * budget.every)):
            budget.step_ended()
    return chosen, len(left_out)


@pytest.mark.parametrize(
    ("costs", "every"),
    [
        (Costs(record=0.5, always=0, step=100), 1),
        (Costs(record=1.0, always=0, step=100), 1),
        (Costs(record=1.01, always=0, step=100), 2),
        (Costs(record=4.5, always=0, step=100), 5),
        (Costs(record=4.5, always=0.25, step=100), 6),
        (Costs(record=4.5, always=0.9, step=100), 46),
        (Costs(record=-3.0, always=0, step=100), 1),  # noise
    ],
)
def test_as_often_as_the_budget_allows(costs: Costs, every: int) -> None:
    assert run(Told(costs), 0.01, periods=3) == ([2, every, every], 0)


def test_no_more_often_than_asked_for() -> None:
    cheap, dear = Costs(0.1, 0, 100), Costs(7, 0, 100)
    assert run(Told(cheap), 0.01, periods=2, least=4) == ([4, 4], 0)
    assert run(Told(dear), 0.01, periods=2, least=4) == ([4, 7], 0)


@pytest.mark.parametrize("costs", [Costs(300, 0, 100), Costs(0.1, 1.5, 100)])
def test_what_is_too_much_anyhow_leaves_sites_out(costs: Costs) -> None:
    then = Costs(2, 0, 100)
    assert run(Told(costs, costs, then), 0.01, periods=4) == ([2, MOST_EVERY, MOST_EVERY, 2], 2)


def test_what_changes_is_noticed() -> None:
    meter = Told(Costs(2, 0, 100), Costs(2, 0, 50), Costs(2, 0, 1000))
    assert run(meter, 0.01, periods=4)[0] == [2, 2, 4, 1]


def test_without_a_measurement_nothing_changes() -> None:
    nothing = Costs(math.nan, math.nan, 100)
    assert run(Told(nothing), 0.01, periods=3) == ([2, 2, 2], 0)
    # Where every step is recorded there is nothing to compare with: what was found before counts.
    meter = Told(Costs(0.5, 0, 100), Costs(math.nan, 0, 100), Costs(math.nan, 0, 20))
    assert run(meter, 0.01, periods=4)[0] == [2, 1, 1, 3]


def test_where_all_steps_are_recorded_it_looks_again_now_and_then() -> None:
    chosen, _ = run(Told(Costs(0.5, 0, 100)), 0.01, periods=2 * LOOK_AGAIN + 2)
    assert [index for index, every in enumerate(chosen) if every == 2] == [
        *(0, LOOK_AGAIN, 2 * LOOK_AGAIN)
    ]


# ---- meters -------------------------------------------------------------------------------------


class FakeRecorder:
    """Tells what it is told."""

    def __init__(self) -> None:
        self.told = (0.0, 0.0, 0.0, 0.0, 0, 0)

    def costs(self) -> tuple[float, float, float, float, int, int]:
        return self.told


def test_the_host_takes_off_what_relu_does_anyhow() -> None:
    times = iter([0.0, 10.0, 20.0, 1000.0, 1010.0, 1020.0])
    recorder, drained = FakeRecorder(), [0.0]
    meter = HostMeter(recorder, lambda: drained[0], lambda: next(times))  # type: ignore[arg-type]
    assert all(math.isnan(cost) for cost in meter.costs())
    for _ in range(5):
        meter.step_ended(True)
    # 4 recorded steps of 5, 2 skipped ones of 0.25 with 3 of ReLU in each; 8 to pass records on
    recorder.told, drained[0] = (20.0, 0.5, 6.0, 1010.0, 4, 2), 8.0
    assert meter.costs() == Costs(5 + 2 - 3 - 0.25, 0.25, 10.0)  # an evaluation is no step
    meter.step_ended(True)
    recorder.told = (34.0, 0.5, 6.0, 1020.0, 6, 2)
    assert meter.costs() == Costs(7 + 8 / 6 - 3 - 0.25, 0.25, 10.0)


class FakeEvent:
    """An event of a device that gets on as the test lets it."""

    now = 0.0
    done = 0.0

    def record(self) -> None:
        self.at = FakeEvent.now

    def query(self) -> bool:
        return self.at <= FakeEvent.done

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self.query()
        assert end.query()
        return end.at - self.at


def test_the_device_compares_steps_and_never_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    events: list[FakeEvent] = []

    def new_event() -> FakeEvent:
        events.append(FakeEvent())
        return events[-1]

    meter = DeviceMeter(new_event)
    for step in range(10):  # milliseconds: 100, in recorded steps 102
        FakeEvent.now += 102 if step % 2 == 0 else 100
        meter.step_ended(step % 2 == 0)
    assert all(math.isnan(cost) for cost in meter.costs()[::2])
    assert len(events) == 10
    for step in range(100):
        FakeEvent.now += 102 if step % 2 == 0 else 100
        FakeEvent.done = FakeEvent.now - 250
        meter.step_ended(step % 2 == 0)
    record, always, step = meter.costs()
    assert (record, always, step) == (pytest.approx(0.002), 0.0, pytest.approx(0.1))
    assert len(events) == 11  # used again once they have been read


def test_while_a_graph_is_captured_nothing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    DeviceMeter(lambda: pytest.fail("an event was made")).step_ended(True)


# ---- the probe ----------------------------------------------------------------------------------


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """What the meters of probes made from now on say."""

    def tell(*costs: Costs) -> None:
        monkeypatch.setattr(module, "HostMeter", lambda *_arguments: Told(*costs))

    return tell


def train(probe: Probe, run: Callable[[torch.Tensor], torch.Tensor], steps: int) -> None:
    x, y = batch()
    for _ in range(steps):
        probe.batch(labels=y)
        loss = F.cross_entropy(run(x), y)
        loss.backward()
        probe.step(loss=loss)


def test_steps_without_rows_were_skipped(told: Callable[..., None]) -> None:
    told(Costs(3.5, 0, 100))
    model = build()
    with Probe(model, num_classes=CLASSES, budget=0.01) as probe:
        assert probe.every == 2
        train(probe, model, 100)
        assert probe.every == 4
    steps = sorted(set(probe.history()["step"].tolist()))
    assert steps == [*range(1, 33, 2), *range(33, 101, 4)]


def test_sites_that_are_left_out_have_no_rows(told: Callable[..., None]) -> None:
    told(Costs(500, 0, 100), Costs(500, 0, 100), Costs(0, 0, 100))
    model = nn.Sequential(*[layer for _ in range(5) for layer in (nn.Linear(6, 6), nn.ReLU())])
    with Probe(model, num_classes=CLASSES, budget=0.01) as probe:
        assert probe.sites == ("1", "3", "5", "7", "9")
        train(probe, lambda x: model(x)[:, :CLASSES], 32)
        assert set(probe.history()["site"][-5:]) == set(probe.sites)
        train(probe, lambda x: model(x)[:, :CLASSES], 8 * MOST_EVERY)
        assert probe.history()["site"][-3:].tolist() == ["1", "5", "9"]
        train(probe, lambda x: model(x)[:, :CLASSES], 8 * MOST_EVERY)
        history = probe.history()
        described = probe.describe()
    assert history["site"][-2:].tolist() == ["1", "9"]
    assert [site.name for site in described.watched] == ["1", "9"]
    reason = "left out by now, to keep to the budget"
    assert described.not_watched == tuple((name, reason) for name in ("3", "5", "7"))
    assert all(a <= b for a, b in pairwise(history["step"].tolist()))
    assert all(type(model[index]) is nn.ReLU for index in range(1, 10, 2))


def test_in_a_compiled_model_too(told: Callable[..., None]) -> None:
    torch.compiler.reset()
    counters.clear()
    told(Costs(500, 0, 100), Costs(0, 0, 100))
    model = build()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with Probe(model, num_classes=CLASSES, budget=0.01) as probe:
        train(probe, compiled, 32 + 8 * MOST_EVERY + 32)
    assert counters["graph_break"] == {}
    assert counters["stats"]["unique_graphs"] == 2
    history = probe.history()
    assert history["site"][:2].tolist() == ["1", "3"]
    assert set(history["site"][history["step"] > 32 + MOST_EVERY]) == {"1"}


def test_training_is_bitwise_untouched(told: Callable[..., None]) -> None:
    def trained(*, probed: bool) -> list[torch.Tensor]:
        told(Costs(500, 0, 100), Costs(4, 0, 100))
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        probe = Probe(model, num_classes=CLASSES, budget=0.01)
        if probed:
            probe.attach()
        x, y = batch()
        for _ in range(600):
            if probed:
                probe.batch(labels=y)
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            if probed:
                probe.step(loss=loss)
            optimizer.step()
            optimizer.zero_grad()
        probe.close()
        return list(model.parameters())

    for actual, expected in zip(trained(probed=True), trained(probed=False), strict=True):
        assert torch.equal(actual, expected)


def test_goes_on_from_a_state(told: Callable[..., None]) -> None:
    told(Costs(3.5, 0, 100))
    model = build()
    with Probe(model, num_classes=CLASSES) as first:
        train(first, model, 5)
    with Probe(model, num_classes=CLASSES, budget=0.01) as probe:
        probe.load_state_dict(first.state_dict())
        train(probe, model, 45)
        meter = probe._budget._meter  # type: ignore[union-attr]
    steps = sorted(set(probe.history()["step"].tolist()))
    assert steps == [*range(7, 38, 2), *range(41, 51, 4)]
    assert np.flatnonzero(meter.recorded).tolist() == [step - 6 for step in steps]  # type: ignore[attr-defined]


def test_a_real_meter_knows_both_kinds_of_steps() -> None:
    model = build()
    with Probe(model, num_classes=CLASSES, budget=0.5, capacity=8) as probe:
        train(probe, model, 33)
        overhead = probe.overhead()
    assert overhead.steps == 32
    assert overhead.microseconds_per_step > 0
    recorded, skipped, plain, total, num_recorded, num_skipped = probe._recorder.costs()
    assert (num_recorded, num_skipped) == (16, 16)
    assert 0 < skipped < total
    assert 0 < plain < total
    assert 0 < recorded < total
    assert recorded + skipped + probe._seconds_outside - plain == pytest.approx(
        32e-6 * overhead.microseconds_per_step
    )


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("1 %", TypeError, "budget: wanted a number, got str"),
        (True, TypeError, "budget: wanted a number, got bool"),
        (0, ValueError, "budget: wanted more than 0 and less than 1 .* got 0"),
        (1.0, ValueError, "budget: wanted more than 0"),
        (math.nan, ValueError, "budget: wanted more than 0"),
    ],
)
def test_wrong_budgets(given: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Probe(build(), budget=given)  # type: ignore[arg-type]
