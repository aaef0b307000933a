"""A pytest plugin: the ops for CUDA, emulated, in the place of the CPU's.

    PYTHONPATH=tests python -m pytest -p cuda_emulation.use_emulated_extension tests/similarity

runs tests of the CPU's ops through the code that serves a GPU: checks, plans, workspaces, launches
and kernels (see CMakeLists.txt here).
"""

from __future__ import annotations

import os
from pathlib import Path

from cuda_emulation import emulated_extension

_library = os.environ.get(emulated_extension.VARIABLE)
# At once: conftest.py imports tfc_fast.
emulated_extension.use(Path(_library) if _library else emulated_extension.build())
