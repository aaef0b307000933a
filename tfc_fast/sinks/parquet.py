"""Records on disk as numbered Parquet parts: `part-00000.parquet`, `part-00001.parquet` and so on.

A part is written under a temporary name, brought to the disk and then renamed, so every part that
can be seen is whole. Each page carries a checksum: a part that was damaged later is noticed.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc_fast.files import (
    DamagedFileError,
    StorageError,
    atomic_write,
    full_path,
    make_writable_folder,
    storage_error,
)
from tfc_fast.records import Records, concatenate, empty, select, validate

__all__ = ["ParquetSink", "read_columns", "read_parquet", "truncate_parquet", "write_columns"]

_PART = re.compile(r"part-(\d{5,})\.parquet")


class ParquetSink:
    """Writes records as Parquet parts into a folder; the sink of a run on disk.

    By default every write becomes a part at once, so a killed process loses only what the probe had
    not handed over. Two runs in one folder would read as one: a folder with records is refused
    unless `append` says that this run goes on with them.

    A write or flush that fails (disk full, folder gone) keeps the records: do not write them again,
    the next write or flush saves them first.

    Args:
        folder: Made, with its parents, if it is not there.
        rows_per_part: Records to gather before a part is written. More than 1 makes fewer, larger
            files of small writes, but a killed process then loses what was gathered; `flush` writes
            a part in any case.
        append: Whether records that are in the folder already are gone on with; numbering goes on
            after their parts. `truncate_parquet` first drops those beyond a checkpoint.

    Raises:
        FileExistsError: The folder holds records already, and `append` is false.
        ImportError: pyarrow is not installed.
        StorageError: The folder cannot be made or written in.
        TypeError: `rows_per_part` is no int, or `append` no bool.
        ValueError: `rows_per_part` is less than 1.

    Example:
        >>> import tempfile
        >>> from tfc_fast.records import empty
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sink = ParquetSink(folder)
        ...     sink.write(empty())
        ...     sink.close()
        ...     read_parquet(folder)["step"]
        array([], dtype=int64)
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, rows_per_part: int = 1, append: bool = False
    ) -> None:
        if isinstance(rows_per_part, bool) or not isinstance(rows_per_part, int):
            raise TypeError(f"rows_per_part: {rows_per_part!r} given, an int is wanted")
        if rows_per_part < 1:
            raise ValueError(f"rows_per_part: {rows_per_part} given, at least 1 is wanted")
        if not isinstance(append, bool):
            raise TypeError(f"append: {append!r} given, True or False is wanted")
        _import_pyarrow()
        self._folder = full_path(folder)
        make_writable_folder(self._folder)
        parts = _parts(self._folder)
        if parts and not append:
            raise FileExistsError(
                f"folder: {self._folder} holds records already ({parts[0][1].name}); append=True "
                "goes on with them, or give another folder"
            )
        self._rows_per_part = rows_per_part
        self._number = parts[-1][0] + 1 if parts else 0
        self._waiting: list[Records] = []
        self._closed = False

    @property
    def folder(self) -> Path:
        """The folder of the parts."""
        return self._folder

    def write(self, records: Records) -> None:
        """Take one batch of whole steps.

        Args:
            records: See `tfc_fast.records.Records`; copied.

        Raises:
            StorageError: The part cannot be written; its records are kept for the next flush.
            TypeError: A column has the wrong type.
            ValueError: A column is missing, unknown or of another length; or the sink is closed.
        """
        if self._closed:
            raise ValueError(f"the sink of {self._folder} is closed; make a new one to go on")
        validate(records)
        if len(records["step"]) > 0:
            self._waiting.append({name: column.copy() for name, column in records.items()})
        if sum(len(waiting["step"]) for waiting in self._waiting) >= self._rows_per_part:
            self.flush()

    def flush(self) -> None:
        """Write all waiting records as one part.

        Raises:
            StorageError: The part cannot be written; its records are kept for the next flush.
        """
        if not self._waiting:
            return
        records = concatenate(self._waiting)
        path = self._folder / f"part-{self._number:05d}.parquet"
        try:
            if path.exists():
                raise StorageError(f"cannot write {path}: another sink has written it meanwhile")
            write_columns(path, records)
        except StorageError as error:
            # One batch, not many, waits for the next try.
            self._waiting = [records]
            steps = records["step"]
            raise StorageError(
                f"{error} (steps {steps[0]} to {steps[-1]} are kept in memory and are saved by the "
                "next write or flush that succeeds)",
                error,
            ) from error
        # In one statement: an interrupt between the two would save records twice or lose them.
        self._number, self._waiting = self._number + 1, []

    def close(self) -> None:
        """Flush and refuse further writes. A second call does nothing.

        Raises:
            StorageError: The last part cannot be written; the sink stays open for another try.
        """
        self.flush()
        self._closed = True


def read_parquet(folder: str | os.PathLike[str]) -> Records:
    """Read all parts of a folder, in the order of their numbers.

    Other files, among them `*.tmp` left by a killed process, are ignored.

    Args:
        folder: Where a `ParquetSink` wrote.

    Returns:
        Records as `tfc_fast.records.Records`, `site` with dtype object; `empty()` without parts.

    Raises:
        DamagedFileError: A part is cut off, altered or lacks a column; the message names it.
        FileNotFoundError: `folder` does not exist.
        ImportError: pyarrow is not installed.
        StorageError: A part cannot be read.
    """
    return concatenate([_read_part(path) for _, path in _parts(Path(folder))])


