"""Runs the CUDA kernels on the processor: builds them with g++, gives them guarded memory.

`cuda_emulation.h` says what the emulation checks. Memory comes from `Device`: each array lies in a
buffer of its own between guard zones, what a kernel is to write is filled with 0xFF before, and the
kernels may touch no byte that was not placed there.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

Array = npt.NDArray[Any]
HERE = Path(__file__).parent
KERNELS = HERE.parents[1] / "csrc" / "kernels"
# Without torch_memory.cpp, which lets kernels touch any memory.
SOURCES = [*sorted((KERNELS / "cuda").glob("*.cu")), *sorted(HERE.glob("*emulat*.cpp"))]
FLAGS = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fPIC"]
FLAGS += ["-DTFC_CUDA_EMULATION", f"-I{HERE}", f"-I{KERNELS / 'cuda'}", "-x", "c++"]

_GUARD = 256
_POISON = 0xFF


def build(folder: Path) -> Path:
    """The kernels as a shared library in `folder`; built again when a source has changed."""
    headers = [*(KERNELS / "cuda").glob("*.h"), *(KERNELS / "cuda").glob("*.cuh")]
    headers += [*KERNELS.glob("*.h"), *HERE.glob("*.h")]
    digest = hashlib.sha256(repr(FLAGS).encode())
    for path in sorted([*SOURCES, *headers]):
        digest.update(path.read_bytes())
    library = folder / f"emulated_kernels_{digest.hexdigest()[:16]}.so"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):  # of several test processes one builds
        if not library.exists():
            _compile(library)
    return library


def _compile(library: Path) -> None:
    folder = library.parent
    compiler = os.environ.get("CXX", "g++")
    objects = [folder / f"{source.name}.o" for source in SOURCES]

    def compile_one(source: Path, target: Path) -> None:
        _run([compiler, *FLAGS, "-c", str(source), "-o", str(target)])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_one, SOURCES, objects))
    _run([compiler, "-shared", *map(str, objects), "-o", str(library)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")


class EmulationError(RuntimeError):
    """What the emulation has found wrong with a kernel."""


class Library:
    """The built kernels; `functions` are those of emulated_kernels.cpp."""

    def __init__(self, path: Path) -> None:
        self.functions = ctypes.CDLL(str(path))
        for name in ("emulation_error", "emulation_barrier"):
            getattr(self.functions, name).restype = ctypes.c_char_p
        self.functions.emulation_skipped.restype = ctypes.c_long
        self.functions.kernels_half_to_float.restype = ctypes.c_float

    def barriers(self) -> list[str]:
        """The barriers that threads have come to so far, as file:line."""
        count = self.functions.emulation_num_barriers()
        return [self.functions.emulation_barrier(i).decode() for i in range(count)]

    def needed_barriers(
        self, run: Callable[[int, int], object], files: tuple[str, ...] = ("",), orders: int = 4
    ) -> list[str]:
        """Barriers that `run(seed, skip_barrier)` comes to, in files that begin so.

        Each of them is left out in turn, for several orders of the threads. Then something else
        must come out, or the emulation complain. Barriers that only other kernels have come to are
        passed over, whatever has run before. `run` makes one `Device`.

        Raises:
            AssertionError: One can be left out unnoticed.
        """

        def outcome(seed: int, skip: int) -> object:
            try:
                return run(seed, skip)
            except EmulationError:
                return None

        right = run(0, -1)
        needed = []
        for index, barrier in enumerate(self.barriers()):
            if not barrier.startswith(files):
                continue
            results = [outcome(seed, index) for seed in range(orders)]
            if self.functions.emulation_skipped():
                assert any(bits != right for bits in results), (
                    f"{barrier} can be left out unnoticed"
                )
                needed.append(barrier)
        return needed


class Device:
    """Guarded memory and a seed for the order of the threads.

    Args:
        library: The built kernels.
        seed: Decides which thread runs when.
        skip_barrier: Number of a barrier (see `Library.barriers`) that lets all threads pass.
    """

    def __init__(self, library: Library, seed: int = 0, skip_barrier: int = -1) -> None:
        self._functions = library.functions
        self._placed: list[tuple[Array, int, int, int]] = []
        self._functions.emulation_reset(ctypes.c_uint64(seed))
        self._functions.emulation_skip_barrier(skip_barrier)

    def place(self, values: Array, *, writable: bool = False, offset: int = 0) -> int:
        """Address of a copy of `values`, `offset` bytes behind a multiple of 128."""
        return self._place(np.ascontiguousarray(values), writable, offset)[0]

    def empty(self, shape: tuple[int, ...], dtype: Any, *, offset: int = 0) -> tuple[int, Array]:
        """Address and array of poisoned memory for a kernel to write."""
        poisoned = np.full(int(np.prod(shape)) * np.dtype(dtype).itemsize, _POISON, np.uint8)
        return self._place(poisoned.view(dtype).reshape(shape), True, offset)

    def state(self, values: Array) -> tuple[int, Array]:
        """Address and array of a copy of `values` for a kernel to change."""
        return self._place(np.ascontiguousarray(values), True, 0)

    def _place(self, values: Array, writable: bool, offset: int) -> tuple[int, Array]:
        buffer = np.full(values.nbytes + 2 * _GUARD + 128, _POISON, np.uint8)
        begin = -(buffer.ctypes.data + _GUARD) % 128 + _GUARD + offset
        inside = buffer[begin : begin + values.nbytes]
        inside[:] = values.reshape(-1).view(np.uint8)
        address = buffer.ctypes.data + begin
        self._placed.append((buffer, begin, values.nbytes, address))
        self._functions.emulation_register(
            ctypes.c_void_p(address), ctypes.c_size_t(values.nbytes), int(writable)
        )
        return address, inside.view(values.dtype).reshape(values.shape)

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a launcher; an error that the emulation finds is raised."""
        status = getattr(self._functions, name)(*(_as_argument(x) for x in arguments))
        error = self._functions.emulation_error().decode()
        if status != 0 or error:
            raise EmulationError(error or f"{name}: status {status}")
        for buffer, begin, size, _ in self._placed:
            rest = np.concatenate([buffer[:begin], buffer[begin + size :]])
            if (rest != _POISON).any():
                raise EmulationError(f"{name}: wrote past an array of {size} bytes")

    @property
    def skipped(self) -> int:
        """How often a thread has passed the barrier that is left out."""
        return int(self._functions.emulation_skipped())


