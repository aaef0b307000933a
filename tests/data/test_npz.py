"""A user's own .npz file."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tfc_fast.data import load_dataset

INPUTS = np.random.default_rng(5).standard_normal((6, 4))
LABELS = np.array([0, 1, 2, 0, 1, 2])


def save(folder: Path, **arrays: Any) -> Path:
    path = folder / "mine.npz"
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize("keys", [("inputs", "labels"), ("x", "y"), ("x", "labels")])
@pytest.mark.parametrize("compressed", [False, True])
def test_arrays_are_read(tmp_path: Path, keys: tuple[str, str], compressed: bool) -> None:
    path = tmp_path / "mine.npz"
    arrays: dict[str, Any] = {keys[0]: INPUTS, keys[1]: LABELS, "extra": np.zeros(3)}
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    data = load_dataset("npz", folder=path, standardize="none")
    np.testing.assert_array_equal(data.inputs.numpy(), INPUTS.astype(np.float32))
    assert data.labels.tolist() == LABELS.tolist()
    assert data.num_classes == 3
    assert "mine.npz" in data.description


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.bool_, np.float16, np.float64])
def test_integers_and_floats_become_float32(tmp_path: Path, dtype: type[np.generic]) -> None:
    pixels = np.array([[0, 1, 0], [1, 1, 1], [1, 0, 0]]).astype(dtype)
    path = save(tmp_path, inputs=pixels, labels=np.array([0, 1, 1], dtype=np.uint8))
    data = load_dataset("npz", folder=path, standardize="none")
    np.testing.assert_array_equal(data.inputs.numpy(), pixels.astype(np.float32))


def test_images_are_flattened_and_their_shape_kept(tmp_path: Path) -> None:
    images = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    data = load_dataset("npz", folder=save(tmp_path, x=images, y=[0, 1]), standardize="none")
    assert data.shape == (3, 4, 5)
    np.testing.assert_array_equal(data.inputs.numpy(), images.reshape(2, 60))


def test_more_classes_than_the_labels_show(tmp_path: Path) -> None:
    path = save(tmp_path, x=INPUTS, y=LABELS)
    assert load_dataset("npz", folder=path, num_classes=7).num_classes == 7
    with pytest.raises(ValueError, match=r"mine\.npz must lie from 0 to 1 for num_classes=2.*to 2"):
        load_dataset("npz", folder=path, num_classes=2)


def test_negative_labels_are_called_so(tmp_path: Path) -> None:
    path = save(tmp_path, x=INPUTS[:3], y=[0, -1, 0])
    message = r"labels of .*mine\.npz must not be negative, got -1 to 0; number classes from 0"
    with pytest.raises(ValueError, match=message):
        load_dataset("npz", folder=path)


def test_float64_inputs_keep_their_digits_until_standardised(tmp_path: Path) -> None:
    inputs = np.array([[1.7e9], [1.7e9 + 1], [1.7e9 + 2]])  # equal, all three, as float32
    data = load_dataset("npz", folder=save(tmp_path, x=inputs, y=[0, 1, 0]))
    expected = np.array([[-1.0], [0.0], [1.0]]) / np.sqrt(2 / 3)
    np.testing.assert_allclose(data.inputs.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    inputs = INPUTS.copy()
    inputs[[2, 4], 1] = value
    with pytest.raises(ValueError, match=r"mine\.npz hold NaN or infinite .* 2 of 6 .* sample 2\)"):
        load_dataset("npz", folder=save(tmp_path, x=inputs, y=LABELS))


@pytest.mark.parametrize("value", [1e39, -1e39])
def test_value_too_large_for_float32(tmp_path: Path, value: float) -> None:
    inputs = INPUTS.copy()
    inputs[0, 0] = value
    with pytest.raises(ValueError, match=r"mine\.npz hold a value of size 1e\+39, too large"):
        load_dataset("npz", folder=save(tmp_path, x=inputs, y=LABELS))


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (INPUTS[:, 0], LABELS, r"inputs of .* shape \[n, \.\.\.\] .*, got \[6\]"),
        (INPUTS[:0], LABELS[:0], r"at least one sample and one feature, got \[0, 4\]"),
        (INPUTS[:, :0], LABELS, r"at least one sample and one feature, got \[6, 0\]"),
        (INPUTS, LABELS[:5], r"labels of .* shape \[6\], one per sample, got \[5\]"),
        (INPUTS, LABELS[:, None], r"labels of .* shape \[6\], one per sample, got \[6, 1\]"),
        (INPUTS, np.array(1), r"labels of .* shape \[6\], one per sample, got \[\]"),
        (INPUTS, LABELS[:0], r"labels of .* shape \[6\], one per sample, got \[0\]"),
        (INPUTS, LABELS - 1, r"labels of .* must not be negative, got -1 to 1"),
        (INPUTS, LABELS - 5, r"labels of .* must not be negative, got -5 to -3"),
    ],
)
def test_wrong_shapes_and_labels(
    tmp_path: Path, inputs: npt.NDArray[Any], labels: npt.NDArray[Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        load_dataset("npz", folder=save(tmp_path, x=inputs, y=labels))


@pytest.mark.parametrize("dtype", [np.complex64, "U3"])
def test_inputs_that_are_no_numbers(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(TypeError, match=r"inputs of .*mine\.npz must be real or integer numbers"):
        load_dataset("npz", folder=save(tmp_path, x=INPUTS.astype(dtype), y=LABELS))


@pytest.mark.parametrize("dtype", [np.float64, np.bool_, "U1"])
def test_labels_that_are_no_integers(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(TypeError, match=r"labels of .*mine.npz must be integers.*astype"):
        load_dataset("npz", folder=save(tmp_path, x=INPUTS, y=LABELS.astype(dtype)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": INPUTS}, r"has no array 'labels' or 'y'; .*\(arrays found: x\)"),
        (
            {"features": INPUTS, "y": LABELS},
            r"has no array 'inputs' or 'x'; .*found: features, y\)",
        ),
        ({}, r"has no array 'inputs' or 'x'; .*\(arrays found: none\)"),
        ({"x": INPUTS, "inputs": INPUTS, "y": LABELS}, r"has both \['inputs', 'x'\]"),
    ],
)
def test_missing_or_ambiguous_arrays(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"mine\.npz {message}"):
        load_dataset("npz", folder=save(tmp_path, **arrays))


class Malicious:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


def test_python_objects_are_refused(tmp_path: Path) -> None:
    marker = tmp_path / "was run"
    objects = np.array([[Malicious(marker)]], dtype=object)
    path = save(tmp_path, x=objects, y=[0])
    with pytest.raises(
        ValueError, match=r"mine\.npz: array 'x' cannot be read .*no Python objects"
    ):
        load_dataset("npz", folder=path)
    assert not marker.exists()
    with np.load(path, allow_pickle=True) as archive:
        assert archive["x"].shape == (1, 1)
    assert marker.exists()  # so reading the objects would have run it


@pytest.mark.parametrize("content", [b"", b"1,2,3\n", b"\x93NUMPY\x01\x00"])
def test_other_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.npz is damaged or no \.npz file; wanted is"):
        load_dataset("npz", folder=path)


def flip_number(content: bytearray) -> None:
    content[200] ^= 0xFF


def flip_code(content: bytearray) -> None:
    name_length, extra_length = struct.unpack("<HH", content[26:30])
    content[30 + name_length + extra_length] = 0xFF  # a kind of block that deflate does not have


def claim_more_than_there_is(content: bytearray) -> None:
    entry = content.rindex(b"PK\x01\x02")  # of y, the last array
    content[entry + 20 : entry + 28] = struct.pack("<II", 10**6, 10**6)
    shape, longer = b"(6,), }    ", b"(99999,), }"
    at = content.rindex(shape)
    content[at : at + len(shape)] = longer


@pytest.mark.parametrize(
    ("save_as", "damage"),
    [
        (np.savez, flip_number),
        (np.savez_compressed, flip_number),
        (np.savez_compressed, flip_code),
        (np.savez, claim_more_than_there_is),
    ],
)
def test_damaged_content(tmp_path: Path, save_as: Any, damage: Any) -> None:
    path = tmp_path / "mine.npz"
    save_as(path, x=INPUTS, y=LABELS)
    content = bytearray(path.read_bytes())
    damage(content)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"mine\.npz is damaged \("):
        load_dataset("npz", folder=path)


def test_truncated_file(tmp_path: Path) -> None:
    path = save(tmp_path, x=INPUTS, y=LABELS)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"mine\.npz is damaged or no \.npz file"):
        load_dataset("npz", folder=path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"folder must be given for 'npz': the path of a \.npz"):
        load_dataset("npz")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.npz does not exist"):
        load_dataset("npz", folder=tmp_path / "nowhere.npz")
    with pytest.raises(IsADirectoryError, match="is a folder; 'npz' wants the path"):
        load_dataset("npz", folder=tmp_path)
