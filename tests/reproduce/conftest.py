from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tfc_fast.analyzed_run import read_run
from tfc_fast.records import COLUMNS, COUNT_COLUMNS
from tfc_fast.reproduce import Measurement
from tfc_fast.run_directory import RunDirectory
from tfc_fast.sinks import ParquetSink

SITES = ("hidden.0.relu", "hidden.1.relu")
STEPS = 800

Make = Callable[..., Measurement]


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """Runs as files, whose curves are those that the test wants."""

    def make(
        setting: str = "0",
        seed: int = 0,
        *,
        end: int | None = 400,
        curves: dict[str, Callable[[Any], Any]] | None = None,
        loss: float = 2.3,
    ) -> Measurement:
        run = RunDirectory(tmp_path / f"{setting}-{seed}").create()
        steps = np.arange(1, STEPS + 1)
        course = np.where(steps < (end or STEPS + 1), loss, 0.1 * loss)
        run.write_json(run.config_path, {"chance_loss": loss})
        run.write_json(run.summary_path, {"chance_loss": loss})
        run.write_train(
            {
                "step": steps,
                "loss": course,
                "accuracy": course < loss,
                "lr": np.full(STEPS, 0.1),
                "step_seconds": np.full(STEPS, 0.01),
            }
        )
        columns: dict[str, Any] = {
            name: np.zeros(STEPS * 2, np.int64 if name in COUNT_COLUMNS else np.float64)
            for name in COLUMNS
        }
        columns |= {
            "step": np.repeat(steps, 2),
            "site": np.array(SITES * STEPS, object),
            "loss": np.repeat(course, 2),
            "n_rows": np.full(STEPS * 2, 10),
        }
        for name, curve in (curves or {}).items():
            # At the second site; at the first one nothing happens.
            columns[name][1::2] = curve(steps)
        sink = ParquetSink(run.metrics_folder)
        sink.write(columns)  # type: ignore[arg-type]
        sink.close()
        return Measurement(setting, seed, run, read_run(run.path).summary)

    return make


def hump(top: float, at: int = 400, base: float = 0.5) -> Callable[[Any], Any]:
    """Up to `base + top` at a step, and down to the base again."""
    return lambda steps: base + top * np.maximum(0, 1 - np.abs(steps - at) / at)
