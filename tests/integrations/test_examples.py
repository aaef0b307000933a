"""The scripts in examples/, run as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ARGUMENTS = {
    "ddp_digits.py": ["--steps", "20", "--depth", "4"],
    "lightning_digits.py": ["--steps", "20", "--depth", "4"],
    "transformers_digits.py": ["--steps", "10"],
}


@pytest.mark.parametrize("script", sorted(path.name for path in EXAMPLES.glob("*.py")))
def test_example(script: str, tmp_path: Path) -> None:
    launcher = TORCHRUN if script.startswith("ddp") else []
    done = subprocess.run(
        [sys.executable, *launcher, str(EXAMPLES / script), *ARGUMENTS[script]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert any(word in done.stdout for word in ("feature_cos_between", "->"))
