"""Random access to the images of a data set, before any transform."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path
from typing import BinaryIO, Callable, Iterable, Mapping, NamedTuple, Optional, Sequence

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from src.cli.errors import UserError

# The mean and standard deviation of ImageNet's RGB channels scaled to 0-1, as torchvision and the model zoo use them.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".gif", ".webp"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff"),
)
# Their formats. Among Pillow's others, EPS would run code in the file through Ghostscript.
IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM", "TIFF")
# Pillow warns of damaged EXIF entries and of large images that it can read; for unusable images it raises.
warnings.filterwarnings("ignore", module=r"PIL\.")
# The longer side in units of the shorter one. Where the shorter side is resized, memory grows with it.
MAX_ASPECT = 1000
_ORIENTATION = 0x0112  # The EXIF tag.


class Part(NamedTuple):
    """Part of an image in pixels, and whether it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool


Choice = Optional[Callable[[int, int], Part]]  # Returns a part of an image from its height and width.


class Source:
    """Images and labels by index.

    classes: class names, in the order of the labels.
    labels: (N,) int32.
    mean, std: of the RGB channels, on a scale of 0 to 1.
    decodes: whether reading an image takes so long that several threads are faster than one.
    """

    decodes = False
    native_size: int | None = None  # Side in pixels of all images alike, or None.

    def __init__(self, classes: Sequence[str], labels, mean: Sequence[float], std: Sequence[float]):
        self.classes = list(classes)
        self.labels = np.asarray(labels, np.int32)
        self.mean, self.std = tuple(mean), tuple(std)
        self.broken: set[int] = set()  # Unreadable images that were left out so far.
        self.passed_over: Counter[str] = Counter()  # Files that are no images, by kind (src/dataset/image_files.py).

    def image(self, index: int, choice: Choice = None) -> np.ndarray:
        """Return an image, or the chosen part of the image, (H, W, 3) uint8."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Return the name of an image for the user: its file, or its number."""
        return f"#{index}"

    def __len__(self) -> int:
        return len(self.labels)


class ArraySource(Source):
    """Images held in memory, (N, H, W, 3) uint8."""

    def __init__(self, images: np.ndarray, labels, classes, mean, std):
        super().__init__(classes, labels, mean, std)
        self.images, self.native_size = images, images.shape[1]

    def image(self, index: int, choice: Choice = None) -> np.ndarray:
        image = self.images[index]
        if choice is None:
            return image
        top, left, height, width, mirrored = choice(*image.shape[:2])
        return np.ascontiguousarray(image[top : top + height, left : left + width][:, :: -1 if mirrored else 1])


class FileSource(Source):
    """Image files of any kind that Pillow reads, normalised like ImageNet."""

    decodes = True

    def __init__(self, files: Iterable[Path], labels, classes, passed_over: Mapping[str, int] = {}):
        super().__init__(classes, labels, IMAGENET_MEAN, IMAGENET_STD)
        self.passed_over.update(passed_over)
        self._files = [os.fspath(file) for file in files]  # A Path takes four times the memory, of a million files.

    def file(self, index: int) -> Path:
        """Return the file of an image."""
        return Path(self._files[index])

    def image(self, index: int, choice: Choice = None) -> np.ndarray:
        return load_image(self.file(index), choice=choice)

    def name(self, index: int) -> str:
        return self.file(index).name


class Subset(Source):
    """A subset of another source, by index."""

    def __init__(self, source: Source, indices: np.ndarray):
        super().__init__(source.classes, source.labels[indices], source.mean, source.std)
        self.source, self.indices, self.passed_over = source, indices, source.passed_over
        self.decodes, self.native_size = source.decodes, source.native_size

    def image(self, index: int, choice: Choice = None) -> np.ndarray:
        return self.source.image(int(self.indices[index]), choice)

    def name(self, index: int) -> str:
        return self.source.name(int(self.indices[index]))


def load_image(path: Path, content: BinaryIO | None = None, choice: Choice = None) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8: the first frame, upright, grey repeated, alpha dropped.

    content: the file's bytes, if already in memory. choice: return this part alone, which is faster. Raises UserError
    that names a file that is not a whole image, or has more pixels than Pillow's limit.
    """
    try:
        with Image.open(content or path, formats=IMAGE_FORMATS) as image:
            if max(image.size) > MAX_ASPECT * min(image.size):
                raise UserError(
                    f"{printable(path)}: {image.width}x{image.height} pixels are too elongated for an image; remove it"
                )
            image.load()
            image = _upright(image)
            if image.mode == "F":
                raise UserError(f"{printable(path)}: floating-point pixels of unknown range; save it with 8 bits")
            if choice is not None:
                top, left, height, width, mirrored = choice(image.height, image.width)
                image = image.crop((left, top, left + width, top + height))
                image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
            if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8 instead of scaling them.
                grey = np.clip(np.asarray(image) >> 8, 0, 255).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=-1)
            image.info.pop("transparency", None)  # Pillow would warn that it gets lost.
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{printable(path)}: not an image; remove it or replace it") from None
    except Exception as error:  # A damaged image raises nearly anything.
        reason = printable(str(error) or type(error).__name__)
        raise UserError(f"{printable(path)}: cannot read the image ({reason}); remove it or replace it") from None


def _upright(image: Image.Image) -> Image.Image:
    """Rotate an image as its EXIF entry says; leave the image unchanged if the entry is damaged."""
    try:
        return image if image.getexif().get(_ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)
    except Exception:  # A damaged entry raises nearly anything, and the image is whole.
        return image


def printable(text: str | Path) -> str:
    """Return a name for display on one line, with unprintable and non-UTF-8 characters escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


def split_by_class(labels: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of `counts[c]` images of every class c, and those of the others, each in ascending order.

    The choice depends only on the labels, so that a validation split never changes.
    """
    random = np.random.RandomState(0)
    drawn = [random.permutation(np.flatnonzero(labels == c))[:n] for c, n in enumerate(counts)]
    chosen = np.sort(np.concatenate(drawn))
    return chosen, np.setdiff1d(np.arange(len(labels)), chosen)
