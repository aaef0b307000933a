from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from tfc_fast import Probe
from tfc_fast.integrations.lightning import TFCCallback
from tfc_fast.phases import Event, EventDetector, PhaseMonitor

# What Lightning advises about the machine and the loader.
pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = 8


class Net(pl.LightningModule):
    def __init__(self, fail_at: int = -1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
        for parameter in self.net.parameters():
            parameter.data.normal_(generator=generator)
        self.fail_at = fail_at
        self.losses: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        if index == self.fail_at:
            raise OSError("the disk is gone")
        x, y = batch
        loss = F.cross_entropy(self.net(x), y)
        self.losses.append(loss.detach())
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        self.net(batch[0])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


class ListLogger(Logger):
    def __init__(self) -> None:
        super().__init__()
        self.logged: list[tuple[int | None, dict[str, float]]] = []

    @property
    def name(self) -> str:
        return "list"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any(name.startswith("tfc/") for name in metrics):
            self.logged.append((step, metrics))


def loader(batches: int) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(5)
    n = batches * ROWS
    x = torch.randn(n, 5, generator=generator)
    return DataLoader(TensorDataset(x, torch.arange(n) % 3), batch_size=ROWS)


def fit(net: Net, folder: Path, batches: int = 6, **settings: Any) -> pl.Trainer:
    settings = {"logger": False, "enable_checkpointing": False, "max_epochs": 1, **settings}
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(net, loader(batches), loader(1), ckpt_path=None)
    return trainer


def test_every_step_is_recorded_and_training_untouched(tmp_path: Path) -> None:
    plain, watched = Net(), Net()
    callback = TFCCallback(num_classes=3)
    fit(plain, tmp_path)
    fit(watched, tmp_path, callbacks=[callback])
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b)
    history = callback.history()
    assert history["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert set(history["site"]) == {"net.1"}
    assert history["loss"].tolist() == [float(loss) for loss in watched.losses]
    assert type(watched.net[1]) is nn.ReLU


def test_records_are_those_of_a_loop_of_ones_own(tmp_path: Path) -> None:
    callback = TFCCallback(num_classes=3)
    fit(Net(), tmp_path, callbacks=[callback])

    net = Net()
    optimizer = net.configure_optimizers()
    with Probe(net, num_classes=3) as probe:
        for x, y in loader(6):
            probe.batch(labels=y)
            loss = F.cross_entropy(net.net(x), y)
            optimizer.zero_grad()
            loss.backward()
            probe.step(loss=loss)
            optimizer.step()
    expected = probe.history()
    actual = callback.history()
    for name in expected:
        assert actual[name].tolist() == expected[name].tolist()


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    net, callback = Net(), TFCCallback(num_classes=3)
    fit(net, tmp_path, callbacks=[callback], accumulate_grad_batches=3)
    history = callback.history()
    assert history["step"].tolist() == [1, 2]
    assert history["n_rows"].tolist() == [3 * ROWS, 3 * ROWS]
    means = torch.stack(net.losses).reshape(2, 3).mean(1)
    torch.testing.assert_close(torch.from_numpy(history["loss"]), means.double())


def test_numbers_go_to_the_loggers(tmp_path: Path) -> None:
    logger = ListLogger()
    callback = TFCCallback(num_classes=3, columns=["feature_cos_between", "active_rate"])
    fit(Net(), tmp_path, callbacks=[callback], logger=logger, log_every_n_steps=2)
    assert [step for step, _ in logger.logged] == [2, 4, 6]
    history = callback.history()
    for step, metrics in logger.logged:
        assert step is not None
        assert metrics == {
            "tfc/feature_cos_between/net.1": history["feature_cos_between"][step - 1],
            "tfc/active_rate/net.1": history["active_rate"][step - 1],
        }


@pytest.mark.parametrize(
    ("every", "log_every", "logged"),
    [(2, 4, [5, 9]), (4, 4, [5, 9]), (5, 2, [6, 11]), (3, 2, [4, 7, 10]), (1, 5, [5, 10])],
)
def test_numbers_of_thinned_records_go_to_the_loggers(
    every: int, log_every: int, logged: list[int], tmp_path: Path
) -> None:
    logger, callback = ListLogger(), TFCCallback(num_classes=3, every=every)
    fit(Net(), tmp_path, 11, callbacks=[callback], logger=logger, log_every_n_steps=log_every)
    assert [step for step, _ in logger.logged] == logged
    rate = callback.history()["active_rate"]
    assert [metrics["tfc/active_rate/net.1"] for _, metrics in logger.logged] == [
        rate[(step - 1) // every] for step in logged
    ]


def test_an_exception_leaves_the_model_and_the_records(tmp_path: Path) -> None:
    net, callback = Net(fail_at=3), TFCCallback(num_classes=3)
    with pytest.raises(OSError, match="the disk is gone"):
        fit(net, tmp_path, callbacks=[callback])
    assert type(net.net[1]) is nn.ReLU
    assert callback.history()["step"].tolist() == [1, 2, 3]


def test_without_classes_no_labels_are_wanted(tmp_path: Path) -> None:
    callback = TFCCallback(labels=lambda batch: pytest.fail("asked for labels"))
    fit(Net(), tmp_path, callbacks=[callback])
    assert len(callback.history()["step"]) == 6


def test_labels_can_be_a_function_of_the_batch(tmp_path: Path) -> None:
    default, own = TFCCallback(num_classes=3), TFCCallback(num_classes=3, labels=lambda b: 2 - b[1])
    fit(Net(), tmp_path, callbacks=[default])
    fit(Net(), tmp_path, callbacks=[own])
    column = "feature_cos_within"
    assert own.history()[column] == pytest.approx(default.history()[column], abs=1e-12)


def test_a_checkpoint_goes_on_with_the_step(tmp_path: Path) -> None:
    callback = TFCCallback(num_classes=3)
    trainer = fit(Net(), tmp_path, callbacks=[callback])
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    again = TFCCallback(num_classes=3)
    trainer = pl.Trainer(
        accelerator="cpu",
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=False,
        max_epochs=2,
        callbacks=[again],
    )
    trainer.fit(Net(), loader(6), ckpt_path=tmp_path / "half.ckpt", weights_only=False)
    assert again.history()["step"].tolist() == [7, 8, 9, 10, 11, 12]


def test_no_history_before_the_first_training() -> None:
    assert len(TFCCallback().history()["step"]) == 0


def test_an_event_ends_the_training(tmp_path: Path) -> None:
    class Drain(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            callback.history()

    heard: list[Event] = []
    rules = EventDetector(PhaseMonitor(patience=2, drop=0.9, min_rise=1.9))
    callback = TFCCallback(num_classes=3, stop_on=["stuck"], events=rules)
    callback.on("stuck", heard.append)
    trainer = fit(Net(), tmp_path, batches=20, callbacks=[callback, Drain()])
    assert [event.step for event in heard] == [3]
    assert trainer.global_step == 4
    # Another training is judged anew.
    fit(Net(), tmp_path, batches=20, callbacks=[callback, Drain()])
    assert [event.step for event in heard] == [3, 3]


class Tokens(Net):
    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.net(x[:, None] * torch.arange(1, 5)[:, None]).mean(1), y)


def test_a_mask_leaves_positions_out(tmp_path: Path) -> None:
    callback = TFCCallback(
        num_classes=3,
        reduction="tokens",
        mask=lambda batch: torch.arange(4) < 1 + batch[1][:, None],
    )
    fit(Tokens(), tmp_path, callbacks=[callback])
    y = torch.arange(ROWS * 6) % 3
    assert callback.history()["n_rows"].tolist() == (1 + y).view(6, ROWS).sum(1).tolist()


def test_a_budget_thins_the_records(tmp_path: Path) -> None:
    callback = TFCCallback(num_classes=3, budget=0.9)
    fit(Net(), tmp_path, callbacks=[callback])
    assert callback.history()["step"].tolist() == [1, 3, 5]
    with pytest.raises(ValueError, match="budget: wanted more than 0 and less than 1"):
        TFCCallback(budget=2.0)