def _as_argument(value: Any) -> Any:
    if isinstance(value, int):
        return ctypes.c_int64(value)
    if isinstance(value, ctypes.Structure):
        return ctypes.byref(value)
    return value


def _structure(name: str, *fields: str) -> type:
    """Names of pointers, then of integers, then of pointers again and so on."""
    kinds = (ctypes.c_void_p, ctypes.c_int64)
    named = [
        (name, kinds[index % 2]) for index, names in enumerate(fields) for name in names.split()
    ]
    return type(name, (ctypes.Structure,), {"_fields_": named})


# As in launchers.h and emulated_kernels.cpp.
Batch: Callable[..., ctypes.Structure] = _structure(
    "Batch",
    "feature gradient grad_in",
    "feature_stride gradient_stride grad_in_stride",
    "order class_ptr label_at",
    "classes entries",
)
Results: Callable[..., ctypes.Structure] = _structure(
    "Results", "site header", "site_index rows_per_sample", "units", "units_capacity", "unit_counts"
)
Ring: Callable[..., ctypes.Structure] = _structure(
    "Ring", "values steps losses recorded blocks_ended", "capacity sites every"
)


class Loss(ctypes.Structure):
    _fields_ = [
        ("single_at", ctypes.c_void_p),
        ("double_at", ctypes.c_void_p),
        ("number", ctypes.c_double),
    ]


class PlanSummary(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_int64)
        for name in (
            *("workspace_bytes", "chunks", "chunk_rows", "tiles", "threads", "shared_bytes"),
            *("fused", "rows_at_once"),
        )
    ]


def bits_of(x: Tensor) -> Array:
    """The elements of a tensor as they lie in memory."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return x.contiguous().view(whole).numpy()


def tensor_of(bits: Array, dtype: torch.dtype) -> Tensor:
    return torch.from_numpy(bits.copy()).view(dtype)
