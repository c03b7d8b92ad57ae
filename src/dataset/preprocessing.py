"""From an image to the network's input, for training and for evaluation."""

from __future__ import annotations

import dataclasses
import math
from random import Random
from typing import Callable, Sequence

import numpy as np
from mindspore.dataset import vision
from mindspore.dataset.vision import Inter
from PIL import Image

# Shorter side before the centre crop: 256 for the sizes of ImageNet networks, otherwise in units of image_size.
_SHORTER_SIDE, _MARGIN = {224: 256, 227: 256}, 8 / 7
FITS, NORMALIZATIONS = ("resize", "crop", "center_crop"), ("dataset", "per_image")
RESIZERS = ("mindspore", "pillow", "device")
MAX_IMAGE_SIZE = 8192  # What a file may ask for, before memory is taken for it.


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How evaluation turns an image (H, W, 3) uint8 into the input (3, image_size, image_size) float32.

    It is saved in every checkpoint and beside every exported model. fit, normalize and resizer: see DataConfig; mean
    and std are of the RGB channels on a scale of 0 to 1, and not used when each image is normalised by its own.
    native_size is the side of the data set's images where all have one: a photograph is brought to that scale before it
    is cropped. resizer is "device" where all is done in the graph, which then takes pixels, (side, side, 3) uint8
    (src/network/input_layer.py).
    """

    image_size: int
    fit: str
    normalize: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    native_size: int | None = None
    resizer: str = "mindspore"

    @property
    def on_device(self) -> bool:
        """Whether the graph makes the network's input from pixels."""
        return self.resizer == "device"

    @property
    def side(self) -> int:
        """Side of the pixels from which a graph makes the network's input: native_size where it resizes them itself."""
        return self.native_size if self.on_device and self.fit != "crop" else self.image_size

    @property
    def shorter_side(self) -> int:
        """Length in pixels that "center_crop" brings the shorter side to, before it takes the centre."""
        return _SHORTER_SIDE.get(self.image_size, round(self.image_size * _MARGIN))

    @classmethod
    def from_json(cls, values: dict) -> Preprocessing:
        """Return the preprocessing of dataclasses.asdict's values, in which JSON makes lists of tuples.

        Raises ValueError, TypeError or KeyError for values that are not one's.
        """
        made = cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
        numbers = np.array([made.mean, made.std], float)
        sides = [made.image_size, *([] if made.native_size is None else [made.native_size])]
        sound = (
            all(type(side) is int and 0 < side <= MAX_IMAGE_SIZE for side in sides),
            made.fit in FITS,
            made.normalize in NORMALIZATIONS,
            made.resizer in RESIZERS,
            made.native_size is not None or not made.on_device,
            numbers.shape == (2, 3) and ((numbers >= 0) & (numbers <= 1)).all() and (numbers[1] > 0).all(),
            not any(isinstance(n, bool) for n in (*made.mean, *made.std)),
        )
        if not all(sound):
            raise ValueError("its preprocessing is not one that there is")
        return made

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the input for one image."""
        if not self.on_device:
            return np.ascontiguousarray(_applied(evaluation_transforms(self), self.to_scale(image)))
        pixels, matrix = self.fit_image(image).astype(np.float32), self.resizing()
        if matrix is not None:
            pixels = np.einsum("yh,hwc,xw->yxc", matrix, pixels, matrix, optimize=True)
        return np.ascontiguousarray(_applied([*_normalization(self), vision.HWC2CHW()], pixels))

    def fit_image(self, image: np.ndarray) -> np.ndarray:
        """Return an image brought to (side, side, 3) uint8, for a model that does the rest itself."""
        if not self.on_device or self.fit == "crop":
            return _applied(fit_transforms(self), self.to_scale(image))
        if self.fit == "resize":
            return pillow_resized(image, self.side, self.side)
        return pillow_center_crop(image, self.side, self.side)

    def resizing(self) -> np.ndarray | None:
        """Return the matrix (image_size, side) that resizes rows, or columns, of pixels in a graph; None for none.

        Bilinear without smoothing, as MindSpore's operator does it on float32 images. "center_crop" has only the middle
        rows of a larger one.
        """
        size = self.shorter_side if self.fit == "center_crop" else self.image_size
        if not self.on_device or self.fit == "crop" or size == self.side:
            return None
        places = np.clip((np.arange(size) + 0.5) * self.side / size - 0.5, 0, self.side - 1)
        low = np.floor(places).astype(int)
        matrix = np.zeros((size, self.side), np.float32)
        matrix[np.arange(size), low] = 1 - (places - low)
        matrix[np.arange(size), np.minimum(low + 1, self.side - 1)] += (places - low).astype(np.float32)
        start = (size - self.image_size) // 2
        return matrix[start : start + self.image_size]

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """Return an image of the data set, (native_size, native_size, 3), as the (side, side, 3) that a graph takes."""
        return image if len(image) == self.side else self.fit_image(image)

    def on_host(self) -> Preprocessing:
        """Return the same done by data-set operators, for what has no such graph."""
        return dataclasses.replace(self, resizer="mindspore") if self.on_device else self

    def to_scale(self, image: np.ndarray) -> np.ndarray:
        """Return an image that `fit` can crop: a large one shrunk to native_size, zeros around a tiny one.

        Where neither is needed, as for all images of a data set of one size, that is the image itself.
        """
        if self.fit != "crop":
            return image
        height, width = image.shape[:2]
        if self.native_size and min(height, width) > self.native_size:
            scale = self.native_size / min(height, width)
            return pillow_resized(image, round(width * scale), round(height * scale))
        missing = [self.image_size - side for side in (height, width)]
        if max(missing) < self.image_size * 2 // 3:
            return image
        # MindSpore's CenterCrop pads by three times a side at most.
        before_after = [((n + 1) // 2, n // 2) if n > 0 else (0, 0) for n in missing]
        return np.pad(image, [*before_after, (0, 0)])

    def undo(self, inputs: np.ndarray) -> np.ndarray:
        """Return inputs (N, 3, H, W) as pixels (N, H, W, 3) uint8 for display.

        Per-image normalisation is not kept, so such images are stretched to the full range.
        """
        pixels = inputs.transpose(0, 2, 3, 1)
        if self.normalize == "dataset":
            pixels = pixels * np.float32(self.std) + np.float32(self.mean)
        else:
            low, high = (f(pixels, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
            pixels = (pixels - low) / np.maximum(high - low, 1e-6)
        return np.round(np.clip(pixels, 0, 1) * 255).astype(np.uint8)


def _applied(transforms: Sequence[Callable], image: np.ndarray) -> np.ndarray:
    for transform in transforms:
        image = transform(image)
    return image


def evaluation_transforms(preprocessing: Preprocessing) -> list[Callable]:
    """Return the operators that make the network's input, without chance."""
    return [*fit_transforms(preprocessing), *_normalization(preprocessing), vision.HWC2CHW()]


