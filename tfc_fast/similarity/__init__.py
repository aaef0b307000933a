"""Cosine similarity of the rows of a batch: which function answers which question.

- `mean_cosine`: how alike are the rows on average, within and between classes? Differentiable.
- `CosineAccumulator`: the same over a whole data set, batch by batch and across processes.
- `cosine_spread`: how far are the cosines of pairs spread about that average?
- `cosine_histogram`: how are the cosines of all pairs distributed?
- `cosine_matrix`: how alike is every row to every other? Differentiable.
- `cross_cosine`: how alike are the rows of two batches, training and test data for instance?
- `paired_cosine`: how far has each row turned from what it was?
- `FeatureDrift`: how far do the features of a fixed batch turn within some steps?
"""

from __future__ import annotations

from tfc_fast.similarity.accumulator import CosineAccumulator
from tfc_fast.similarity.cross import CrossCosineMeans, PairedCosines, cross_cosine, paired_cosine
from tfc_fast.similarity.drift import FeatureDrift
from tfc_fast.similarity.histogram import CosineHistogram, cosine_histogram
from tfc_fast.similarity.matrix import cosine_matrix
from tfc_fast.similarity.means import CosineMeans, mean_cosine
from tfc_fast.similarity.spread import CosineSpread, cosine_spread

__all__ = [
    "CosineAccumulator",
    "CosineHistogram",
    "CosineMeans",
    "CosineSpread",
    "CrossCosineMeans",
    "FeatureDrift",
    "PairedCosines",
    "cosine_histogram",
    "cosine_matrix",
    "cosine_spread",
    "cross_cosine",
    "mean_cosine",
    "paired_cosine",
]
