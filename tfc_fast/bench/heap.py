"""Memory that stays with the process, so that times are those of kernels and not of page faults.

glibc takes a block of more than 32 MiB from the system at every call and gives it back afterwards,
and smaller ones when it happens to trim its heap. The page faults of a fresh block can cost more
than the kernel that fills it, and below 32 MiB they hit now one side of a comparison, now the
other.
"""

from __future__ import annotations

import ctypes
import os
import resource

__all__ = ["keep_memory", "malloc_settings", "page_faults"]

# mallopt(3)
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_memory() -> None:
    """From now on freed memory is never given back to the system; there is no way back.

    Raises:
        OSError: The C library cannot be told so.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        raise OSError("this C library has no mallopt; measure with its malloc as it is")
    for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1)):
        if mallopt(parameter, value) != 1:
            raise OSError(f"mallopt({parameter}, {value}): refused by the C library")


def page_faults() -> int:
    """How often this process has touched memory so far that the system had yet to give it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def malloc_settings() -> dict[str, str]:
    """The environment variables that change or replace malloc."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("MALLOC_") or name in ("GLIBC_TUNABLES", "LD_PRELOAD")
    }
