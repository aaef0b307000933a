"""Checkpoints: all that a run needs to go on bitwise as if it had never stopped.

A checkpoint is loaded without running any code in it (`weights_only=True`), and every byte of it
is checked: a damaged one must not become a slightly different training run.
"""

from __future__ import annotations

import dataclasses
import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch

from tfc_fast.files import atomic_write, storage_error

__all__ = ["Checkpoint", "CheckpointError", "load_checkpoint", "restore_rng", "rng_state"]

_FORMAT = "tfc_fast checkpoint 1"
_REMEDY = (
    "restore it from a copy, or remove it and resume: the run then starts again from its first step"
)


class CheckpointError(ValueError):
    """A checkpoint is damaged, of another program, or does not fit the model."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """State of a run after a step.

    Args:
        step: Number of steps done.
        model: `state_dict` of the model.
        optimizer: `state_dict` of the optimizer.
        rng: States of torch's generators; see `rng_state`.
        probe: `state_dict` of the probe, None without one.
        log: Rows of the train log that `train.parquet` did not have yet: tensors `[rows]`, equally
            long. The log file grows with the run and is not rewritten for every checkpoint.
        settings: The settings of the run, plain values.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = f"{folder}/checkpoint.pt"
        ...     Checkpoint(3, {"w": torch.ones(2)}, {}, rng_state(), None, {}, {}).save(path)
        ...     load_checkpoint(path).model
        {'w': tensor([1., 1.])}
    """

    step: int
    model: dict[str, Any]
    optimizer: dict[str, Any]
    rng: dict[str, Any]
    probe: dict[str, Any] | None
    log: dict[str, torch.Tensor]
    settings: dict[str, Any]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the checkpoint, whole or not at all.

        Args:
            path: The file to make or replace.

        Raises:
            StorageError: The file cannot be written; an earlier one is untouched.
        """
        # Not dataclasses.asdict: it would copy every tensor.
        content = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        content["format"] = _FORMAT
        atomic_write(path, lambda file: torch.save(content, file))


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read and check a checkpoint; its tensors lie on the CPU.

    Args:
        path: The file.

    Returns:
        The checkpoint.

    Raises:
        CheckpointError: The file is damaged or no checkpoint of a run.
        StorageError: The file is missing or cannot be read.
    """
    path = Path(path)
    try:
        _check_bytes(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except OSError as error:
        raise storage_error("read", path, error) from error
    except Exception as error:
        # torch reports a foreign file by errors of many kinds, with hints that do not fit here.
        raise CheckpointError(f"{path} is no checkpoint of a run; {_REMEDY}") from error
    names = {field.name for field in dataclasses.fields(Checkpoint)}
    if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of a run; {_REMEDY}")
    if content.keys() != names:
        raise CheckpointError(f"{path} is damaged: it holds {sorted(content)}; {_REMEDY}")
    return Checkpoint(**content)


def rng_state() -> dict[str, Any]:
    """Return the states of torch's global generators: of the CPU, and of each CUDA device in use.

    Returns:
        `{"cpu": uint8 tensor, "cuda": list of uint8 tensors}`; the list is empty where CUDA was
        not used.
    """
    used = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if used else [],
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Put torch's global generators back into a state.

    Args:
        state: As `rng_state` returned it; CUDA states beyond the devices that are here are left
            out, so that a run can move to a machine with fewer.
    """
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available():
        for device, generator in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(generator, device)


def _check_bytes(path: Path) -> None:
    """Check the checksums of the archive that `torch.save` makes; `torch.load` ignores them."""
    with path.open("rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                damaged = archive.testzip()
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); {_REMEDY}") from error
    if damaged is not None:
        raise CheckpointError(f"{path} is damaged (in {damaged}); {_REMEDY}")
