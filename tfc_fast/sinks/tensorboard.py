"""Records as TensorBoard curves, tag `tfc/<column>/<site>`.

All values of a step go into one event: an event for each value would take several times as long.
"""

from __future__ import annotations

import importlib
import itertools
import os
from typing import Any

import numpy as np

from tfc_fast.files import full_path, make_writable_folder, storage_error
from tfc_fast.records import VALUE_COLUMNS, Records, validate

__all__ = ["TensorBoardSink"]

_FLUSH_SECONDS = 30
"""How long a curve may lag behind; TensorBoard itself looks for news about as often."""


class TensorBoardSink:
    """Writes every column of every site as a TensorBoard curve.

    TensorBoard keeps float32, so use it to look and a `ParquetSink` to compute. NaN ("not
    measured") is left out. If the disk fails, curves lose what was on its way; every later write
    says so again.

    Args:
        log_dir: Folder of the event files, made if it is not there.
        purge_step: When a run resumes, its first new step: TensorBoard then hides what earlier
            event files in `log_dir` have from this step on.

    Raises:
        ImportError: tensorboard is not installed.
        StorageError: The folder cannot be made or written in.

    Example:
        >>> import tempfile
        >>> from tfc_fast.records import empty
        >>> with tempfile.TemporaryDirectory() as log_dir:
        ...     sink = TensorBoardSink(log_dir)
        ...     sink.write(empty())
        ...     sink.close()
    """

    def __init__(self, log_dir: str | os.PathLike[str], *, purge_step: int | None = None) -> None:
        self._writer_module, self._events, self._summaries = _import_tensorboard()
        self._log_dir = full_path(log_dir)
        make_writable_folder(self._log_dir)
        self._tags: dict[str, list[str]] = {}
        self._closed = False
        try:
            self._writer = self._writer_module.FileWriter(self._log_dir, flush_secs=_FLUSH_SECONDS)
            if purge_step is not None:
                self._purge(purge_step)
        except OSError as error:
            raise storage_error("write events in", self._log_dir, error) from error

    def write(self, records: Records) -> None:
        """Take one batch of whole steps.

        Args:
            records: See `tfc_fast.records.Records`.

        Raises:
            StorageError: An event file cannot be written.
            TypeError: A column has the wrong type.
            ValueError: A column is missing, unknown or of another length; or the sink is closed.
        """
        if self._closed:
            raise ValueError(f"the sink of {self._log_dir} is closed; make a new one to go on")
        validate(records)
        steps = records["step"]
        if len(steps) == 0:
            return
        sites = [str(site) for site in records["site"]]
        values = np.stack([records[name] for name in VALUE_COLUMNS], axis=1)
        starts = [0, *(np.flatnonzero(np.diff(steps)) + 1).tolist(), len(steps)]
        try:
            for start, end in itertools.pairwise(starts):
                summary = self._summary(sites[start:end], values[start:end].tolist())
                self._writer.add_summary(summary, int(steps[start]))
        except OSError as error:
            raise storage_error("write events in", self._log_dir, error) from error

    def flush(self) -> None:
        """Bring all events to the file.

        Raises:
            StorageError: The event file cannot be written.
        """
        if self._closed:
            return
        try:
            self._writer.flush()
        except OSError as error:
            raise storage_error("write events in", self._log_dir, error) from error

    def close(self) -> None:
        """Flush and close the event file. A second call does nothing.

        Raises:
            StorageError: The event file cannot be written; the sink is closed all the same.
        """
        if self._closed:
            return
        self._closed = True
        try:
            self._writer.close()
        except OSError as error:
            raise storage_error("write events in", self._log_dir, error) from error

    def _summary(self, sites: list[str], rows: list[list[float]]) -> Any:
        value = self._summaries.Summary.Value
        return self._summaries.Summary(
            value=[
                value(tag=tag, simple_value=number)
                for site, row in zip(sites, rows, strict=True)
                for tag, number in zip(self._tags_of(site), row, strict=True)
                # Only NaN differs from itself; an infinite value is a measurement and is shown.
                if number == number
            ]
        )

    def _tags_of(self, site: str) -> list[str]:
        if site not in self._tags:
            self._tags[site] = [f"tfc/{column}/{site}" for column in VALUE_COLUMNS]
        return self._tags[site]

    def _purge(self, step: int) -> None:
        log = self._events.SessionLog(status=self._events.SessionLog.START)
        self._writer.add_event(self._events.Event(session_log=log), step)


def _import_tensorboard() -> tuple[Any, Any, Any]:
    try:
        return (
            importlib.import_module("torch.utils.tensorboard"),
            importlib.import_module("tensorboard.compat.proto.event_pb2"),
            importlib.import_module("tensorboard.compat.proto.summary_pb2"),
        )
    except ImportError as error:
        raise ImportError(
            f"TensorBoardSink needs tensorboard, which cannot be imported ({error}); "
            "install it with: pip install 'tfc_fast[tensorboard]'"
        ) from error
