"""A run as pictures and one self-contained page: `write_report`.

`figures` draws; `bins` thins long runs out before; `page` reads the run and puts the page together.
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
from tfc_fast.report.page import write_report

__all__ = [
    "Band",
    "BinnedRecords",
    "bin_records",
    "gates_figure",
    "heatmap_figure",
    "loss_figure",
    "similarity_figure",
    "write_report",
]
