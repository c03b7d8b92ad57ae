"""Small made data sets in the layouts of the recipes in config/.

Kernels compute nothing on the stand-in, so that a loss is made of the bytes of images, as they are left in memory: all
are below 124, which keeps them from being a NaN, in float32 and in float16.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.made_data import by_class, write_cifar10, write_image_csv, write_image_folder

DARK = 124
CLASSES, TRAIN, VAL = 4, 40, 20
NAMES = [f"class {i}" for i in range(CLASSES)]


def cifar10(folder: Path) -> Path:
    """Write CIFAR-10's pickled batches: 400 training images, so that a batch of 128 and val_split leave some."""
    write_cifar10(folder, _images(400, 32, 10), _images(80, 32, 10))
    return folder


def image_folder(folder: Path) -> Path:
    """Write train/<class>/ and val/<class>/; no whole number of batches in val/."""
    write_image_folder(folder, {split: by_class(*_images(count), NAMES) for split, count in _COUNTS.items()})
    return folder


def image_csv(folder: Path) -> Path:
    """Write train/<class>/, and val/ with val.csv."""
    images, labels = _images(VAL)
    write_image_csv(folder, by_class(*_images(TRAIN), NAMES), [(i, NAMES[n]) for i, n in zip(images, labels)])
    return folder


def train_only(folder: Path) -> Path:
    """Write train/<class>/ alone, a batch of 8 for each of eight devices: a run without any evaluation."""
    write_image_folder(folder, {"train": by_class(*_images(64), NAMES)})
    return folder


def _images(count: int, side: int = 40, classes: int = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(0)
    return random.randint(0, DARK, (count, side, side, 3)).astype(np.uint8), np.arange(count) % classes


_COUNTS = {"train": TRAIN, "val": VAL}
WRITERS = {"cifar10": cifar10, "image_folder": image_folder, "image_csv": image_csv, "train_only": train_only}
