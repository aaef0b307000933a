from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tfc_fast.bench.contenders import CONTENDERS, Naive, Probed
from tfc_fast.bench.networks import NETWORKS
from tfc_fast.bench.overhead import DEFAULT_SHAPES, Shape, measure_overhead
from tfc_fast.models import MLP, vgg11

Tfc = Callable[..., tuple[int, str, str]]


def test_bench_overhead_prints_a_table_and_writes_json(tfc: Tfc) -> None:
    status, output, errors = tfc(
        "bench",
        "overhead",
        "--shapes=8x16,12x8",
        "--depth=3",
        "--steps=12",
        "--threads=1",
        "--json=results/overhead.json",
    )
    assert (status, errors) == (0, "")
    assert "weights with and without the probe are bitwise equal" in output
    results = json.loads(Path("results/overhead.json").read_text())
    assert results["settings"]["depth"] == 3
    assert results["threads"] == 1
    assert results["device_name"]
    assert results["versions"]["torch"] == torch.__version__
    assert [(shape["batch"], shape["width"]) for shape in results["shapes"]] == [(8, 16), (12, 8)]
    for shape in results["shapes"]:
        assert shape["weights_equal"] is True
        assert shape["plain"]["steps"] == shape["probed"]["steps"] == 12
        assert 1 <= shape["naive"]["steps"] <= 12
        for name in ("probed", "naive"):
            entry = shape[name]
            assert 0 < entry["ratio_q1"] <= entry["ratio"] <= entry["ratio_q3"]
        assert f"{shape['batch']} x {shape['width']}" in output


def test_networks_are_measured_instead_of_mlps(tfc: Tfc, monkeypatch: pytest.MonkeyPatch) -> None:
    small = NETWORKS["vgg11_bn"]._replace(make=lambda: vgg11(2, batch_norm=True))
    monkeypatch.setitem(NETWORKS, "vgg11_bn", small)
    status, output, errors = tfc(
        "bench",
        "overhead",
        "--model=vgg11_bn,transformer",
        "--batch=4",
        "--steps=3",
        "--json=overhead.json",
    )
    assert (status, errors) == (0, "")
    assert "4 x vgg11_bn (flatten)" in output
    assert "4 x transformer (tokens)" in output
    results = json.loads(Path("overhead.json").read_text())["shapes"]
    assert [result["model"] for result in results] == ["vgg11_bn", "transformer"]
    for result in results:
        assert result["weights_equal"] is True
        assert result["probed"]["steps"] == 3
        assert "naive" not in result


def test_only_what_is_asked_for_is_measured() -> None:
    (shape,) = measure_overhead([Shape(4, 8)], providers=("plain", "naive"), depth=2, steps=4)[
        "shapes"
    ]
    assert "probed" not in shape
    assert shape["weights_equal"] is None


def test_the_number_of_steps_follows_from_the_time() -> None:
    (shape,) = measure_overhead([Shape(4, 8)], providers=("plain",), depth=2, seconds=0.05)[
        "shapes"
    ]
    assert shape["plain"]["steps"] >= 16


def test_weights_that_differ_fail_the_check(tfc: Tfc, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(Probed):
        def step(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
            super().step(inputs * (1 + 1e-6), labels)

    monkeypatch.setitem(CONTENDERS, "probed", Wrong)
    status, output, _ = tfc("bench", "overhead", "--shapes=8x16", "--depth=3", "--steps=3")
    assert status == 1
    assert "FAILED: at 8x16 the weights with and without the probe differ" in output


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--shapes=8", "--shapes: '8' given, BATCHxWIDTH is wanted"),
        ("--shapes=0x8", "--shapes: '0x8' given"),
        ("--providers=plain,magic", "--providers: 'magic' given, known are plain, probed, naive"),
        ("--providers=probed", "--providers: plain is missing"),
        ("--steps=0", "--steps: 0 given, at least 1"),
        ("--depth=0", "--depth: 0 given, at least 1"),
        ("--model=vgg", "--model: 'vgg' given, known are vgg11, vgg11_bn, resnet18, transformer"),
        ("--batch=0", "--batch: 0 given, at least 1"),
        ("--reduction=pool", "--reduction: 'pool' given, but the rows of an MLP are its samples"),
        ("--seconds=-1", "--seconds: -1.0 given, more than 0"),
        ("--json=/proc/no/file.json", "/proc/no"),
    ],
)
def test_bad_arguments_are_told_before_anything_is_measured(
    tfc: Tfc, flags: str, message: str
) -> None:
    status, output, errors = tfc("bench", "overhead", flags)
    assert (status, output) == (2, "")
    assert errors.startswith("tfc-fast: error: ")
    assert message in errors


@pytest.mark.parametrize(("jitter", "noisy"), [(0.0, False), (0.07, False), (0.08, True)])
def test_a_row_that_means_nothing_is_named(
    tfc: Tfc, monkeypatch: pytest.MonkeyPatch, jitter: float, noisy: bool
) -> None:
    quiet = {"steps": 20, "median_ms": 1.0, "ratio": 1.5, "ratio_q1": 1.5, "ratio_q3": 1.5}
    shaken = {**quiet, "ratio_q1": 1.5 - jitter, "ratio_q3": 1.5 + jitter}

    def measured(*_: object, **__: object) -> dict[str, object]:
        shapes = [
            {"batch": 8, "width": width, "weights_equal": True, "plain": quiet, "probed": entry}
            for width, entry in ((16, quiet), (32, shaken))
        ]
        return {
            "shapes": shapes,
            "device_name": "any",
            "threads": 1,
            "versions": {"torch": "any"},
        }

    monkeypatch.setattr("tfc_fast.cli.bench.measure_overhead", measured)
    status, output, _ = tfc("bench", "overhead", "--providers=plain,probed")
    assert status == 0
    line = "noisy: 8x32 (quartiles of a ratio more than 0.1 of it apart); run it on a machine"
    assert (line in output) is noisy
    assert ("noisy" in output) is noisy


def test_help_names_defaults_that_can_be_given(tfc: Tfc) -> None:
    output = " ".join(tfc("bench", "overhead", "--help")[1].split())
    assert "(default: flatten, tokens for transformer)" in output
    assert "16 steps are measured at least" in output


def test_naive_hooks_measure_what_the_probe_measures() -> None:
    generator = torch.Generator().manual_seed(2)
    model = MLP(6, 3, 3, 10, generator=generator)
    x, y = torch.randn(9, 6, generator=generator), torch.arange(9) % 3
    naive = Naive(model, 3)
    naive.step(x, y)
    naive.close()
    probed = Probed(MLP(6, 3, 3, 10, generator=torch.Generator().manual_seed(2)), 3)
    probed.step(x, y)
    history = probed.probe.history()
    probed.close()
    for row, site in enumerate(history["site"]):
        for kind, column in (("features", "feature"), ("gradients", "grad")):
            found = [value.item() for value in naive.results[f"{site}.{kind}"]]
            wanted = [history[f"{column}_cos_{pairs}"][row] for pairs in ("within", "between")]
            np.testing.assert_allclose(found, wanted, atol=1e-5)
        rate = naive.results[f"{site}.gates"][0].item()
        assert rate == pytest.approx(history["active_rate"][row], abs=1e-6)
    loss = F.cross_entropy(model(x), y)
    assert torch.isfinite(loss)


def test_the_shapes_are_those_of_the_documentation() -> None:
    assert Shape(64, 128) in DEFAULT_SHAPES
    assert Shape(4096, 1024) in DEFAULT_SHAPES
