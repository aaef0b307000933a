"""The history of a run in memory.

A write costs one copy of its columns. Batches are kept as they come and joined only when the
history is asked for; small ones are merged early, so that a run drained step by step does not
become millions of tiny arrays.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import numpy.typing as npt

from tfc_fast.records import Records, concatenate, validate

__all__ = ["MemorySink"]

_MERGE_BELOW = 4096
"""Rows below which a chunk is merged with its like; above, the cost of an array is negligible."""


class MemorySink:
    """Keeps records in memory, all of them or the newest.

    A record takes 172 bytes: sites are kept as numbers into one table of names.

    Args:
        max_records: The most records to keep. Beyond it the oldest steps are dropped, each as a
            whole; the newest step stays even if it alone has more. None keeps everything.

    Raises:
        TypeError: `max_records` is no int.
        ValueError: `max_records` is less than 1.

    Example:
        >>> from tfc_fast.records import empty
        >>> sink = MemorySink(max_records=100_000)
        >>> sink.write(empty())
        >>> sink.history()["feature_cos_between"]
        array([], dtype=float64)
    """

    def __init__(self, max_records: int | None = None) -> None:
        if max_records is not None:
            if isinstance(max_records, bool) or not isinstance(max_records, int):
                raise TypeError(f"max_records: {max_records!r} given, an int or None is wanted")
            if max_records < 1:
                raise ValueError(f"max_records: {max_records} given, at least 1 is wanted")
        self._max_records = max_records
        # Every chunk has the columns of Records, `site` as codes, and holds whole steps.
        self._chunks: deque[Records] = deque()
        self._rows = 0
        self._sites = _Codes()

    def __len__(self) -> int:
        """Number of records kept."""
        return self._rows

    def write(self, records: Records) -> None:
        """Take one batch of whole steps.

        Args:
            records: See `tfc_fast.records.Records`; copied.

        Raises:
            TypeError: A column has the wrong type.
            ValueError: A column is missing, unknown or of another length.
        """
        validate(records)
        if len(records["step"]) == 0:
            return
        chunk = {name: column.copy() for name, column in records.items() if name != "site"}
        chunk["site"] = self._sites.encode(records["site"])
        self._chunks.append(chunk)
        self._rows += _rows(chunk)
        if self._max_records is not None:
            self._drop_oldest(self._rows - self._max_records)
        self._merge_small()

    def flush(self) -> None:
        """Do nothing: what was written can be read at once."""

    def close(self) -> None:
        """Do nothing: the history stays readable."""

    def history(self) -> Records:
        """Return everything kept.

        Returns:
            New arrays, in the order written; `site` has dtype object. The history itself does not
            change when they do.
        """
        history = concatenate(self._chunks)
        history["site"] = self._sites.decode(history["site"])
        return history

    def _drop_oldest(self, excess: int) -> None:
        """Drop at least `excess` of the oldest records, but no part of a step nor the newest."""
        while excess > 0:
            step = self._chunks[0]["step"]
            inner_ends = np.flatnonzero(np.diff(step)) + 1
            enough = inner_ends[inner_ends >= excess]
            if len(enough) > 0:
                cut = int(enough[0])
            elif len(self._chunks) > 1:
                cut = len(step)
            elif len(inner_ends) > 0:
                cut = int(inner_ends[-1])
            else:
                return
            self._cut_oldest_chunk(cut)
            excess -= cut

    def _cut_oldest_chunk(self, cut: int) -> None:
        chunk = self._chunks.popleft()
        self._rows -= cut
        left = _rows(chunk) - cut
        if left == 0:
            return
        rest = {name: column[cut:] for name, column in chunk.items()}
        base = rest["step"].base
        # A view makes the cut cheap but keeps the dropped rows in memory: copy once they are most.
        if base is not None and left <= len(base) // 2:
            rest = {name: column.copy() for name, column in rest.items()}
        self._chunks.appendleft(rest)

    def _merge_small(self) -> None:
        """Merge the newest chunks, like the carries of a binary counter.

        So each record is copied at most log2(_MERGE_BELOW) times more.
        """
        chunks = self._chunks
        while len(chunks) > 1 and _rows(chunks[-2]) <= _rows(chunks[-1]) < _MERGE_BELOW:
            newest = chunks.pop()
            chunks[-1] = concatenate([chunks[-1], newest])


class _Codes(dict[str, int]):
    """Names numbered in the order of their first appearance."""

    def __missing__(self, name: str) -> int:
        code = self[name] = len(self)
        return code

    def encode(self, names: npt.NDArray[np.str_ | np.object_]) -> npt.NDArray[np.int32]:
        # `map` over the bound lookup runs in C and beats np.unique, which sorts.
        return np.fromiter(map(self.__getitem__, names.tolist()), dtype=np.int32, count=len(names))

    def decode(self, codes: npt.NDArray[np.int32]) -> npt.NDArray[np.object_]:
        if len(codes) == 0:
            return np.empty(0, dtype=object)
        return np.array(list(self), dtype=object)[codes]


def _rows(chunk: Records) -> int:
    return len(chunk["step"])