def truncate_parquet(folder: str | os.PathLike[str], last_step: int) -> None:
    """Drop the records of all steps after `last_step`, to resume from there.

    Works from the last part back to the first: cut short at any moment, even by a kill, the folder
    holds whole parts and the call can be repeated.

    Args:
        folder: Where a `ParquetSink` wrote; no sink may be writing.
        last_step: The last step to keep; -1 drops everything.

    Raises:
        DamagedFileError: A part cannot be understood; the message names it.
        FileNotFoundError: `folder` does not exist.
        ImportError: pyarrow is not installed.
        StorageError: A part cannot be read, replaced or removed.
    """
    for _, path in reversed(_parts(Path(folder))):
        kept = read_columns(path, {"step": np.dtype(np.int64)})["step"] <= last_step
        if kept.all():
            continue
        if kept.any():
            write_columns(path, select(_read_part(path), kept))
        else:
            try:
                path.unlink()
            except OSError as error:
                raise storage_error("remove", path, error) from error


def write_columns(path: Path, columns: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write equal-length columns as one Parquet file, whole or not at all.

    Args:
        path: The file; see `tfc_fast.files.atomic_write`.
        columns: 1-D arrays: integers, floats (NaN stays NaN) or strings, which are stored as
            indices into a dictionary.

    Raises:
        ImportError: pyarrow is not installed.
        StorageError: The file cannot be written.
    """
    arrow, parquet = _import_pyarrow()
    arrays = {name: arrow.array(column) for name, column in columns.items()}
    for name, array in arrays.items():
        if arrow.types.is_string(array.type):
            arrays[name] = array.dictionary_encode()
    floats = [name for name, array in arrays.items() if arrow.types.is_floating(array.type)]
    table = arrow.table(arrays)
    atomic_write(
        path,
        lambda file: parquet.write_table(
            table,
            file,
            compression="zstd",
            # Measured numbers hardly repeat: splitting their bytes halves the file and is three
            # times as fast as looking for repetitions.
            use_dictionary=[name for name in arrays if name not in floats],
            column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT"),
            write_page_checksum=True,
        ),
    )


def read_columns(path: Path, dtypes: Mapping[str, np.dtype[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Read columns of one Parquet file.

    Args:
        path: The file.
        dtypes: The columns wanted, with their dtypes; dtype object stands for strings.

    Returns:
        New, writable arrays of these dtypes.

    Raises:
        DamagedFileError: The file cannot be understood, or a column is missing or of another kind.
        ImportError: pyarrow is not installed.
        StorageError: The file cannot be read.
    """
    arrow, parquet = _import_pyarrow()
    try:
        # Not read_table: it would take a folder called `lr=0.1` for a column of the data. And not a
        # file of Arrow's: a path need not be UTF-8.
        with path.open("rb") as file:
            source = parquet.ParquetFile(file, page_checksum_verification=True)
            missing = [name for name in dtypes if name not in source.schema_arrow.names]
            if missing:
                raise DamagedFileError(f"{path} is damaged: columns {missing} are missing")
            table = source.read(columns=list(dtypes))
            return {name: _to_numpy(table[name], dtype) for name, dtype in dtypes.items()}
    except (arrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, StorageError):
            raise
        if isinstance(error, OSError) and error.errno:
            raise storage_error("read", path, error) from error
        raise DamagedFileError(
            f"{path} is damaged: {error}; restore it, or remove it to go on without its rows"
        ) from error


def _to_numpy(column: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    arrow, _ = _import_pyarrow()
    if column.null_count > 0 and dtype.kind != "f":
        raise ValueError(f"{column.null_count} values of an integer or string column are null")
    if dtype != np.dtype(object):
        # Other tools may have rewritten the file with nulls for NaN, or with narrower floats.
        return np.array(column.cast(arrow.from_numpy_dtype(dtype)).to_numpy(), dtype=dtype)
    if not arrow.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.unify_dictionaries().combine_chunks()
    names = np.array(column.dictionary.to_pylist(), dtype=object)
    indices: npt.NDArray[np.int32] = column.indices.to_numpy(zero_copy_only=False)
    return names[indices]


def _read_part(path: Path) -> Records:
    records = read_columns(path, {name: column.dtype for name, column in empty().items()})
    try:
        validate(records)
    except (TypeError, ValueError) as error:
        raise DamagedFileError(f"{path} is damaged: {error}") from error
    return records


def _parts(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the metrics folder of a run")
    try:
        found = [(_PART.fullmatch(path.name), path) for path in folder.iterdir()]
    except OSError as error:
        raise storage_error("read folder", folder, error) from error
    return sorted((int(match[1]), path) for match, path in found if match)


def _import_pyarrow() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ImportError(
            "Parquet files need pyarrow, which cannot be imported "
            f"({error}); install it with: pip install 'tfc_fast[train]'"
        ) from error
