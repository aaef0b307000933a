"""MNIST-like data from IDX files that the tests write themselves."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tfc_fast.data import load_dataset

Images = npt.NDArray[np.uint8]


def idx_bytes(array: Images) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


def write(folder: Path, prefix: str, images: Images, labels: Images, suffix: str = "") -> None:
    folder.mkdir(exist_ok=True)
    for stem, array in (("images-idx3", images), ("labels-idx1", labels)):
        content = idx_bytes(array)
        path = folder / f"{prefix}-{stem}-ubyte{suffix}"
        path.write_bytes(gzip.compress(content) if suffix else content)


@pytest.fixture
def arrays() -> tuple[Images, Images]:
    generator = np.random.default_rng(3)
    images = generator.integers(0, 256, size=(12, 4, 5), dtype=np.uint8)
    return images, generator.integers(0, 10, size=12, dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path, arrays: tuple[Images, Images]) -> Path:
    write(tmp_path, "train", *arrays)
    return tmp_path


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_pixels_and_labels_are_those_of_the_files(
    tmp_path: Path, arrays: tuple[Images, Images], name: str, suffix: str
) -> None:
    images, labels = arrays
    write(tmp_path, "train", images, labels, suffix)
    data = load_dataset(name, folder=tmp_path, standardize="none")
    np.testing.assert_array_equal(data.inputs.numpy(), images.reshape(12, 20).astype(np.float32))
    np.testing.assert_array_equal(data.labels.numpy(), labels)
    assert (data.num_classes, data.shape, data.name) == (10, (1, 4, 5), name)


def test_split_selects_the_files(folder: Path, arrays: tuple[Images, Images]) -> None:
    images, labels = arrays
    write(folder, "t10k", images[:5], labels[:5])
    assert len(load_dataset("mnist", folder=folder)) == 12
    test = load_dataset("mnist", folder=str(folder), split="test", standardize="none")
    np.testing.assert_array_equal(test.inputs.numpy(), images[:5].reshape(5, 20))
    assert "test" in test.description


def test_test_split_is_treated_as_the_training_split_was(
    folder: Path, arrays: tuple[Images, Images]
) -> None:
    write(folder, "t10k", arrays[0][:5], arrays[1][:5])
    train = load_dataset("mnist", folder=folder)
    assert train.standardization is not None
    test = load_dataset("mnist", folder=folder, split="test", standardize=train.standardization)
    np.testing.assert_array_equal(test.inputs.numpy(), train.inputs.numpy()[:5])


def test_unknown_split(folder: Path) -> None:
    with pytest.raises(ValueError, match="split must be one of train, test; got 'valid'"):
        load_dataset("mnist", folder=folder, split="valid")


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (0, r"train-images-idx3-ubyte is no IDX file .* begins with nothing"),
        (2, r"train-images-idx3-ubyte is no IDX file .* begins with 00 00, wanted is 00 00 08 03"),
        (10, r"train-images-idx3-ubyte is truncated: 10 bytes, its header alone has 16"),
        (200, r"truncated: 200 bytes, its header \[12, 4, 5\] asks for 256"),
        (255, r"truncated: 255 bytes"),
    ],
)
def test_truncated_images(folder: Path, kept: int, message: str) -> None:
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=message):
        load_dataset("mnist", folder=folder)


def test_trailing_bytes(folder: Path) -> None:
    path = folder / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=r"train-labels-idx1-ubyte is too long: 21 bytes.* 20"):
        load_dataset("mnist", folder=folder)


@pytest.mark.parametrize("magic", [b"\0\0\x0d\x03", b"\0\0\x08\x01", b"\x89PNG"])
def test_wrong_magic(folder: Path, magic: bytes) -> None:
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(magic + path.read_bytes()[4:])
    with pytest.raises(ValueError, match=f"begins with {magic.hex(' ')}, wanted is 00 00 08 03"):
        load_dataset("mnist", folder=folder)


@pytest.mark.parametrize("damage", ["truncated", "checksum", "code", "not gzip"])
def test_damaged_gzip(tmp_path: Path, arrays: tuple[Images, Images], damage: str) -> None:
    write(tmp_path, "train", *arrays, ".gz")
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "checksum":
        content[-8] ^= 0xFF
    elif damage == "code":
        content[10] = 0xFF  # a kind of block that deflate does not have
    else:
        content = bytearray(b"<html>not found</html>")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz is a damaged gzip file"):
        load_dataset("mnist", folder=tmp_path)


def test_number_of_labels_differs(folder: Path, arrays: tuple[Images, Images]) -> None:
    write(folder, "train", arrays[0], arrays[1][:11])
    with pytest.raises(ValueError, match=r"12 images but .*train-labels.* holds 11 labels"):
        load_dataset("mnist", folder=folder)


def test_label_that_no_digit_has(folder: Path, arrays: tuple[Images, Images]) -> None:
    labels = arrays[1].copy()
    labels[3] = 10
    write(folder, "train", arrays[0], labels)
    with pytest.raises(ValueError, match=r"labels of .*train-images.* from 0 to 9"):
        load_dataset("mnist", folder=folder)


def test_no_images(tmp_path: Path, arrays: tuple[Images, Images]) -> None:
    write(tmp_path, "train", arrays[0][:0], arrays[1][:0])
    with pytest.raises(ValueError, match="at least one sample"):
        load_dataset("mnist", folder=tmp_path)


def test_missing_folder_and_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folder must be given for 'mnist'.*train-images"):
        load_dataset("mnist")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; 'mnist' wants"):
        load_dataset("mnist", folder=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds neither train-images-idx3-ubyte nor"):
        load_dataset("mnist", folder=tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is a file; 'mnist' wants the folder"):
        load_dataset("mnist", folder=tmp_path / "file")
