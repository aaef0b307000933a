"""The rooms of the house: who may import whom, and what importing the package costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tfc_fast

PACKAGE = Path(tfc_fast.__file__).parent
ROOT = Path(__file__).parent.parent

# What each part of the package may import from the rest of it. A part is a file or folder directly
# below tfc_fast; the names on the right are parts, too.
MAY_IMPORT: dict[str, set[str]] = {
    "_startup": set(),
    "_extension": set(),
    "_version": {"_extension"},
    "_inputs": {"_extension"},
    "_results": set(),
    "_histogram": {"_inputs"},
    "similarity": {"_extension", "_histogram", "_inputs", "_results"},
    "gating": {"_extension", "_histogram", "_inputs", "_results"},
    "phases": {"records"},
    "records": set(),
    "files": set(),
    "sinks": {"records", "files"},
    "probe": {"_extension", "_inputs", "phases", "records", "sinks"},
    "run_directory": {"records", "files", "sinks"},
    "data": {"files"},
    "models": set(),
    "analyzed_run": {"files", "phases", "records", "run_directory"},
    "report": {"analyzed_run", "files", "phases", "records", "run_directory", "_version"},
    "trainer": {
        *("data", "files", "models", "phases", "probe", "records", "run_directory", "sinks"),
        *("_version", "environment"),
    },
    "reproduce": {
        *("analyzed_run", "models", "similarity"),
        *("files", "phases", "records", "report", "run_directory", "trainer"),
    },
    "trials": {"files", "phases", "reproduce", "run_directory", "trainer"},
    "integrations": {"phases", "probe", "records"},
    "environment": {"_extension", "_version"},
    "bench": {"models", "probe", "environment", "files"},
    "cli": {
        *(
            "analyzed_run",
            "bench",
            "data",
            "files",
            "models",
            "phases",
            "probe",
            "records",
            "report",
        ),
        *("reproduce", "trials"),
        *("run_directory", "sinks", "trainer", "environment", "_extension", "_startup", "_version"),
    },
    "__main__": {"cli"},
    "__init__": {"_startup", "_version", "gating", "phases", "probe", "similarity"},
}


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """Parts that a file imports anywhere, also inside functions."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
            if node.module == "tfc_fast":
                names = [f"tfc_fast.{alias.name}" for alias in node.names]
        else:
            continue
        parts |= {name.split(".")[1] for name in names if name.startswith("tfc_fast.")}
    return parts


SOURCES = [path for path in sorted(PACKAGE.rglob("*.py")) if part_of(path) != "_built_with"]


def test_every_part_has_a_rule() -> None:
    assert {part_of(path) for path in SOURCES} == set(MAY_IMPORT)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    part = part_of(path)
    allowed = MAY_IMPORT[part] | {part, "_C", "_built_with", "__version__"}
    assert imported_parts(path) <= allowed


def test_rules_have_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        free = {part for part, needs in MAY_IMPORT.items() if part not in done and needs <= done}
        assert free, f"a cycle among {set(MAY_IMPORT) - done}"
        done |= free


@pytest.mark.skipif(
    not (ROOT / "csrc").is_dir(), reason="the C++ sources are not part of an installed package"
)
@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [
        ("kernels", r"torch|ATen|c10|pybind11|Python\.h|\.\./ops"),
        ("ops", r"pybind11|Python\.h"),
    ],
)
def test_native_includes_point_down(folder: str, forbidden: str) -> None:
    files = [path for path in (ROOT / "csrc" / folder).rglob("*") if path.is_file()]
    assert files
    for path in files:
        includes = re.findall(r'#include\s+["<]([^">]+)', path.read_text())
        wrong = [name for name in includes if re.search(rf"^(?:\.\./)*(?:{forbidden})", name)]
        assert wrong == [], path


def test_import_pulls_in_torch_and_numpy_only() -> None:
    script = """
import sys
import numpy, torch
before = set(sys.modules)
import tfc_fast, tfc_fast.similarity
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    output = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    foreign = {
        name for name in output if name not in sys.stdlib_module_names and "tfc_fast" not in name
    }
    assert foreign <= {"torch", "numpy"}


def test_a_foreign_torch_is_refused_with_the_remedy() -> None:
    from tfc_fast import _extension

    with pytest.raises(
        ImportError, match=r"(?s)built for torch 2\.11\.0.*--no-build-isolation"
    ) as info:
        _extension._check_torch("2.11.0", "2.13.0+cpu")
    assert "2.13.0+cpu" in str(info.value)
    _extension._check_torch("2.13.0", "2.13.1+cu130")
