"""The version, as the build recorded it."""

from __future__ import annotations

from tfc_fast._extension import _C

__version__: str = _C.build_info()["version"]
