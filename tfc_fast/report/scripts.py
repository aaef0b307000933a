"""The scripts and styles of the page: files of this folder, put into it whole."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

_STATIC = Path(__file__).with_name("static")
_OURS = ("data.js", "lines.js", "heatmap.js", "readout.js", "chart.js", "controls.js", "page.js")


@cache
def scripts() -> tuple[str, ...]:
    """The texts of the script elements, in order: the chart library with its licence, then ours."""
    library = _STATIC / "uplot"
    licence = f"/*\n{(library / 'LICENSE').read_text(encoding='utf-8')}*/\n"
    texts = [licence + (library / "uPlot.iife.min.js").read_text(encoding="utf-8")]
    texts += [(_STATIC / name).read_text(encoding="utf-8") for name in _OURS]
    return tuple(texts)


@cache
def styles() -> str:
    """The text of the style element."""
    paths = (_STATIC / "uplot" / "uPlot.min.css", _STATIC / "page.css")
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def content_security_policy(texts: Sequence[str], *, live: bool) -> str:
    """What the page may do: run these scripts and no other; load nothing, but for itself if live.

    Args:
        texts: Contents of the script elements.
        live: Whether the page asks its server for new data.

    Example:
        >>> content_security_policy(["1"], live=False)
        "default-src 'none'; img-src data:; ... script-src 'sha256-a4ayc...='"
    """
    hashes = [hashlib.sha256(text.encode()).digest() for text in texts]
    allowed = " ".join(f"'sha256-{base64.b64encode(found).decode()}'" for found in hashes)
    rules = [
        "default-src 'none'",
        "img-src data:",
        "style-src 'unsafe-inline'",
        f"script-src {allowed}",
    ]
    return "; ".join([*rules, "connect-src 'self'"] if live else rules)
