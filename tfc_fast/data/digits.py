"""The 1797 handwritten digits that come with scikit-learn: real data without a download."""

from __future__ import annotations

from tfc_fast.data.dataset import RawData


def load_digits() -> RawData:
    """Read the handwritten digits of scikit-learn: 8 x 8 pixels from 0 to 16, 10 classes.

    Raises:
        ImportError: if scikit-learn is not installed.
        ValueError: if the installed scikit-learn holds damaged data.

    Example:
        >>> load_digits().inputs.shape
        (1797, 64)
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "the data set 'digits' needs scikit-learn: pip install 'tfc_fast[train]'"
        ) from error
    bunch = datasets.load_digits()
    return RawData(
        inputs=bunch.data,
        labels=bunch.target,
        num_classes=10,
        description="handwritten digits of scikit-learn, 8 x 8 pixels",
        source="scikit-learn's digits",
        shape=(1, 8, 8),
    )
