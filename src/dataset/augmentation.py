"""Augmentation: random transforms of training images."""

from __future__ import annotations

import math
from functools import partial
from random import Random
from typing import Callable, NamedTuple, Optional, Sequence, Union

import numpy as np
from mindspore.dataset import vision
from mindspore.dataset.vision import Inter

from src.dataset.mixing import METHODS
from src.dataset.preprocessing import Preprocessing, applied, fit_transforms, normalization
from src.dataset.rand_augment import rand_augment
from src.dataset.source import Part


class Drawn:
    """A random transform whose random numbers depend only on the seed, its name and the draw (see Epochs).

    MindSpore's random operators draw from the state of their thread and are all seeded alike, so that an upper crop
    would always be flipped. Here the inputs of a step are the same for any number of threads and devices, and a run can
    resume at a step without repeating the earlier ones.
    """

    def __init__(self, name: str, seed: int, change: Callable[[np.ndarray, Random], np.ndarray]):
        self.name, self.seed, self.change = name, seed, change

    def __call__(self, image: np.ndarray, draw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.ascontiguousarray(self.change(image, drawn(self.seed, self.name, draw))), draw


class DrawnPart:
    """A random part of an image, cut out and mirrored as it is read: the rest is never copied.

    The first stage of a pipeline, if any. The part covers 8 to 100% of the area, with sides 3:4 to 4:3 (Szegedy et al.
    2014); after ten misses it is the largest such part in the centre.
    """

    def __init__(self, seed: int):
        self.seed = seed

    def __call__(self, draw: int, height: int, width: int) -> Part:
        random, mirrored = drawn(self.seed, "crop", draw), drawn(self.seed, "flip", draw).random() < 0.5
        for _ in range(10):
            area = random.uniform(0.08, 1.0) * height * width
            ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                y, x = int(random.random() * (height - h + 1)), int(random.random() * (width - w + 1))
                return Part(y, x, h, w, mirrored)
        w, h = min(width, max(1, round(height * 4 / 3))), min(height, max(1, round(width * 4 / 3)))
        return Part((height - h) // 2, (width - w) // 2, h, w, mirrored)


def drawn(seed: int, name: str, draw: int) -> Random:
    """Return the random numbers of a draw for the transform of this name.

    A text as seed is hashed, so that neighbouring draws are unrelated; the same in every version of Python.
    """
    return Random(f"{seed} {name} {draw}")


class Target(NamedTuple):
    """Parameters from which an augmentation is built.

    side: of the transformed image, in pixels.
    crop_padding: zeros around an image before cropping.
    """

    preprocessing: Preprocessing
    side: int
    crop_padding: int
    seed: int


# A stage of a pipeline: deterministic operators, or a random transform.
Stage = Union[list, Drawn, DrawnPart]


def crop_flip(target: Target) -> list[Stage]:
    """Return a random crop and a horizontal flip, which bring an image to the network's size.

    The crop is taken from the zero-padded image, resized before with fit "resize"; with "center_crop" it is a
    DrawnPart, which is then resized. Where the graph resizes, images are cropped before.
    """
    preprocessing, seed, size = target.preprocessing, target.seed, target.preprocessing.image_size
    crop = Drawn("crop", seed, lambda image, random: random_crop(image, target.side, target.crop_padding, random))
    flipped = Drawn("flip", seed, flip)
    if preprocessing.resizer == "device" or preprocessing.fit == "crop":
        return [crop, flipped]
    if preprocessing.fit == "resize":
        return [fit_transforms(preprocessing), crop, flipped]
    return [DrawnPart(seed), [vision.Resize((size, size), Inter.LINEAR)]]


def color_jitter(target: Target) -> list[Stage]:
    """Return a random transform of brightness, contrast and saturation by 40% and of hue by 10%."""
    return [Drawn("color", target.seed, jitter)]


def randaugment(target: Target) -> list[Stage]:
    """Return RandAugment: two of fourteen transforms at magnitude 9 of 30 (rand_augment.py)."""
    return [Drawn("randaugment", target.seed, rand_augment)]


def cutout(target: Target) -> list[Stage]:
    """Return a random transform that fills a square with the mean colour (Cutout, DeVries and Taylor 2017)."""
    length = max(1, target.side // 4)
    if not target.preprocessing.on_device:  # After normalisation a square of zeros is a square of the mean colour.
        return [Drawn("cutout", target.seed, partial(cut_out, length))]
    mean = np.round(np.multiply(target.preprocessing.mean, 255)).astype(np.uint8)
    by_dataset = target.preprocessing.normalize == "dataset"

    def change(image: np.ndarray, random: Random) -> np.ndarray:
        return cut_out(length, image, random, mean if by_dataset else round(image.mean()))

    return [Drawn("cutout", target.seed, change)]


class Augmentation(NamedTuple):
    """An augmentation and its place in the pipeline.

    stage: its place in the pipeline, one of the constants below.
    make: returns its stages; None for transforms of whole batches, which are in mixing.py.
    """

    stage: str
    make: Optional[Callable[[Target], list[Stage]]] = None


GEOMETRY, COLOR, NORMALIZED, BATCH = "geometry", "color", "normalized", "batch"
AUGMENTATIONS = {
    "crop_flip": Augmentation(GEOMETRY, crop_flip),
    "color_jitter": Augmentation(COLOR, color_jitter),
    "randaugment": Augmentation(COLOR, randaugment),
    "cutout": Augmentation(NORMALIZED, cutout),
    **{method: Augmentation(BATCH) for method in METHODS},
}


def training_stages(
    preprocessing: Preprocessing, augment: Sequence[str], crop_padding: int | None, seed: int
) -> list[Stage]:
    """Return the stages of a training pipeline: the operators of evaluation with random transforms between them.

    augment: names of AUGMENTATIONS. crop_padding: None for an eighth of the image's side.
    """
    target = _target(preprocessing, preprocessing.image_size, crop_padding, seed)
    normalized = _stages(NORMALIZED, augment, target)
    if not preprocessing.on_device:
        normalized = [normalization(preprocessing), *normalized, [vision.HWC2CHW()]]
    geometry = _stages(GEOMETRY, augment, target) or [fit_transforms(preprocessing)]
    return [*geometry, *_stages(COLOR, augment, target), *normalized]


def pixel_changes(
    preprocessing: Preprocessing, augment: Sequence[str], crop_padding: int | None, seed: int
) -> list[Drawn]:
    """Return the random transforms of a training image that the graph resizes; see training_stages."""
    target = _target(preprocessing, preprocessing.side, crop_padding, seed)
    return [change for stage in (GEOMETRY, COLOR, NORMALIZED) for change in _stages(stage, augment, target)]


def _target(preprocessing: Preprocessing, side: int, crop_padding: int | None, seed: int) -> Target:
    return Target(preprocessing, side, side // 8 if crop_padding is None else crop_padding, seed)


def _stages(stage: str, augment: Sequence[str], target: Target) -> list[Stage]:
    chosen = (kind for name, kind in AUGMENTATIONS.items() if name in augment and kind.stage == stage)
    return [made for kind in chosen for made in kind.make(target)]


def flip(image: np.ndarray, random: Random) -> np.ndarray:
    """Flip an image horizontally with probability 1/2."""
    return image[:, ::-1] if random.random() < 0.5 else image


def random_crop(image: np.ndarray, size: int, padding: int, random: Random) -> np.ndarray:
    """Return a random square crop of a zero-padded image, padded further if smaller than the square."""
    around = [padding + max(0, size - side - 2 * padding) for side in image.shape[:2]]
    if any(around):
        image = np.pad(image, [(n, n) for n in around] + [(0, 0)])
    y, x = (int(random.random() * (side - size + 1)) for side in image.shape[:2])
    return image[y : y + size, x : x + size]


def jitter(image: np.ndarray, random: Random) -> np.ndarray:
    """Change brightness, contrast, saturation and hue of an image (H, W, 3) uint8, in random order."""
    changes = [
        vision.AdjustBrightness(random.uniform(0.6, 1.4)),
        vision.AdjustContrast(random.uniform(0.6, 1.4)),
        vision.AdjustSaturation(random.uniform(0.6, 1.4)),
        vision.AdjustHue(random.uniform(-0.1, 0.1)),
    ]
    random.shuffle(changes)
    return applied(changes, image)


def cut_out(length: int, image: np.ndarray, random: Random, color: np.ndarray | int = 0) -> np.ndarray:
    """Fill a square around a random pixel of an image with one color, clipped at the border."""
    y, x = (int(random.random() * side) - length // 2 for side in image.shape[:2])
    image = image.copy()
    image[max(0, y) : max(0, y + length), max(0, x) : max(0, x + length)] = color
    return image
