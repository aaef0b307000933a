"""The files of a run on disk: where each stands, and how it is written whole and read back."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc_fast.files import (
    DamagedFileError,
    atomic_write,
    full_path,
    make_writable_folder,
    storage_error,
)
from tfc_fast.records import Records, empty
from tfc_fast.sinks.parquet import read_columns, read_parquet, write_columns

__all__ = ["TRAIN_COLUMNS", "RunDirectory"]

TRAIN_COLUMNS = ("step", "loss", "accuracy", "lr", "step_seconds")
"""Columns of `train.parquet`: `step` int64, the others float64, `step_seconds` in seconds."""

_TRAIN_DTYPES = {
    name: np.dtype(np.int64 if name == "step" else np.float64) for name in TRAIN_COLUMNS
}


class RunDirectory:
    """The folder of one run; making the object touches no file.

    Args:
        path: The folder; see `tfc_fast.files.full_path` for what becomes of it.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = RunDirectory(f"{folder}/first").create()
        ...     run.write_json(run.config_path, {"depth": 7})
        ...     run.read_json(run.config_path)
        {'depth': 7}
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = full_path(path)

    def __repr__(self) -> str:
        return f"RunDirectory({str(self._path)!r})"

    @property
    def path(self) -> Path:
        """The folder itself."""
        return self._path

    @property
    def config_path(self) -> Path:
        """All settings, versions and the seed. A folder with this file is a run."""
        return self._path / "config.json"

    @property
    def metrics_folder(self) -> Path:
        """Folder of the Parquet parts with the records."""
        return self._path / "metrics"

    @property
    def train_path(self) -> Path:
        """The training log, columns `TRAIN_COLUMNS`."""
        return self._path / "train.parquet"

    @property
    def summary_path(self) -> Path:
        """What the phase analysis found."""
        return self._path / "summary.json"

    @property
    def report_path(self) -> Path:
        """The self-contained page."""
        return self._path / "report.html"

    @property
    def figures_folder(self) -> Path:
        """Folder of the figures."""
        return self._path / "figures"

    @property
    def checkpoint_path(self) -> Path:
        """From where training resumes."""
        return self._path / "checkpoint.pt"

    def create(self) -> RunDirectory:
        """Make the folder, with its parents, and make sure that files can be made in it.

        Returns:
            The run directory itself.

        Raises:
            StorageError: The folder cannot be made or written in.
        """
        make_writable_folder(self._path)
        return self

    def check(self) -> None:
        """Make sure that the folder holds a run.

        Raises:
            FileNotFoundError: `config.json` is missing.
        """
        if not self.config_path.is_file():
            raise FileNotFoundError(
                f"{self._path} is not a run directory: {self.config_path.name} is missing; "
                f"start one with tfc-fast train --out {self._path}"
            )

    def write_json(self, path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
        """Write a JSON object, whole or not at all.

        Args:
            path: A path of this run such as `config_path`, or a name in the folder.
            value: Nested mappings, sequences, strings, numbers (also NumPy's), paths, None. JSON
                knows neither NaN nor infinity: they are stored as null.

        Raises:
            StorageError: The file cannot be written.
            TypeError: A value has no JSON form.
        """
        text = json.dumps(_plain(value, "value"), indent=2, allow_nan=False) + "\n"
        atomic_write(self._path / path, lambda file: file.write(text.encode()))

    def read_json(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Read a JSON object.

        Args:
            path: A path of this run such as `summary_path`, or a name in the folder.

        Returns:
            The object.

        Raises:
            DamagedFileError: The file is no JSON object; the message says where it breaks off.
            FileNotFoundError: The folder is no run, or this file has not been written yet.
            StorageError: The file cannot be read.
        """
        self.check()
        path = self._path / path
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: the run has not come so far yet")
        try:
            value = json.loads(path.read_bytes())
        except OSError as error:
            raise storage_error("read", path, error) from error
        except ValueError as error:
            raise DamagedFileError(f"{path} is damaged: {error}") from error
        if not isinstance(value, dict):
            raise DamagedFileError(
                f"{path} is damaged: a JSON object is wanted, it holds a {type(value).__name__}"
            )
        return value

    def write_train(self, log: Mapping[str, npt.ArrayLike]) -> None:
        """Write the training log, whole or not at all.

        Args:
            log: One 1-D array per name in `TRAIN_COLUMNS`, all of one length; converted to the
                dtypes of the file.

        Raises:
            ImportError: pyarrow is not installed.
            StorageError: The file cannot be written.
            ValueError: A column is missing, unknown, not 1-D or of another length.
        """
        if set(log) != set(TRAIN_COLUMNS):
            raise ValueError(f"log: columns {sorted(log)} given, {sorted(TRAIN_COLUMNS)} wanted")
        columns = {name: np.asarray(log[name], dtype) for name, dtype in _TRAIN_DTYPES.items()}
        shapes = {name: column.shape for name, column in columns.items()}
        if len(set(shapes.values())) > 1 or columns["step"].ndim != 1:
            raise ValueError(f"log: shapes {shapes} given, 1-D columns of one length wanted")
        write_columns(self.train_path, columns)

    def read_train(self) -> dict[str, npt.NDArray[Any]]:
        """Read the training log.

        Returns:
            One array per name in `TRAIN_COLUMNS`; of length 0 if none was written yet.

        Raises:
            DamagedFileError: The file is damaged.
            FileNotFoundError: The folder is no run.
            ImportError: pyarrow is not installed.
            StorageError: The file cannot be read.
        """
        self.check()
        if not self.train_path.exists():
            return {name: np.empty(0, dtype) for name, dtype in _TRAIN_DTYPES.items()}
        return read_columns(self.train_path, _TRAIN_DTYPES)

    def read_metrics(self) -> Records:
        """Read all records of the run.

        Returns:
            The records; of length 0 if none was written yet.

        Raises:
            DamagedFileError: A part is damaged; the message names it.
            FileNotFoundError: The folder is no run.
            ImportError: pyarrow is not installed.
            StorageError: A part cannot be read.
        """
        self.check()
        return read_parquet(self.metrics_folder) if self.metrics_folder.exists() else empty()


def _plain(value: Any, where: str) -> Any:
    """Turn a value into what JSON knows; `where` tells the user which value it does not."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise TypeError(
        f"{where}: a {type(value).__name__} has no JSON form; give numbers, strings, lists or dicts"
    )
