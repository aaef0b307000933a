"""MNIST and data sets of its format: IDX files, compressed or not, from a local folder.

An IDX file is big-endian: two zero bytes, a type code (8 = unsigned byte), the number of
dimensions, one 32-bit size per dimension, then the data.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tfc_fast.data.arguments import checked_choice, checked_folder
from tfc_fast.data.dataset import RawData

_PREFIX = {"train": "train", "test": "t10k"}
_UNSIGNED_BYTE = 8


def load_mnist(*, folder: Path | None = None, split: str = "train") -> RawData:
    """Read MNIST: `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, or each with .gz.

    Args:
        folder: the folder that holds the files; for the test split they begin with `t10k`.
        split: "train" or "test".

    Returns:
        RawData with uint8 inputs `[n, rows * columns]`, shape `(1, rows, columns)`, 10 classes.

    Raises:
        ValueError: if `folder` is not given, `split` is unknown, or a file is damaged.
        OSError: if the folder or a file is missing or cannot be read.
    """
    return _load(folder, split, name="mnist", description="MNIST, handwritten digits")


def load_fashion_mnist(*, folder: Path | None = None, split: str = "train") -> RawData:
    """Read Fashion-MNIST: files, arguments and errors are those of `load_mnist`."""
    return _load(folder, split, name="fashion-mnist", description="Fashion-MNIST, clothes")


def read_idx(path: Path, *, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read one IDX file of unsigned bytes.

    Args:
        path: the file; one that ends in .gz is decompressed.
        dimensions: how many dimensions it must have.

    Returns:
        uint8 array with the shape that the file states.

    Raises:
        ValueError: if the file is damaged: wrong first bytes, too short or too long.
        OSError: if it cannot be read.
    """
    content = _content(path)
    header_size = 4 + 4 * dimensions
    wanted = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if content[:4] != wanted:
        raise ValueError(
            f"{path} is no IDX file of {dimensions} dimensions of bytes: it begins with "
            f"{content[:4].hex(' ') or 'nothing'}, wanted is {wanted.hex(' ')}"
        )
    if len(content) < header_size:
        raise ValueError(
            f"{path} is truncated: {len(content)} bytes, its header alone has {header_size}; "
            "fetch it again"
        )
    shape = struct.unpack(f">{dimensions}I", content[4:header_size])
    expected = header_size + math.prod(shape)
    if len(content) != expected:
        state = "truncated" if len(content) < expected else "too long"
        raise ValueError(
            f"{path} is {state}: {len(content)} bytes, its header {list(shape)} asks for "
            f"{expected}; fetch it again"
        )
    return np.frombuffer(content, dtype=np.uint8, offset=header_size).reshape(shape)


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is a damaged gzip file ({error}); fetch it again") from error


def _load(folder: Path | None, split: str, *, name: str, description: str) -> RawData:
    prefix = _PREFIX[checked_choice("split", split, tuple(_PREFIX))]
    image_name, label_name = f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte"
    wanted = f"{image_name}[.gz] and {label_name}[.gz]"
    folder = checked_folder(folder, data_set=name, wanted=wanted)
    image_path, label_path = _find(folder, image_name), _find(folder, label_name)
    images = read_idx(image_path, dimensions=3)
    labels = read_idx(label_path, dimensions=1)
    if len(images) != len(labels):
        raise ValueError(
            f"{image_path} holds {len(images)} images but {label_path} holds {len(labels)} labels; "
            "both must come from the same data set"
        )
    return RawData(
        inputs=images,
        labels=labels,
        num_classes=10,
        description=f"{description}, {split} split, {images.shape[1]} x {images.shape[2]} pixels",
        source=f"{image_path} and {label_path.name}",
        shape=(1, *images.shape[1:]),
    )


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"folder {folder} holds neither {name} nor {name}.gz")
