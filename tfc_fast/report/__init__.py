"""Runs as pictures and one self-contained page: `write_report`, `write_comparison`.

`bins` thins long runs out; `figures` draws pictures, `series` has the numbers of the charts; `page`
puts the page together; `server` shows it while runs go on. The scripts of the page are in `static`.
"""

from __future__ import annotations

try:
    import jinja2  # noqa: F401
    import matplotlib  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"reports need matplotlib and jinja2, and {error.name} is not installed: "
        "pip install 'tfc_fast[report]'"
    ) from error

from tfc_fast.report.bins import Band, BinnedRecords, bin_records
from tfc_fast.report.figures import (
    gates_figure,
    heatmap_figure,
    loss_figure,
    similarity_figure,
)
from tfc_fast.report.page import write_comparison, write_report
from tfc_fast.report.server import PageServer

__all__ = [
    "Band",
    "BinnedRecords",
    "PageServer",
    "bin_records",
    "gates_figure",
    "heatmap_figure",
    "loss_figure",
    "similarity_figure",
    "write_comparison",
    "write_report",
]
