"""Cosine similarity of the rows of a batch: which function answers which question.

- `mean_cosine`: how alike are the rows on average, within and between classes?
- `cosine_matrix`: how alike is every row to every other?
- `cosine_histogram`: how are the cosines of all pairs distributed?
"""

from __future__ import annotations

from tfc_fast.similarity.histogram import CosineHistogram, cosine_histogram
from tfc_fast.similarity.matrix import cosine_matrix
from tfc_fast.similarity.means import CosineMeans, mean_cosine

__all__ = [
    "CosineHistogram",
    "CosineMeans",
    "cosine_histogram",
    "cosine_matrix",
    "mean_cosine",
]
