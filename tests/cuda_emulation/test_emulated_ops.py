"""Tests of the CPU's ops, once more through the ops for CUDA.

A process for each file, since the emulated extension stands in the place of tfc_fast._C.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_emulation import emulated_extension

ROOT = Path(__file__).parents[2]

# File, and what is left out of it: what is about the CPU's own loops, or too much for fibers. Of
# products, which are at::bmm here, the libraries that the CPU's ops choose from, the precision that
# torch takes on the CPU, and threads.
PRODUCTS = (
    "threads or instruction_set or by_onednn or by_fused or bfloat16_pairs or every_product"
    " or onednn or lower_precision or memory"
)
FILES = {
    "tests/similarity/test_means.py": "equal_rows_of_one_value or 200000",
    "tests/gating/test_stats.py": "200000",
    # A GPU cannot raise within a step: probe_on_device.py has these errors, and the drains.
    "tests/probe/test_probe_errors.py": "nothing_is_lost or noticed_in_backward"
    " or another_number_of_rows or width_of_a_site or silence or failing_sink",
    # In a compiled model the host does not learn how wide a site is, and makes no room.
    "tests/probe/test_probe_records.py": "window_buffer and True",
    "tests/probe/test_probe_reductions.py": "noticed_in_backward",
    "tests/probe/test_probe_reductions_untouched.py": "inductor",
    "tests/probe/test_probe_gradient_memory.py": "",
    # 200 steps; probe_on_device.py trains for fewer.
    "tests/probe/test_probe_untouched.py": "training_is_bitwise",
    # Errors that a GPU tells later, and masks, which it refuses; what is the same on any device.
    "tests/processes/test_process_group.py": "refused or masked or compiled or wrong or budget",
    # Inductor calls the same ops, from code that takes long to compile; 20 000 steps; errors that a
    # GPU tells later.
    "tests/probe/pitfalls": "inductor or compile-first or compiled_models or whole_training_step"
    " or memory_stays_flat or cannot_be_measured",
    # Errors as above; and ops that are not the probe's.
    "tests/csrc/test_ops.py": "(fewer and class_ptr) or change_of_width"
    " or once_for_each or labels4 or labels5 or group_labels or functional or impossible_grouping"
    " or lie_beyond",
    "tests/csrc/test_recorded_statistics.py": "700",
    # What the CPU's own ReLU makes of a NaN in half precision is not what the GPU's does.
    "tests/csrc/test_relu_backward.py": "(float16 and (False or special or layout or not_recorded"
    " or (autograd and relu))) or (layout and (shape1 or shape2 or shape3))",
    # Threads and instruction sets are the CPU's.
    "tests/csrc/test_same_bits.py": "threads or instruction or environment or shape4 or shape5"
    " or shape6",
    "tests/cuda_emulation/probe_on_device.py": "",
    "tests/cuda_emulation/process_group_on_device.py": "",
    # Instruction sets and threads are the CPU's; 2^24 units, once is enough.
    "tests/gating/test_packed.py": "x86 or same_bits_everywhere",
    "tests/gating/test_agreement.py": (
        "x86 or same_bits_everywhere or each_fraction_is_rounded_once[jaccard]"
    ),
    "tests/gating/test_agreement_histogram.py": "same_counts_everywhere",
    "tests/gating/test_activity.py": "same_numbers_everywhere",
    # Millions of rows or launches; the last bits of a mean of which only the sums are the same.
    "tests/similarity/test_accumulator.py": (
        "ten_million or over_many_batches or 700 or instruction_sets or last_bits"
    ),
    # One warp for each of 2^24 classes.
    "tests/similarity/test_cross.py": (
        "4097 or large_shapes or long_rows or instruction_sets or memory_depends"
    ),
    # gradcheck spends its time in second derivatives, which are torch's own operations.
    "tests/similarity/test_gradients.py": "300 or large_shapes or instruction_sets or gradcheck",
    "tests/similarity/test_autograd_rules.py": "",
    "tests/similarity/test_hypothesis.py": "",
    "tests/test_devices.py": "",
    "tests/similarity/test_matrix.py": (
        f"{PRODUCTS} or large_shapes or 520 or 1030 or 4096 or one_row_against_many"
    ),
    "tests/similarity/test_histogram.py": (
        f"{PRODUCTS} or large_shapes or 300-4096 or 300-1000 or 127-4096"
    ),
    "tests/similarity/test_spread.py": (
        f"{PRODUCTS} or large_shapes or four_thousand or 300-4096 or 300-1000 or 127-4096"
        " or 900-300 or 700-700 or 700-40"
    ),
    "tests/similarity/test_output.py": "",
    "tests/similarity/test_published_cases.py": "",
}
LIST_OPS = """
import torch, tfc_fast
for op in torch._C._dispatch_get_all_op_names():
    if op.startswith("tfc_fast::"):
        print(torch._C._dispatch_dump(op))
"""


@pytest.fixture(scope="module")
def environment() -> dict[str, str]:
    if shutil.which("g++") is None:
        pytest.skip("the emulated extension is built with g++, which is not installed")
    library = str(emulated_extension.build())
    return os.environ | {
        "PYTHONPATH": str(ROOT / "tests"),
        emulated_extension.VARIABLE: library,
    }


@pytest.mark.parametrize(("file", "left_out"), FILES.items(), ids=FILES)
def test_on_emulated_cuda(environment: dict[str, str], file: str, left_out: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", file]
    command += ["-p", "cuda_emulation.use_emulated_extension", "-p", "no:cacheprovider"]
    if left_out:
        command += ["-k", f"not ({left_out})"]
    done = _run(command, environment)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_each_op_of_the_cpu_is_one_for_cuda(environment: dict[str, str]) -> None:
    """Else the tests above would test the CPU's once more."""
    code = f"import cuda_emulation.use_emulated_extension\n{LIST_OPS}"
    dumps = _run([sys.executable, "-c", code], environment).stdout.split("name: tfc_fast::")[1:]
    places = {
        dump.split("\n")[0]: place[1]
        for dump in dumps
        if (place := re.search(r"^CPU: registered at (\S+):\d+", dump, re.MULTILINE))
    }
    assert len(places) > 20
    assert {op for op, place in places.items() if "csrc/ops/cuda/" not in place} == set()


def _run(command: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
