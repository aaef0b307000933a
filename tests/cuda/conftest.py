"""A GPU for the tests in this folder; where there is none they are left out, or fail on demand."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from tfc_fast import _C

# Set where a GPU must be there, so that a run without one is not taken for a good one.
REQUIRED = "TFC_FAST_REQUIRE_GPU"


def _left_out(reason: str) -> None:
    if os.environ.get(REQUIRED) == "1":
        pytest.fail(f"{reason}, but {REQUIRED}=1", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def device() -> torch.device:
    build = _C.build_info()
    if build["cuda"] != "yes":
        _left_out(f"tfc_fast has no ops for CUDA: {build['cuda_reason']}")
    if not torch.cuda.is_available():
        _left_out("torch finds no GPU")
    return torch.device("cuda")


@pytest.fixture(autouse=True)
def only_with_a_gpu(device: torch.device) -> None:
    """For tests that do not ask for the device by name."""


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Any wait for the device is an error."""
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
