"""Cosine similarity of the rows of a batch: which function answers which question.

- `mean_cosine`: how alike are the rows on average, within and between classes?
- `cosine_spread`: how far are the cosines of pairs spread about that average?
- `cosine_histogram`: how are the cosines of all pairs distributed?
- `cosine_matrix`: how alike is every row to every other?
"""

from __future__ import annotations

from tfc_fast.similarity.histogram import CosineHistogram, cosine_histogram
from tfc_fast.similarity.matrix import cosine_matrix
from tfc_fast.similarity.means import CosineMeans, mean_cosine
from tfc_fast.similarity.spread import CosineSpread, cosine_spread

__all__ = [
    "CosineHistogram",
    "CosineMeans",
    "CosineSpread",
    "cosine_histogram",
    "cosine_matrix",
    "cosine_spread",
    "mean_cosine",
]
