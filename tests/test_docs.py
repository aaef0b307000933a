"""What the pages in docs/ show runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"


def blocks(page: str) -> list[str]:
    """The blocks of Python of a page, each behind so many empty lines that errors tell its line."""
    text = (DOCS / page).read_text()
    return [
        "\n" * text[: match.start(1)].count("\n") + match[1]
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    ]


def test_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page, names = "training.md", {"__name__": "page"}
    code = blocks(page)
    assert len(code) > 5
    for block in code:
        exec(compile(block, str(DOCS / page), "exec"), names)


def test_a_sink_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in blocks("probing.md") if "class CsvSink" in block)
    names = {"__name__": "page"}
    exec(compile(code, str(DOCS / "probing.md"), "exec"), names)
    lines = (tmp_path / "records.csv").read_text().splitlines()
    assert lines[0].startswith("step,site,loss,")
    assert [line.split(",")[:2] for line in lines[1:]] == [["1", "1"], ["2", "1"]]
