"""Small made data sets for the recipes in config/, in all layouts.

Kernels compute nothing on the stand-in, so that a loss is made of bytes of the images, as they are left in memory: all
are below 124, which keeps them from being a NaN, in float32 and in float16.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from src.dataset.imagenet_classes import imagenet_classes
from tests.made_data import by_class, write_cifar10, write_image_csv, write_image_folder

DARK = 124
CLASSES = 4


def write_cifar10_batches(folder: Path, train: int = 400, test: int = 80) -> Path:
    """Write CIFAR-10's pickled batches, all classes in them."""
    write_cifar10(folder, _images(train, 32, 10), _images(test, 32, 10))
    return folder


def write_photographs(folder: Path, classes: int = CLASSES, each: int = 10) -> Path:
    """Write an image folder with train/ and val/, `each` training images of a class and half as many others."""
    names = [f"class {i}" for i in range(classes)]
    splits = {"train": each, "val": each // 2}
    write_image_folder(folder, {s: by_class(*_images(n * classes, 40, classes), names) for s, n in splits.items()})
    return folder


def write_labelled_photographs(folder: Path, classes: int = CLASSES, each: int = 10) -> Path:
    """Write train/<class>/, and val/ with val.csv."""
    names = [f"class {i}" for i in range(classes)]
    images, labels = _images(each * classes // 2, 40, classes)
    named = [(image, names[label]) for image, label in zip(images, labels)]
    write_image_csv(folder, by_class(*_images(each * classes, 40, classes), names), named)
    return folder


def write_imagenet(folder: Path, classes: int = CLASSES, each: int = 20) -> Path:
    """Write train/<WordNet id>/ and val/<WordNet id>/ of the first classes."""
    names = [known.wnid for known in imagenet_classes()[:classes]]
    splits = {"train": each, "val": each // 2}
    write_image_folder(folder, {s: by_class(*_images(n * classes, 40, classes), names) for s, n in splits.items()})
    for image in folder.rglob("*.png"):
        image.rename(image.with_suffix(".JPEG"))
    return folder


def _images(count: int, side: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(0)
    return random.randint(0, DARK, (count, side, side, 3)).astype(np.uint8), np.arange(count) % classes
