"""CIFAR-10 from its python batches, read without running anything that a batch could contain.

A batch is a pickle, and a pickle may call any function. Here the few names that an honest batch
uses stand for plain records of this file, every other name is refused, and the array is built from
the bytes afterwards: no function outside this file is ever called by the pickle.
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfc_fast.data.arguments import checked_choice, checked_folder
from tfc_fast.data.dataset import RawData

_BATCHES = {
    "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test": ("test_batch",),
}
_SUBFOLDER = "cifar-10-batches-py"
_SHAPE = (3, 32, 32)


def load_cifar10(*, folder: Path | None = None, split: str = "train") -> RawData:
    """Read CIFAR-10: `data_batch_1` to `data_batch_5`, or `test_batch`, of its python version.

    Args:
        folder: the folder that holds the batches, or `cifar-10-batches-py` with them in it.
        split: "train" or "test".

    Returns:
        RawData with uint8 inputs `[n, 3072]`, shape `(3, 32, 32)`, 10 classes.

    Raises:
        ValueError: if `folder` is not given, `split` is unknown, or a batch is damaged or asks
            to call a function that no batch needs.
        OSError: if the folder or a batch is missing or cannot be read.
    """
    names = _BATCHES[checked_choice("split", split, tuple(_BATCHES))]
    folder = checked_folder(folder, data_set="cifar10", wanted=", ".join(names))
    if (folder / _SUBFOLDER).is_dir():
        folder = folder / _SUBFOLDER
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"folder {folder} lacks {', '.join(missing)}; 'cifar10' wants {', '.join(names)} "
            "of the python version of CIFAR-10"
        )
    batches = [read_batch(folder / name) for name in names]
    return RawData(
        inputs=np.concatenate([images for images, _ in batches]),
        labels=np.concatenate([labels for _, labels in batches]),
        num_classes=10,
        description=f"CIFAR-10, {split} split, 3 x 32 x 32 pixels",
        source=str(folder),
        shape=_SHAPE,
    )


def read_batch(path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read images `[n, 3072]` and labels `[n]` from one batch file.

    Raises:
        ValueError: if the batch is damaged or refused; the message says why.
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        try:
            # Python 2 wrote the batches: its strings come as bytes.
            content = _BatchUnpickler(file, encoding="bytes").load()
        except OSError:
            raise
        # A damaged pickle can raise nearly anything (the pickle module says so).
        except Exception as error:
            raise ValueError(f"{path} is no readable CIFAR-10 batch: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, wanted is a dict")
    fields = {
        key.decode("latin1") if isinstance(key, bytes) else key: content[key] for key in content
    }
    missing = {"data", "labels"} - fields.keys()
    if missing:
        raise ValueError(
            f"{path} has no {' and no '.join(sorted(missing))}; "
            f"found are {', '.join(sorted(map(str, fields))) or 'no keys'}"
        )
    images = _images(fields["data"], path)
    labels = fields["labels"]
    if not isinstance(labels, list) or any(type(label) is not int for label in labels):
        raise ValueError(f"{path}: labels must be a list of integers")
    if len(labels) != len(images):
        raise ValueError(f"{path} holds {len(images)} images but {len(labels)} labels")
    if any(not 0 <= label < 10 for label in labels):
        raise ValueError(f"{path}: labels must lie from 0 to 9, got {min(labels)} to {max(labels)}")
    return images, np.array(labels, dtype=np.int64)


class _DtypeRecord:
    """Stands for numpy.dtype: remembers the type code alone."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        # Byte order and alignment: without meaning for single bytes, the only type taken.
        del state


class _ArrayRecord:
    """Stands for a numpy array: remembers shape, type, order and bytes."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, column_major, content = state
        self.state = (shape, dtype, column_major, content)


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> _ArrayRecord:
    record = _ArrayRecord()
    record.state = (shape, dtype, order in ("F", b"F"), content)
    return record


def _encode(text: Any, encoding: Any) -> bytes:
    # How Python 3 writes bytes for protocols that know only text.
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"bytes written in the encoding {encoding!r}")
    return text.encode("latin1")


# numpy.core became numpy._core in numpy 2; either may have written the file.
_ADMITTED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ArrayRecord,
    ("numpy", "dtype"): _DtypeRecord,
    ("numpy.core.multiarray", "_reconstruct"): _ArrayRecord,
    ("numpy._core.multiarray", "_reconstruct"): _ArrayRecord,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
    ("_codecs", "encode"): _encode,
}


class _BatchUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"it asks for {module}.{name}, which no honest batch needs; "
                "do not trust this file, fetch it again from its publisher"
            ) from None


def _images(record: Any, path: Path) -> npt.NDArray[np.uint8]:
    features = math.prod(_SHAPE)
    if not isinstance(record, _ArrayRecord) or not record.state:
        raise ValueError(f"{path}: data must be a uint8 array [n, {features}]")
    shape, dtype, column_major, content = record.state
    code = dtype.code if isinstance(dtype, _DtypeRecord) else None
    if code not in ("u1", "|u1") or not isinstance(content, (bytes, bytearray)):
        raise ValueError(f"{path}: data must be a uint8 array, got type {code!r}")
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] != features:
        raise ValueError(f"{path}: data must have shape [n, {features}], got {shape!r}")
    rows, left_over = divmod(len(content), features)
    if left_over or shape[0] != rows:
        raise ValueError(
            f"{path}: data is damaged: {len(content)} bytes for the shape {list(shape)}"
        )
    pixels = np.frombuffer(content, dtype=np.uint8)
    return pixels.reshape(features, rows).T if column_major else pixels.reshape(rows, features)
