"""Compile the CUDA kernels and look at what the compiler made of them: `make cuda-check`.

    python tests/packaging/check_cuda.py [--report FILE] [--jobs N]

Each file of csrc/kernels/cuda is compiled for the oldest and the newest architecture, with --report
for sm_90 too, warnings being errors; a kernel that keeps registers in memory ("spills") fails the
check, and so do row passes that do not read 16 bytes at a time. Prints a table; --report writes the
one of sm_90.

Without nvcc there is nothing to check: one line says so, and the exit status is 0.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted((ROOT / "csrc" / "kernels" / "cuda").glob("*.cu"))
REPORTED = "sm_90"
ARCHITECTURES = ("sm_75", REPORTED, "sm_120")
# Bytes that a kernel may write to and read from memory, once for each four rows, where the compiler
# of CUDA 13.0 finds no way with 128 registers.
_PAIR = "row_pass<{}, pair, {}, 1 x 16 bytes, 4 rows, {} threads>"
ALLOWED = {
    ("sm_75", _PAIR.format("BFloat16", "fused", 512)): 64,
    ("sm_75", _PAIR.format("BFloat16", "scales given", 256)): 64,
    ("sm_120", _PAIR.format("Half", "fused", 512)): 160,
}
FLAGS = ("-std=c++20", "-O3", "-Werror", "all-warnings", "--resource-usage")

_KERNEL = re.compile(
    r"Compiling entry function '(?P<name>\S+)' for '(?P<architecture>\w+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
    re.DOTALL,
)
# Arguments of the template row_pass, as the compiler mangles them.
_ROW_PASS = re.compile(
    r"row_passI(?P<type>\S+?)LNS_3JobE(?P<job>\d)ELb(?P<fused>\d)ELi(?P<pieces>\d)ELi(?P<rows>\d)"
    r"ELi(?P<threads>\d+)EE"
)
_TYPES = {"f": "float32", "d": "float64"}
_JOBS = ("cosine", "gates", "feature", "pair")


class Kernel(NamedTuple):
    name: str
    registers: int
    spilled: int
    stack: int


def compile_file(source: Path, architecture: str) -> str:
    """Compiles for one architecture; what ptxas tells."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", *FLAGS, f"-arch={architecture}", "-c", str(source), "-o", f"{folder}/o"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def function_name(mangled: str) -> str:
    """The last of the nested names of `_ZN3tfc4cuda...`, each behind its length."""
    name, at = mangled, len("_ZN")
    while found := re.match(r"\d+", mangled[at:]):
        begin = at + len(found[0])
        at = begin + int(found[0])
        name = mangled[begin:at]
    return name


def readable(mangled: str) -> str:
    name = function_name(mangled)
    template = re.search(rf"{name}I(?P<code>[fd]|\S*?(?P<half>BFloat16|Half))", mangled)
    if template is None:
        return name
    dtype = template["half"] or _TYPES[template["code"]]
    row_pass = _ROW_PASS.search(mangled)
    if row_pass is None:
        return f"{name}<{dtype}>"
    way = "fused" if row_pass["fused"] == "1" else "scales given"
    return (
        f"{name}<{dtype}, {_JOBS[int(row_pass['job'])]}, {way}, {row_pass['pieces']} x 16 bytes, "
        f"{row_pass['rows']} rows, {row_pass['threads']} threads>"
    )


def kernels_of(output: str) -> list[Kernel]:
    return sorted(
        Kernel(
            readable(m["name"]),
            int(m["registers"]),
            int(m["stores"]) + int(m["loads"]),
            int(m["stack"]),
        )
        for m in _KERNEL.finditer(output)
    )


def table(kernels: list[Kernel]) -> str:
    width = max(len(kernel.name) for kernel in kernels)
    lines = [f"{'kernel':{width}}  registers  spilled bytes  stack bytes"]
    lines += [f"{k.name:{width}}  {k.registers:9}  {k.spilled:13}  {k.stack:11}" for k in kernels]
    return "\n".join(lines)


def wide_loads() -> int:
    """16-byte loads from global memory in the row passes, as PTX writes them."""
    source = next(path for path in SOURCES if path.name == "row_pass.cu")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "row_pass.ptx"
        command = ["nvcc", *FLAGS, f"-arch={REPORTED}", "-ptx", str(source), "-o", str(target)]
        subprocess.run(command, check=True, capture_output=True)
        text = target.read_text()
    entries = text.split(".entry ")[1:]
    wide = r"ld\.global(?:\.\w+)*\.v4\.[bu]32|cp\.async\.cg\.shared\.global \S+ \S+ 16;"
    loads = [len(re.findall(wide, entry)) for entry in entries]
    return min(loads)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--report", type=Path, help=f"file for the table of {REPORTED}")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at the same time")
    options = parser.parse_args()
    if shutil.which("nvcc") is None:
        print("cuda-check: left out, nvcc is not installed")
        return 0
    architectures = ARCHITECTURES if options.report else (ARCHITECTURES[0], ARCHITECTURES[-1])
    work = [(source, architecture) for architecture in architectures for source in SOURCES]
    with ThreadPoolExecutor(options.jobs) as pool:
        outputs = list(pool.map(lambda item: compile_file(*item), work))
    failed = False
    for architecture in architectures:
        told = "".join(o for o, (_, a) in zip(outputs, work, strict=True) if a == architecture)
        kernels = kernels_of(told)
        print(f"{architecture}\n{table(kernels)}\n")
        spilled = [k for k in kernels if k.spilled > ALLOWED.get((architecture, k.name), 0)]
        failed |= not kernels or bool(spilled)
        if architecture == REPORTED and options.report:
            version = subprocess.run(
                ["nvcc", "--version"], capture_output=True, text=True, check=True
            )
            release = re.search(r"release \S+", version.stdout)
            assert release is not None
            options.report.write_text(
                f"What ptxas of CUDA {release[0].split()[1].rstrip(',')} makes of the kernels for "
                f"{REPORTED} (make cuda-report).\n\n{table(kernels)}\n"
            )
    loads = wide_loads()
    print(f"16-byte loads in the row pass that has fewest: {loads}")
    failed |= loads == 0
    if failed:
        print("cuda-check: FAILED, a kernel spills or does not read 16 bytes at a time")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
