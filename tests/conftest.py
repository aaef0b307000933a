"""Random inputs, new in every run and repeatable; settings that are put back after a test."""

from __future__ import annotations

import os
import secrets
import zlib
from collections.abc import Callable, Generator, Iterator

import numpy as np
import pytest
import torch

from tfc_fast import _C

_VARIABLE = "TFC_FAST_TEST_SEED"
_SEED = int(os.environ.get(_VARIABLE) or secrets.randbits(32))
_ADVICE = f"{_VARIABLE}={_SEED} gives the same random inputs again"


def pytest_report_header() -> str:
    return f"seed: {_ADVICE}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        report.sections.append(("seed", _ADVICE))
    return report


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator of the test's own, so that its numbers do not depend on which tests run."""
    return np.random.default_rng([_SEED, zlib.crc32(request.node.nodeid.encode())])


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def use_instruction_set() -> Iterator[Callable[[str], None]]:
    before = _C.build_info()["instruction_set"]
    yield _C.use_instruction_set
    _C.use_instruction_set(before)


@pytest.fixture(params=_C.float_gemms(), ids=lambda name: f"by_{name}")
def products(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each in turn of what can multiply float tiles here."""
    _C.use_float_gemm(request.param)
    yield request.param
    _C.use_float_gemm("onednn")


@pytest.fixture
def bfloat16_pairs() -> Iterator[None]:
    """bfloat16 tiles multiplied as such, also where the processor has no instruction for it."""
    _C.always_multiply_pairs(True)
    yield
    _C.always_multiply_pairs(False)


@pytest.fixture
def flush_denormal() -> Iterator[Callable[[bool], bool]]:
    """Makes the processor take denormal numbers for zero, as torch lets its users do."""
    yield torch.set_flush_denormal
    torch.set_flush_denormal(False)
