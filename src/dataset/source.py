"""Random access to the images of a data set, before any transform."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

import numpy as np
from PIL import Image, UnidentifiedImageError

from src.errors import UserError

# The mean and standard deviation of ImageNet's RGB channels scaled to 0-1, as torchvision and the model zoo use them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


class Source:
    """Images and labels by index.

    classes: class names, in the order of the labels.
    labels: (N,) int32.
    mean, std: of the RGB channels, on a scale of 0 to 1.
    decodes: whether making an image takes so long that several threads are faster than one.
    """

    decodes = False
    native_size: int | None = None  # Side in pixels of all images alike, or None.

    def __init__(self, classes: Sequence[str], labels, mean: Sequence[float], std: Sequence[float]):
        self.classes = list(classes)
        self.labels = np.asarray(labels, np.int32)
        self.mean, self.std = tuple(mean), tuple(std)

    def image(self, index: int) -> np.ndarray:
        """Return an image, (H, W, 3) uint8."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Return what a person would call an image: its file, or its number."""
        return f"#{index}"

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        # With numpy 2, MindSpore takes a label only as a zero-dimensional array, not as a scalar.
        return self.image(int(index)), np.asarray(self.labels[index])


class ArraySource(Source):
    """Images held in memory, (N, H, W, 3) uint8."""

    def __init__(self, images: np.ndarray, labels, classes, mean, std):
        super().__init__(classes, labels, mean, std)
        self.images, self.native_size = images, images.shape[1]

    def image(self, index: int) -> np.ndarray:
        return self.images[index]


class FileSource(Source):
    """Image files of any kind that Pillow reads, normalised like ImageNet."""

    decodes = True

    def __init__(self, files: Sequence[Path], labels, classes):
        super().__init__(classes, labels, IMAGENET_MEAN, IMAGENET_STD)
        self.files = list(files)

    def image(self, index: int) -> np.ndarray:
        return load_image(self.files[index])

    def name(self, index: int) -> str:
        return self.files[index].name


class Subset(Source):
    """Some images of another source, by index."""

    def __init__(self, source: Source, indices: np.ndarray):
        super().__init__(source.classes, source.labels[indices], source.mean, source.std)
        self.source, self.indices = source, indices
        self.decodes, self.native_size = source.decodes, source.native_size

    def image(self, index: int) -> np.ndarray:
        return self.source.image(int(self.indices[index]))

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))


def load_image(path: Path) -> np.ndarray:
    """Return the image in a file as (H, W, 3) uint8: grey repeated, alpha dropped, EXIF rotation ignored.

    Raises UserError that names the file when it is not a whole image.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8 instead of scaling them.
                grey = np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=-1)
            return np.asarray(image.convert("RGB"))
    except UnidentifiedImageError:
        raise UserError(f"{path}: not an image; remove it or replace it") from None
    except Exception as error:  # A damaged image raises nearly anything.
        raise UserError(f"{path}: cannot read the image ({error}); remove it or replace it") from None


def split_by_class(labels: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of `counts[c]` images of every class c, and of the others, each in ascending order.

    Which ones are drawn depends on nothing but the labels, so that a validation slice stays the same for good.
    """
    random = np.random.RandomState(0)
    drawn = [random.permutation(np.flatnonzero(labels == c))[:n] for c, n in enumerate(counts)]
    chosen = np.sort(np.concatenate(drawn))
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen)
