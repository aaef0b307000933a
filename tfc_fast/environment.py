"""What a run depends on beside its settings: versions, machine, threads and data."""

from __future__ import annotations

import contextlib
import platform
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

__all__ = ["MOST_THREADS", "checksum", "checked_device", "environment", "thread_count", "versions"]

MOST_THREADS = 1024
"""More than any machine has; of many more the system runs out, and torch ends without a word."""


def versions() -> dict[str, str]:
    """Return the versions that decide what a run computes.

    Example:
        >>> sorted(versions())
        ['numpy', 'python', 'tfc_fast', 'torch']
    """
    from tfc_fast import __version__

    return {
        "tfc_fast": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def environment(device: torch.device) -> dict[str, Any]:
    """Return versions, platform and threads of this process, for `config.json`.

    Args:
        device: Device of the training.
    """
    return {
        "versions": versions(),
        "platform": platform.platform(),
        "device_name": (
            torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
        ),
        "threads": torch.get_num_threads(),
    }


def checked_device(name: str) -> torch.device:
    """Return a device that is there.

    Args:
        name: "cpu", "cuda" or "cuda:N".

    Raises:
        ValueError: There is no such device here.
    """
    device = torch.device(name)
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise ValueError(
                f"device: {name!r} given, torch {torch.__version__} sees {count} CUDA devices; "
                "use 'cpu', or see `tfc-fast info`"
            )
    return device


def checksum(*tensors: torch.Tensor) -> str:
    """Return a checksum of values, to tell whether a resumed run gets the same data.

    Args:
        tensors: Any dtypes and devices.

    Example:
        >>> checksum(torch.zeros(3)) == checksum(torch.ones(3))
        False
    """
    value = 0
    for tensor in tensors:
        values = tensor.detach().cpu().contiguous()
        # By bytes: numpy has no bfloat16.
        value = zlib.crc32(values.flatten().view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


@contextlib.contextmanager
def thread_count(threads: int | None) -> Iterator[None]:
    """Within the block torch computes with so many CPU threads; None changes nothing.

    Args:
        threads: Number of threads, 1 ... `MOST_THREADS`.

    Raises:
        ValueError: It is out of range.
    """
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"threads: {threads} given, 1 to {MOST_THREADS} is wanted")
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        if threads is not None:
            torch.set_num_threads(before)


def _processor() -> str:
    """Name of the CPU."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