def fit_transforms(preprocessing: Preprocessing) -> list[Callable]:
    """Return the operators that bring an image (H, W, 3) uint8 to image_size."""
    size, shorter_side = preprocessing.image_size, preprocessing.shorter_side
    if preprocessing.resizer == "pillow" and preprocessing.fit != "crop":
        if preprocessing.fit == "resize":
            return [lambda image: pillow_resized(image, size, size)]
        return [lambda image: pillow_center_crop(image, shorter_side, size)]
    return {
        "resize": [vision.Resize((size, size), Inter.LINEAR)],
        "crop": [vision.CenterCrop(size)],
        "center_crop": [vision.Resize(shorter_side, Inter.LINEAR), vision.CenterCrop(size)],
    }[preprocessing.fit]


def pillow_resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return an image (H, W, 3) uint8 resized by Pillow, bilinear and smoothed where it shrinks."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.BILINEAR))


def pillow_center_crop(image: np.ndarray, shorter_side: int, size: int) -> np.ndarray:
    """Return the centre (size, size, 3) of an image whose shorter side Pillow has resized.

    To the pixel what torchvision's Resize and CenterCrop make of a photograph, and what the published ImageNet results
    were computed with.
    """
    height, width = image.shape[:2]
    longer_side = int(shorter_side * max(height, width) / min(height, width))
    if width <= height:
        resized = pillow_resized(image, shorter_side, longer_side)
    else:
        resized = pillow_resized(image, longer_side, shorter_side)
    top, left = ((side - size) // 2 for side in resized.shape[:2])
    return resized[top : top + size, left : left + size]


def training_stages(
    preprocessing: Preprocessing, augment: Sequence[str], crop_padding: int | None, seed: int
) -> list[list[Callable] | Drawn]:
    """Return what makes a training input, in order: lists of operators without chance, and random changes.

    The operators are those of evaluation, except that a random crop of "center_crop" is resized by MindSpore in any
    case; the changes are those named in `augment`:

    - crop_flip, a random crop and a left-right flip. With fit "resize" the crop is taken from the resized image with
      `crop_padding` zeros around (default: an eighth of image_size); with "crop" from the image itself, likewise
      padded; with "center_crop" it is a random part of 8 to 100% of the area, which is then resized (Szegedy et al.
      2014).
    - color_jitter, brightness, contrast and saturation by 40% and hue by 10%.
    - cutout, a square of a quarter of the side set to the mean colour (DeVries and Taylor 2017).
    """
    size = preprocessing.image_size
    padding = size // 8 if crop_padding is None else crop_padding
    stages: list[list[Callable] | Drawn] = [fit_transforms(preprocessing)]
    if "crop_flip" in augment:
        flip = Drawn("flip", seed, _flipped)
        crop = Drawn("crop", seed, lambda image, random: random_crop(image, size, padding, random))
        part = Drawn("crop", seed, random_part)
        resize = [vision.Resize((size, size), Inter.LINEAR)]
        stages = {"resize": [*stages, crop, flip], "crop": [crop, flip], "center_crop": [part, flip, resize]}[
            preprocessing.fit
        ]
    if "color_jitter" in augment:
        stages.append(Drawn("color", seed, jitter))
    stages.append(_normalization(preprocessing))
    if "cutout" in augment:
        # After normalisation a square of zeros is a square of the mean colour.
        stages.append(Drawn("cutout", seed, lambda image, random: cut_out(image, max(1, size // 4), random)))
    return [*stages, [vision.HWC2CHW()]]


def pixel_changes(
    preprocessing: Preprocessing, augment: Sequence[str], crop_padding: int | None, seed: int
) -> list[Drawn]:
    """Return the random changes of a training image that leave it pixels, (side, side, 3) uint8, for a graph to take.

    They are those of training_stages, but that with fit "resize" an image is cropped before it is resized, with an
    eighth of its own side around or `crop_padding` of its own pixels; "center_crop" has no random part.
    """
    side = preprocessing.side
    padding = side // 8 if crop_padding is None else crop_padding
    changes = []
    if "crop_flip" in augment:
        changes.append(Drawn("crop", seed, lambda image, random: random_crop(image, side, padding, random)))
        changes.append(Drawn("flip", seed, _flipped))
    if "color_jitter" in augment:
        changes.append(Drawn("color", seed, jitter))
    if "cutout" in augment:
        mean = np.round(np.multiply(preprocessing.mean, 255)).astype(np.uint8)

        def cut(image: np.ndarray, random: Random) -> np.ndarray:
            color = mean if preprocessing.normalize == "dataset" else round(image.mean())
            return cut_out(image, max(1, side // 4), random, color)

        changes.append(Drawn("cutout", seed, cut))
    return changes


class Drawn:
    """A random change of an image, whose random numbers follow from the seed, its name and the draw (see Epochs) alone.

    MindSpore's random operators draw from the state of the thread that they happen to run on, and all of a pipeline are
    seeded alike: an upper crop would always be flipped. Drawn like this, the inputs of a step are the same whatever the
    number of threads and devices, and a resumed run goes to its step without repeating those before.
    """

    def __init__(self, name: str, seed: int, change: Callable[[np.ndarray, Random], np.ndarray]):
        self.name, self.seed, self.change = name, seed, change

    def __call__(self, image: np.ndarray, draw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # A text as seed is hashed, so that neighbouring draws are unrelated; the same in every version of Python.
        return np.ascontiguousarray(self.change(image, Random(f"{self.seed} {self.name} {draw}"))), draw


def _flipped(image: np.ndarray, random: Random) -> np.ndarray:
    return image[:, ::-1] if random.random() < 0.5 else image


def random_crop(image: np.ndarray, size: int, padding: int, random: Random) -> np.ndarray:
    """Return a random square of an image with zeros around, more of them where it is smaller than the square."""
    around = [padding + max(0, size - side - 2 * padding) for side in image.shape[:2]]
    if any(around):
        image = np.pad(image, [(n, n) for n in around] + [(0, 0)])
    y, x = (int(random.random() * (side - size + 1)) for side in image.shape[:2])
    return image[y : y + size, x : x + size]


def random_part(image: np.ndarray, random: Random) -> np.ndarray:
    """Return a part of 8 to 100% of the area, its sides 3:4 to 4:3; after ten misses, the largest such part."""
    height, width = image.shape[:2]
    for _ in range(10):
        area = random.uniform(0.08, 1.0) * height * width
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            y, x = int(random.random() * (height - h + 1)), int(random.random() * (width - w + 1))
            return image[y : y + h, x : x + w]
    w, h = min(width, max(1, round(height * 4 / 3))), min(height, max(1, round(width * 4 / 3)))
    y, x = (height - h) // 2, (width - w) // 2
    return image[y : y + h, x : x + w]


def jitter(image: np.ndarray, random: Random) -> np.ndarray:
    """Return an image (H, W, 3) uint8 with other brightness, contrast, saturation and hue, in random order."""
    changes = [
        vision.AdjustBrightness(random.uniform(0.6, 1.4)),
        vision.AdjustContrast(random.uniform(0.6, 1.4)),
        vision.AdjustSaturation(random.uniform(0.6, 1.4)),
        vision.AdjustHue(random.uniform(-0.1, 0.1)),
    ]
    random.shuffle(changes)
    return _applied(changes, image)


def cut_out(image: np.ndarray, length: int, random: Random, color: np.ndarray | int = 0) -> np.ndarray:
    """Return an image with a square of one color around a random pixel; at the border a part of the square."""
    y, x = (int(random.random() * side) - length // 2 for side in image.shape[:2])
    image = image.copy()
    image[max(0, y) : max(0, y + length), max(0, x) : max(0, x + length)] = color
    return image


def _normalization(preprocessing: Preprocessing) -> list[Callable]:
    if preprocessing.normalize == "per_image":
        return [standardize]
    return [vision.Rescale(1 / 255, 0.0), vision.Normalize(list(preprocessing.mean), list(preprocessing.std))]


def standardize(image: np.ndarray) -> np.ndarray:
    """Return (x - mean) / max(std, 1 / sqrt(number of values)) over the whole image, as TensorFlow does."""
    pixels = image.astype(np.float32)
    return (pixels - pixels.mean()) / max(pixels.std(), pixels.size**-0.5)
