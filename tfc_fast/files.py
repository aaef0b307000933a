"""Files that are either whole or not there, and errors that say which file and what to do."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

__all__ = [
    "DamagedFileError",
    "StorageError",
    "atomic_write",
    "full_path",
    "make_writable_folder",
    "storage_error",
]

_FULL = "free some space, or choose a folder on another disk"
_DENIED = "check the permissions, or choose another folder"
_IN_THE_WAY = "a file stands where a folder is wanted: move it or choose another folder"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: _FULL,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.EISDIR: "a folder stands where a file is wanted: move it or choose another name",
    errno.ENOENT: "its folder is missing: make it, or choose another",
}


class StorageError(OSError):
    """A file or folder could not be read or written; `errno` tells the system's reason, if any."""

    def __init__(self, message: str, cause: OSError | None = None) -> None:
        super().__init__(message)
        if cause is not None:
            self.errno = cause.errno


class DamagedFileError(StorageError):
    """A file was read but does not hold what it should."""


def atomic_write(path: str | os.PathLike[str], writer: Callable[[BinaryIO], Any]) -> None:
    """Write a file whole or not at all.

    The bytes go to `<name>.<random>.tmp` in the same folder, reach the disk (fsync), and only then
    take the final name. Whoever opens `path` sees the old file or the new one, also after a kill or
    a power cut. A kill can leave the temporary file; it is never mistaken for the real one.

    Args:
        path: The file to make or replace; its folder must exist.
        writer: Called once with the binary file to fill.

    Raises:
        StorageError: The file cannot be written; an old file of that name is untouched and no
            temporary file remains. Other errors of `writer` pass through, likewise leaving nothing.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     atomic_write(f"{folder}/a.txt", lambda file: file.write(b"whole"))
        ...     Path(folder, "a.txt").read_bytes()
        b'whole'
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    failure: OSError | None = None
    try:
        with _WatchedFile(temporary, "xb") as raw:
            try:
                with io.BufferedWriter(raw) as file:
                    writer(cast(BinaryIO, file))
                    file.flush()
                    os.fsync(raw.fileno())
            finally:
                failure = raw.failure
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        # The first error is the one to tell: the temporary file may not even have been made.
        with contextlib.suppress(OSError):
            temporary.unlink()
        if failure is None and isinstance(error, OSError):
            failure = error
        if failure is not None and isinstance(error, Exception):
            raise storage_error("write", path, failure) from error
        raise


def full_path(path: str | os.PathLike[str]) -> Path:
    """A path from the root of the file system, without `..` and links, whether it exists or not.

    It leads to the same place after a change of the working folder.

    Example:
        >>> full_path("/proc/../nowhere/./a.txt")
        PosixPath('/nowhere/a.txt')
    """
    return Path(os.path.realpath(path))


def make_writable_folder(path: str | os.PathLike[str]) -> None:
    """Make a folder, with its parents, and make sure that files can be made in it.

    Args:
        path: The folder; it may exist.

    Raises:
        StorageError: It cannot be made, or no file can be made in it.
    """
    path = Path(path)
    trial = path / f"writable.{secrets.token_hex(4)}.tmp"
    try:
        path.mkdir(parents=True, exist_ok=True)
        trial.touch(exist_ok=False)
        trial.unlink()
    except OSError as error:
        if error.errno == errno.ENOENT:
            # Its parents were made or were there: it is no place for folders, such as /proc.
            raise StorageError(
                f"cannot write in folder {path}: the system makes no files or folders there "
                f"({error.strerror}); choose another folder",
                error,
            ) from error
        raise storage_error("write in folder", path, error) from error


def storage_error(action: str, path: Path, cause: OSError) -> StorageError:
    """Make the error that says what could not be done to which file, why, and what to do.

    Args:
        action: The verb, as in "cannot <action> <path>".
        path: The file or folder.
        cause: What the system said.

    Returns:
        The error to raise `from cause`.

    Example:
        >>> print(storage_error("read", Path("a.json"), PermissionError(errno.EACCES, "denied")))
        cannot read a.json: denied; check the permissions, or choose another folder
    """
    reason = cause.strerror or str(cause)
    remedy = _REMEDIES.get(cause.errno or 0)
    return StorageError(
        f"cannot {action} {path}: {reason}" + (f"; {remedy}" if remedy else ""), cause
    )


class _WatchedFile(io.FileIO):
    """Remembers a failed write, because some writers report it as an error of another kind.

    `torch.save` turns a full disk into a RuntimeError about an unexpected position.
    """

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = error
            raise


def _sync_folder(folder: Path) -> None:
    """Bring a rename to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot sync a folder; the file itself is already safe.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
