"""Adapter for mindvision's reader of CIFAR-10, which does not run on current MindSpore as released.

Its last release (0.1.0, 2022) imports `mindspore.dataset.vision.c_transforms` and `py_transforms`, which MindSpore
has since merged into `mindspore.dataset.vision`: registering the merged module under the old names is enough. The
release also calls a deprecated setting, with a warning each time.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from mindspore.dataset import vision

from src.devices.silence import quiet

for _old in ("c_transforms", "py_transforms"):
    sys.modules.setdefault(f"mindspore.dataset.vision.{_old}", vision)

from mindvision.classification.dataset import Cifar10  # noqa: E402


def read_cifar10(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read images (N, 32, 32, 3) uint8 and labels (N,) int32 of path/cifar-10-batches-py.

    mindvision unpickles anything, so check the files first (as src/dataset/cifar10.py does).
    """
    with quiet():
        batches = Cifar10(str(path), split)
    return batches.image, batches.label
