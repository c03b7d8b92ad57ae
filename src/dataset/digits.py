"""scikit-learn's handwritten digits: 1,797 grey images of 8x8 pixels that come with the installed package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src.dataset.source import ArraySource, split_by_class

# Of the training images scaled to 0-1 (tests/dataset/test_digits.py computes them).
MEAN, STD = (0.3058,) * 3, (0.3764,) * 3
TEST_FRACTION = 0.2


def open_digits(path: Path, split: str) -> ArraySource:
    """Open a split: a fixed fifth of every class is the test set. `path` is not used."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=-1)
    counts = np.round(np.bincount(digits.target) * TEST_FRACTION).astype(int)
    test, train = split_by_class(digits.target, counts)
    chosen = {"train": train, "test": test}[split]
    return ArraySource(images[chosen], digits.target[chosen], [str(d) for d in digits.target_names], MEAN, STD)
