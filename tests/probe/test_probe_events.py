"""Events of a probe: callbacks, the wish to stop, and what they leave alone."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from tfc_fast import Probe
from tfc_fast.phases import EVENT_KINDS, Event, EventDetector, PhaseMonitor
from tfc_fast.sinks import MemorySink


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))


def train(probe: Probe, net: nn.Module, losses: list[float], x: torch.Tensor | None = None) -> None:
    x = torch.randn(16, 4) if x is None else x
    for loss in losses:
        net(x).sum().backward()
        probe.step(loss=loss)


def test_a_callback_hears_of_its_events_when_records_are_drained() -> None:
    net, heard = model(), list[Event]()
    with Probe(net, capacity=8) as probe:
        probe.on("nonfinite", heard.append)
        train(probe, net, [1.0, math.inf, 1.0])
        assert heard == []
        train(probe, net, [1.0])
        assert [str(event) for event in heard] == ["step 2: loss inf"]
        train(probe, net, [math.nan])
        probe.flush()
        probe.flush()
    assert [event.step for event in heard] == [2, 5]


def test_rows_with_nan_name_their_site() -> None:
    net, heard = model(), list[Event]()
    x = torch.randn(16, 4)
    x[3, 0] = math.nan
    with Probe(net) as probe:
        probe.on("nonfinite", heard.append)
        train(probe, net, [1.0])
        train(probe, net, [1.0], x)
    assert {(event.step, event.site) for event in heard} == {(2, "1"), (2, "3")}


def test_dead_units() -> None:
    net, heard = model(), list[Event]()
    with torch.no_grad():
        net[0].bias[:5] = -1e6
    with Probe(net, sites="1", window=4) as probe:
        probe.on("dead_units", heard.append)
        train(probe, net, [1.0] * 10)
    (event,) = heard
    assert (event.kind, event.step, event.site) == ("dead_units", 4, "1")
    assert event.value >= 5 / 8


def test_stop_event_is_the_first_that_was_asked_for() -> None:
    net = model()
    detector = EventDetector(PhaseMonitor(patience=20))
    with Probe(net, stop_on=["stuck", "nonfinite"], events=detector) as probe:
        train(probe, net, [1.0] * 30)
        assert probe.stop_event is None
        probe.flush()
        first = probe.stop_event
        assert first is not None
        assert (first.kind, first.step) == ("stuck", 21)
        train(probe, net, [math.nan])
        probe.flush()
        assert probe.stop_event is first


def test_other_events_do_not_stop() -> None:
    net = model()
    with Probe(net, stop_on=["stuck"]) as probe:
        train(probe, net, [1.0, math.inf])
    assert probe.stop_event is None


def test_a_failing_callback_is_raised_after_everybody_was_served() -> None:
    net, heard, sink = model(), list[Event](), MemorySink()

    def fail(event: Event) -> None:
        raise RuntimeError(f"no: {event}")

    probe = Probe(net, sinks=[sink]).attach()
    probe.on("nonfinite", fail)
    probe.on("nonfinite", heard.append)
    train(probe, net, [1.0, math.inf])
    with pytest.raises(RuntimeError, match="no: step 2"):
        probe.flush()
    probe.close()
    assert len(heard) == 1
    assert sink.history()["step"].tolist() == [1, 1, 2, 2]


def test_what_has_been_told_goes_on_after_an_interruption() -> None:
    def told(interrupted: bool) -> list[tuple[str, int]]:
        net, heard = model(), list[Event]()
        detector: Callable[[], EventDetector] = lambda: EventDetector(PhaseMonitor(patience=20))  # noqa: E731
        probe = Probe(net, events=detector()).attach()
        for kind in EVENT_KINDS:
            probe.on(kind, heard.append)
        train(probe, net, [1.0] * 10 + [math.inf] * 2)
        if interrupted:
            probe.flush()
            state = probe.state_dict()
            probe.close()
            probe = Probe(net, events=detector()).attach()
            for kind in EVENT_KINDS:
                probe.on(kind, heard.append)
            probe.load_state_dict(state)
        train(probe, net, [math.inf] * 2 + [1.0] * 20)
        probe.close()
        return [(event.kind, event.step) for event in heard]

    assert told(interrupted=True) == told(interrupted=False) == [("nonfinite", 11), ("stuck", 21)]


def test_a_state_from_before_there_were_events_is_taken() -> None:
    net = model()
    with Probe(net) as probe:
        train(probe, net, [1.0] * 3)
        state = probe.state_dict()
    del state["events"]
    probe = Probe(net)
    probe.load_state_dict(state)
    assert probe.state_dict()["step"] == 3


def test_training_with_events_is_bitwise_untouched() -> None:
    def weights(watched: bool) -> list[torch.Tensor]:
        net = model()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        probe = Probe(net, capacity=4, stop_on=EVENT_KINDS) if watched else None
        if probe is not None:
            probe.on("dead_units", lambda event: None)
            probe.attach()
        generator = torch.Generator().manual_seed(1)
        for _ in range(20):
            loss = net(torch.randn(16, 4, generator=generator)).square().mean()
            loss.backward()
            if probe is not None:
                probe.step(loss=loss)
            optimizer.step()
            optimizer.zero_grad()
        if probe is not None:
            probe.close()
        return [weight.detach() for weight in net.parameters()]

    for plain, watched in zip(weights(False), weights(True), strict=True):
        assert torch.equal(plain, watched)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda net: Probe(net, stop_on=["late"]), ValueError, "stop_on.*'late'.*stuck"),
        (lambda net: Probe(net, stop_on="stuck"), TypeError, "stop_on: .* got 'stuck'"),
        (lambda net: Probe(net, events=PhaseMonitor()), TypeError, "events.*PhaseMonitor"),
        (lambda net: Probe(net).on("late", print), ValueError, "event.*'late'"),
        (lambda net: Probe(net).on("stuck", None), TypeError, "callback.*NoneType"),
    ],
)
def test_wrong_arguments(
    call: Callable[[nn.Module], object], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        call(model())
