from __future__ import annotations

import numpy as np
import torch

from tfc_fast.trainer.log import TrainLog


def _fill(log: TrainLog, first: int, last: int) -> None:
    for step in range(first, last + 1):
        loss = torch.tensor(1.0 / step, requires_grad=True)
        log.record(step, loss, torch.tensor(step % 5), rows=5, lr=0.1, seconds=step * 1e-3)


def test_every_step_is_one_row_whether_read_or_not() -> None:
    log = TrainLog()
    _fill(log, 1, 1000)
    columns = log.arrays()
    steps = np.arange(1, 1001)
    np.testing.assert_array_equal(columns["step"], steps)
    np.testing.assert_array_equal(columns["loss"], (1.0 / steps).astype(np.float32))
    np.testing.assert_array_equal(columns["accuracy"], steps % 5 / 5)
    np.testing.assert_array_equal(columns["step_seconds"], steps * 1e-3)
    assert columns["step"].dtype == np.int64
    assert len(log) == 1000


def test_an_earlier_log_is_put_in_front() -> None:
    earlier, log = TrainLog(), TrainLog()
    _fill(earlier, 1, 7)
    log.extend(earlier.arrays())
    assert log.last_loss == np.float32(1 / 7)
    _fill(log, 8, 9)
    np.testing.assert_array_equal(log.arrays()["step"], np.arange(1, 10))


def test_no_loss_is_known_before_the_first_step() -> None:
    assert TrainLog().last_loss is None
    assert len(TrainLog().arrays()["loss"]) == 0


def test_losses_are_read_a_chunk_at_a_time() -> None:
    log = TrainLog()
    _fill(log, 1, 100)
    assert log.last_loss is None
    _fill(log, 101, 300)
    assert log.last_loss is not None


def test_a_loss_that_is_not_finite_is_recorded_as_it_is() -> None:
    log = TrainLog()
    for step, loss in enumerate((float("nan"), float("inf"), 2.0), 1):
        log.record(step, torch.tensor(loss), torch.tensor(0), rows=1, lr=0.1, seconds=0.0)
    np.testing.assert_array_equal(log.arrays()["loss"], [np.nan, np.inf, 2.0])
