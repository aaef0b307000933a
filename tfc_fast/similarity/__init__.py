"""Cosine similarity of the rows of a batch: which function answers which question.

- `mean_cosine`: how alike are the rows on average, within and between classes?
"""

from __future__ import annotations

from tfc_fast.similarity.means import CosineMeans, mean_cosine

__all__ = ["CosineMeans", "mean_cosine"]
