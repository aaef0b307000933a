from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tfc_fast.files import StorageError
from tfc_fast.trainer import Checkpoint, CheckpointError, load_checkpoint
from tfc_fast.trainer.checkpoint import restore_rng, rng_state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint.pt"
    weights = torch.arange(5000, dtype=torch.float32)
    Checkpoint(7, {"w": weights}, {"lr": 0.1}, rng_state(), None, {}, {"depth": 3}).save(path)
    return path


def test_a_checkpoint_is_read_as_it_was_saved(path: Path) -> None:
    found = load_checkpoint(path)
    assert (found.step, found.optimizer, found.probe) == (7, {"lr": 0.1}, None)
    assert torch.equal(found.model["w"], torch.arange(5000, dtype=torch.float32))


def test_generators_go_on_where_they_were(path: Path) -> None:
    torch.manual_seed(5)
    state = rng_state()
    wanted = torch.rand(3)
    torch.manual_seed(6)
    restore_rng(state)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_checkpoint_is_one_clear_error(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is damaged.*remove it and resume"):
        load_checkpoint(path)


def test_a_single_wrong_bit_in_a_weight_is_noticed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    weights = torch.arange(5000, dtype=torch.float32).numpy().tobytes()
    position = content.find(weights) + 4000
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path)


class _Foreign:
    pass


@pytest.mark.parametrize(
    "content",
    [{"w": torch.ones(2)}, torch.ones(3), [1, 2], _Foreign(), {"format": "another 1"}],
    ids=["state dict", "tensor", "list", "object", "other format"],
)
def test_a_file_of_another_program_is_one_clear_error(tmp_path: Path, content: object) -> None:
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"other\.pt is no checkpoint of a run"):
        load_checkpoint(path)


def test_a_missing_checkpoint_is_an_error_of_storage(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot read .*none\.pt"):
        load_checkpoint(tmp_path / "none.pt")


def test_a_failed_save_leaves_the_earlier_checkpoint(path: Path) -> None:
    before = path.read_bytes()
    broken = Checkpoint(8, {"f": lambda: None}, {}, {}, None, {}, {})
    with pytest.raises(AttributeError, match="pickle"):
        broken.save(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["checkpoint.pt"]
