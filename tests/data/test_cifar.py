"""CIFAR-10 from batches that the tests write, as Python 2 wrote them and as Python 3 does."""

from __future__ import annotations

import os
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tfc_fast.data import load_dataset

Images = npt.NDArray[np.uint8]


def python2_string(value: bytes) -> bytes:
    if len(value) < 256:
        return b"U" + bytes([len(value)]) + value
    return b"T" + struct.pack("<i", len(value)) + value


def python2_integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def python2_batch(images: Images, labels: list[int], array_module: bytes = b"numpy.core") -> bytes:
    """The opcodes that Python 2 and its numpy put into the published batches."""
    s, i = python2_string, python2_integer
    dtype = b"cnumpy\ndtype\n" + s(b"u1") + i(0) + i(1) + b"\x87R"
    dtype += b"(" + i(3) + s(b"|") + b"NNN" + i(-1) + i(-1) + i(0) + b"tb"
    array = b"c" + array_module + b".multiarray\n_reconstruct\ncnumpy\nndarray\n"
    array += i(0) + b"\x85" + s(b"b") + b"\x87R"
    shape = i(images.shape[0]) + i(images.shape[1]) + b"\x86"
    array += b"(" + i(1) + shape + dtype + b"\x89" + s(images.tobytes()) + b"tb"
    return (
        (b"\x80\x02}(" + s(b"batch_label") + s(b"training batch 1 of 5"))
        + (s(b"labels") + b"](" + b"".join(map(i, labels)) + b"e")
        + (s(b"data") + array)
        + (s(b"filenames") + b"](" + s(b"a_s_000004.png") + b"eu.")
    )


def make(rows: int, seed: int) -> tuple[Images, list[int]]:
    generator = np.random.default_rng(seed)
    images = generator.integers(0, 256, size=(rows, 3072), dtype=np.uint8)
    return images, generator.integers(0, 10, size=rows).tolist()


def write_train(folder: Path) -> tuple[Images, list[int]]:
    folder.mkdir(exist_ok=True)
    batches = [make(rows=i, seed=i) for i in range(1, 6)]
    for i, (images, labels) in enumerate(batches, start=1):
        (folder / f"data_batch_{i}").write_bytes(python2_batch(images, labels))
    return np.concatenate([b[0] for b in batches]), [label for b in batches for label in b[1]]


def load_test_batch(folder: Path, content: Any, protocol: int = 4) -> Any:
    data = content if isinstance(content, bytes) else pickle.dumps(content, protocol)
    (folder / "test_batch").write_bytes(data)
    return load_dataset("cifar10", folder=folder, split="test", standardize="none")


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-py"])
def test_five_batches_in_order(tmp_path: Path, subfolder: str) -> None:
    images, labels = write_train(tmp_path / subfolder)
    data = load_dataset("cifar10", folder=tmp_path, standardize="none")
    np.testing.assert_array_equal(data.inputs.numpy(), images.astype(np.float32))
    assert data.labels.tolist() == labels
    assert (data.num_classes, data.shape) == (10, (3, 32, 32))


