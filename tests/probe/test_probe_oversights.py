"""What is easily forgotten, and how it is told."""

from __future__ import annotations

import gc
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tfc_fast import Probe
from tfc_fast.sinks import MemorySink, ParquetSink, read_parquet


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU())


def train(net: nn.Module, probe: Probe, steps: int) -> None:
    for _ in range(steps):
        net(torch.ones(6, 3)).sum().backward()
        probe.step()


class TestNoStep:
    @pytest.mark.parametrize(
        ("ask", "batches"),
        [
            (lambda probe: probe.__exit__(None, None, None), 5),
            (Probe.close, 5),
            (Probe.history, 120),
        ],
    )
    def test_is_told_once(self, ask: Callable[[Probe], object], batches: int) -> None:
        net = model()
        probe = Probe(net).attach()
        for _ in range(batches):
            net(torch.ones(6, 3)).sum().backward()
        with pytest.warns(RuntimeWarning, match=r"no step was closed.*call probe\.step\(\)"):
            ask(probe)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            probe.history()
            probe.close()

    def test_is_not_told_within_a_first_step_of_some_batches(self) -> None:
        net = model()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Probe(net) as probe:
                for _ in range(8):
                    net(torch.ones(6, 3)).sum().backward()
                    probe.history()
                probe.step()

    def test_is_not_told_of_what_was_not_used_or_broke_off(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Probe(model()) as probe:
                pass
            probe.close()
            net = model()
            probe = Probe(net).attach()
            for _ in range(5):
                net(torch.ones(6, 3)).sum().backward()
            probe.__exit__(KeyError, KeyError(), None)

    def test_is_not_told_after_a_resumed_run_did_some(self) -> None:
        net = model()
        with Probe(net) as probe:
            train(net, probe, 3)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Probe(net) as other:
                other.load_state_dict(probe.state_dict())
                train(net, other, 1)
            other.history()


class TestNotDetached:
    def test_records_are_flushed_when_the_probe_is_gone(self) -> None:
        sink = MemorySink()
        net = model()

        def use() -> None:
            train(net, Probe(net, sinks=[sink]).attach(), 3)
            gc.collect()

        with pytest.warns(ResourceWarning, match="attached to the end"):
            use()
        assert sink.history()["step"].tolist() == [1, 1, 2, 2, 3, 3]
        assert type(net[1]) is nn.ReLU  # given back

    def test_records_are_flushed_at_the_end_of_the_process(self, tmp_path: Path) -> None:
        script = (
            "import sys, torch\n"
            "from tfc_fast import Probe\n"
            "from tfc_fast.sinks import ParquetSink\n"
            "net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())\n"
            "probe = Probe(net, sinks=[ParquetSink(sys.argv[1])]).attach()\n"
            "for _ in range(5):\n"
            "    net(torch.ones(6, 3)).sum().backward()\n"
            "    probe.step()\n"
        )
        subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
        assert read_parquet(tmp_path)["step"].tolist() == [1, 2, 3, 4, 5]

    def test_what_refers_to_its_probe_is_collected(self) -> None:
        net, sink = model(), MemorySink()

        class Owner:
            def __init__(self) -> None:
                self.probe = Probe(net, sinks=[sink]).attach()
                self.probe.on("nonfinite", self.told)

            def told(self, event: object) -> None: ...

        owner = weakref.ref(made := Owner())
        train(net, made.probe, 2)
        del made
        with pytest.warns(ResourceWarning, match="attached to the end"):
            gc.collect()
        assert owner() is None
        assert sink.history()["step"].tolist() == [1, 1, 2, 2]
        assert type(net[1]) is nn.ReLU

    def test_one_that_fails_leaves_none_of_the_others_out(self, tmp_path: Path) -> None:
        script = (
            "import os, sys, torch\n"
            "from tfc_fast import Probe\n"
            "from tfc_fast.sinks import MemorySink, ParquetSink\n"
            "class Broken(MemorySink):\n"
            "    def flush(self): raise OSError('the disk is full')\n"
            "from torch.nn import Linear, ReLU, Sequential\n"
            "nets = [Sequential(Linear(3, 4), ReLU()) for _ in range(3)]\n"
            "sinks = [Broken(), ParquetSink(sys.argv[1]), Broken()]\n"
            "probes = [Probe(n, sinks=[s]).attach() for n, s in zip(nets, sinks)]\n"
            "def steps():\n"
            "    with Probe(torch.nn.Sequential(torch.nn.ReLU())): yield\n"
            "suspended = steps(); next(suspended)\n"
            "for net, probe in zip(nets, probes):\n"
            "    net(torch.ones(6, 3)).sum().backward()\n"
            "    probe.step()\n"
            "if os.fork() == 0: sys.exit(0)\n"
            "os.wait()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path)],
            check=True,
            capture_output=True,
            text=True,
        )
        assert "the disk is full" in done.stderr
        assert "KeyError" not in done.stderr
        assert read_parquet(tmp_path)["step"].tolist() == [1]

    def test_nothing_is_told_of_one_that_was_detached(self, tmp_path: Path) -> None:
        net = model()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Probe(net, sinks=[ParquetSink(tmp_path)]) as probe:
                train(net, probe, 1)
            del probe
            gc.collect()


class TestForwardWithoutBackward:
    def test_a_site_that_changes_its_name_is_told(self) -> None:
        net = model()
        probe = Probe(net).attach()
        net(torch.ones(6, 3)).argmax(1)  # how good it is, with gradients on
        train(net, probe, 2)
        with pytest.warns(RuntimeWarning, match=r"'1#1' has a record .* in which '1' has none"):
            probe.close()
        assert probe.history()["site"].tolist() == ["1#1", "3#1", "1", "3"]

    def test_without_gradients_nothing_is_told(self) -> None:
        net = model()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Probe(net) as probe:
                for _ in range(3):
                    with torch.no_grad():
                        net(torch.ones(6, 3)).argmax(1)
                    train(net, probe, 1)
        assert set(probe.history()["site"]) == {"1", "3"}

    def test_a_module_that_is_called_several_times_is_none(self) -> None:
        relu = nn.ReLU()
        net = nn.Sequential(nn.Linear(3, 4), relu, nn.Linear(4, 2), relu)
        net[0].requires_grad_(requires_grad=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with Probe(net) as probe:
                train(net, probe, 3)
            probe.history()
