"""The comparison with plain torch that benchmarks/reproduction.py prints."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tfc_fast.run_directory import RunDirectory

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

pytestmark = pytest.mark.skipif(
    not BENCHMARKS.is_dir(), reason="benchmarks are not part of an installed package"
)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("reference_lengths")


def comparison(
    module: ModuleType, low: float, high: float, *lengths: float, setting: str = "a"
) -> Any:
    return module.Comparison("x", setting, low, high, lengths, lengths)


@pytest.mark.parametrize(
    ("other", "wrong"),
    [
        ((210, 220, 180.0), ["x: a and b"]),  # disjoint, the other way round
        ((210, 220, 230.0), []),
        ((150, 220, 180.0), []),  # overlapping: no order
        ((10, 90, 200.0), ["x: b and a"]),
        ((10, 90, 180.0), []),
        ((210, 220, math.inf), []),
        ((10, 90, math.inf), ["x: b and a"]),
    ],
)
def test_only_ranges_that_are_apart_have_an_order(
    module: ModuleType, other: tuple[float, float, float], wrong: list[str]
) -> None:
    a, b = comparison(module, 100, 200, 190.0), comparison(module, *other, setting="b")
    assert module.out_of_order([a, b]) == module.out_of_order([b, a]) == wrong


def test_what_did_not_end_is_told_in_words(module: ModuleType) -> None:
    never = comparison(module, 100, 200, math.inf, math.inf).cells()
    assert never[2:] == ["100-200", "not ended", "not ended", "not ended", "NO", "not ended"]
    some = comparison(module, 100, 100, 120.0, 150.0, math.inf).cells()
    assert some[2:] == ["100", "150", "120-not ended", "+50%", "NO", "150"]


def test_a_run_of_two_experiments_took_its_time_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    reproduction = importlib.import_module("reproduction")
    for name in ("a", "b"):
        run = RunDirectory(tmp_path / "runs" / name).create()
        run.write_json(run.config_path, {})
        column = np.full(3, 2.0)
        run.write_train(
            {"step": [1, 2, 3], **dict.fromkeys(("loss", "accuracy", "lr", "step_seconds"), column)}
        )
    assert reproduction.training_seconds(tmp_path, ["a", "b", "a"]) == 12