@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"])
def test_python2_test_batch(tmp_path: Path, module: bytes) -> None:
    images, labels = make(rows=4, seed=0)
    data = load_test_batch(tmp_path, python2_batch(images, labels, module))
    np.testing.assert_array_equal(data.inputs.numpy(), images)
    assert data.labels.tolist() == labels


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("keys", ["bytes", "text"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_python3_batch(tmp_path: Path, protocol: int, keys: str, order: Any) -> None:
    images, labels = make(rows=4, seed=0)
    content: dict[Any, Any] = {"data": np.array(images, order=order), "labels": labels}
    if keys == "bytes":
        content = {key.encode(): value for key, value in content.items()}
    data = load_test_batch(tmp_path, content, protocol)
    np.testing.assert_array_equal(data.inputs.numpy(), images)
    assert data.labels.tolist() == labels


class Malicious:
    """Calls a function when it is unpickled in the ordinary way."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_malicious_pickle_is_refused(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "was run"
    content = {"data": Malicious(os.mkdir, str(marker)), "labels": [0]}
    with pytest.raises(ValueError, match=rf"test_batch .* asks for {os.name}\.mkdir, .*trust"):
        load_test_batch(tmp_path, content, protocol)
    assert not marker.exists()
    pickle.loads(pickle.dumps(content, protocol))
    assert marker.exists()  # so the pickle would have run it


@pytest.mark.parametrize(
    "name", ["os\nsystem", "numpy\nload", "numpy\nfromfile", "_codecs\nlookup"]
)
def test_functions_that_no_batch_needs_are_refused(tmp_path: Path, name: str) -> None:
    content = b"\x80\x02c" + name.encode() + b"\nU\x04true\x85R."
    with pytest.raises(ValueError, match=f"asks for {name.replace(chr(10), '.')}"):
        load_test_batch(tmp_path, content)


def test_encoding_is_latin1_only(tmp_path: Path) -> None:
    content = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R."
    with pytest.raises(ValueError, match="encoding 'rot13'"):
        load_test_batch(tmp_path, content)


@pytest.mark.parametrize("kept", [0, 1, 50, 3000, -1])
def test_truncated_batch(tmp_path: Path, kept: int) -> None:
    content = python2_batch(*make(rows=2, seed=0))
    with pytest.raises(ValueError, match="test_batch is no readable CIFAR-10 batch"):
        load_test_batch(tmp_path, content[:kept])


def test_bytes_that_are_no_pickle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="test_batch is no readable CIFAR-10 batch"):
        load_test_batch(tmp_path, b"<html>not found</html>")


IMAGES, LABELS = make(rows=3, seed=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "holds a list, wanted is a dict"),
        ({"labels": LABELS}, "has no data; found are labels"),
        ({}, "has no data and no labels; found are no keys"),
        ({"data": [1], "labels": LABELS}, r"data must be a uint8 array \[n, 3072\]"),
        ({"data": IMAGES.astype(np.float32), "labels": LABELS}, "uint8 array, got type 'f4'"),
        ({"data": IMAGES.astype(object), "labels": LABELS}, "uint8 array, got type 'O8'"),
        ({"data": IMAGES[:, :100], "labels": LABELS}, r"shape \[n, 3072\], got \(3, 100\)"),
        ({"data": IMAGES, "labels": LABELS[:2]}, "3 images but 2 labels"),
        ({"data": IMAGES, "labels": [0, 1, 10]}, "labels must lie from 0 to 9, got 0 to 10"),
        ({"data": IMAGES, "labels": [0, -1, 2]}, "labels must lie from 0 to 9, got -1 to 2"),
        ({"data": IMAGES, "labels": [0, 1.0, 2]}, "labels must be a list of integers"),
        ({"data": IMAGES, "labels": b"abc"}, "labels must be a list of integers"),
    ],
)
def test_content_that_does_not_fit(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"test_batch.*{message}"):
        load_test_batch(tmp_path, content)


def test_stated_shape_larger_than_the_data(tmp_path: Path) -> None:
    content = python2_batch(*make(rows=2, seed=0)).replace(
        python2_integer(2) + python2_integer(3072), python2_integer(9) + python2_integer(3072)
    )
    with pytest.raises(ValueError, match=r"data is damaged: 6144 bytes for the shape \[9, 3072\]"):
        load_test_batch(tmp_path, content)


def test_missing_folder_and_batches(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="folder must be given for 'cifar10'"):
        load_dataset("cifar10")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        load_dataset("cifar10", folder=tmp_path / "nowhere")
    write_train(tmp_path)
    (tmp_path / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match=r"lacks data_batch_3; .* python version"):
        load_dataset("cifar10", folder=tmp_path)
