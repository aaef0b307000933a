from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from tfc_fast.integrations.transformers import TFCCallback
from tfc_fast.phases import Event, EventDetector, PhaseMonitor

# What torch says of pinned memory and the like.
pytestmark = pytest.mark.filterwarnings("ignore")

ROWS = 8


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.net = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3))
        for parameter in self.net.parameters():
            parameter.data.normal_(generator=generator)
        self.losses: list[float] = []

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        loss = F.cross_entropy(logits, labels)
        if self.training:
            self.losses.append(loss.item())
        return {"loss": loss, "logits": logits}


class Rows(Dataset[dict[str, Tensor]]):
    def __init__(self, batches: int) -> None:
        generator = torch.Generator().manual_seed(5)
        self.x = torch.randn(batches * ROWS, 5, generator=generator)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "labels": torch.tensor(index % 3)}


class Reporter(TrainerCallback):
    """Stands for a reporting integration."""

    def __init__(self) -> None:
        self.logs: list[dict[str, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.logs.append(dict(kwargs["logs"]))


def trainer_of(net: Net, folder: Path, callbacks: Any = None, **settings: Any) -> Trainer:
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=ROWS,
        logging_steps=2,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        optim="sgd",
        learning_rate=0.1,
        **settings,
    )
    return Trainer(net, arguments, train_dataset=Rows(6), eval_dataset=Rows(2), callbacks=callbacks)


def test_every_step_is_recorded_and_training_untouched(tmp_path: Path) -> None:
    plain, watched = Net(), Net()
    callback = TFCCallback(num_classes=3)
    trainer_of(plain, tmp_path).train()
    trainer_of(watched, tmp_path, [callback]).train()
    for a, b in zip(plain.parameters(), watched.parameters(), strict=True):
        assert torch.equal(a, b)
    history = callback.history()
    assert history["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert set(history["site"]) == {"net.1"}
    assert history["loss"] == pytest.approx(watched.losses, rel=1e-6)
    assert type(watched.net[1]) is nn.ReLU
    assert not watched._forward_pre_hooks
    assert not watched._forward_hooks


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    net, callback = Net(), TFCCallback(num_classes=3)
    trainer_of(net, tmp_path, [callback], gradient_accumulation_steps=3).train()
    history = callback.history()
    assert history["step"].tolist() == [1, 2]
    assert history["n_rows"].tolist() == [3 * ROWS, 3 * ROWS]
    means = torch.tensor(net.losses).reshape(2, 3).mean(1)
    assert history["loss"] == pytest.approx(means.numpy(), rel=1e-6)


def test_evaluation_is_not_recorded(tmp_path: Path) -> None:
    callback = TFCCallback(num_classes=3)
    trainer_of(Net(), tmp_path, [callback], eval_strategy="steps", eval_steps=2).train()
    assert callback.history()["step"].tolist() == [1, 2, 3, 4, 5, 6]


def test_numbers_join_the_logs(tmp_path: Path) -> None:
    callback = TFCCallback(num_classes=3, columns=["feature_cos_between"])
    reporter = Reporter()
    trainer = trainer_of(Net(), tmp_path, [reporter])
    callback.add_to(trainer)
    callback.add_to(trainer)
    trainer.train()
    assert trainer.callback_handler.callbacks.count(callback) == 1
    between = callback.history()["feature_cos_between"]
    name = "tfc/feature_cos_between/net.1"
    for logs in (reporter.logs, trainer.state.log_history):
        assert [log[name] for log in logs if "loss" in log] == [between[1], between[3], between[5]]


def test_a_training_that_failed_is_closed_by_hand_or_by_the_next(tmp_path: Path) -> None:
    net, callback = Net(), TFCCallback(num_classes=3, labels=lambda inputs: inputs["nothing"])
    with pytest.raises(KeyError, match="nothing"):
        trainer_of(net, tmp_path, [callback]).train()
    assert type(net.net[1]) is not nn.ReLU
    callback.close()
    assert type(net.net[1]) is nn.ReLU
    assert not net._forward_pre_hooks


def test_losses_that_are_shares_of_the_step_are_added(tmp_path: Path) -> None:
    class Shares(Net):
        def forward(
            self, x: Tensor, labels: Tensor, num_items_in_batch: Any = None, **kwargs: Any
        ) -> dict[str, Tensor]:
            logits = self.net(x)
            total = F.cross_entropy(logits, labels, reduction="sum")
            return {"loss": total / num_items_in_batch, "logits": logits}

    sums, callback = TFCCallback(num_classes=3), TFCCallback(num_classes=3)
    trainer_of(Shares(), tmp_path, [sums], gradient_accumulation_steps=3).train()
    trainer_of(Net(), tmp_path, [callback], gradient_accumulation_steps=3).train()
    assert sums.history()["loss"] == pytest.approx(callback.history()["loss"], rel=1e-5)


def test_an_event_ends_the_training(tmp_path: Path) -> None:
    heard: list[Event] = []
    rules = EventDetector(PhaseMonitor(patience=1, drop=0.9, min_rise=1.9))
    callback = TFCCallback(num_classes=3, stop_on=["stuck"], events=rules)
    callback.on("stuck", heard.append)
    trainer = trainer_of(Net(), tmp_path, [callback])
    trainer.train()
    assert [event.step for event in heard] == [2]
    # Found with the first logs after it, two steps apart.
    assert trainer.state.global_step == 3


def test_padding_is_left_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=20,
        hidden_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        num_labels=3,
    )
    lengths = torch.randint(1, 7, (6 * ROWS,))
    sentences = [
        {
            "input_ids": torch.randint(0, 20, (6,)),
            "attention_mask": (torch.arange(6) < length).long(),
            "labels": torch.tensor(index % 3),
        }
        for index, length in enumerate(lengths)
    ]
    callback = TFCCallback(
        "bert.encoder.layer.*.intermediate",
        num_classes=3,
        reduction="tokens",
        mask=lambda batch: batch["attention_mask"],
    )
    model: Any = BertForSequenceClassification(config)
    trainer = trainer_of(model, tmp_path, [callback])
    trainer.train_dataset = sentences
    trainer.train()
    rows = callback.history()["n_rows"].reshape(6, 2)
    assert (rows[:, 0] == rows[:, 1]).all()
    assert rows[:, 0].sum() == lengths.sum()
