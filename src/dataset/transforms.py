"""From an image to the network's input, for training and for evaluation."""

from __future__ import annotations

import dataclasses
from typing import Callable, Sequence

import numpy as np
from mindspore.dataset import vision
from mindspore.dataset.vision import Inter
from PIL import Image

# Shorter side before the centre crop, in units of image_size: 256 for 224, as is usual for ImageNet.
CENTER_CROP_MARGIN = 8 / 7


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """How evaluation turns an image (H, W, 3) uint8 into the input (3, image_size, image_size) float32.

    It is saved in every checkpoint and beside every exported model. fit and normalize: see DataConfig; mean and std
    are of the RGB channels on a scale of 0 to 1, and not used when each image is normalised by its own. native_size is
    the side of the data set's images where all have one: a photograph is brought to that scale before it is cropped.
    """

    image_size: int
    fit: str
    normalize: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    native_size: int | None = None

    @classmethod
    def from_json(cls, values: dict) -> Preprocessing:
        """Return the preprocessing of dataclasses.asdict's values, in which JSON makes lists of tuples."""
        return cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Return the input for one image."""
        return np.ascontiguousarray(_applied(evaluation_transforms(self), self.to_scale(image)))

    def fit_image(self, image: np.ndarray) -> np.ndarray:
        """Return an image brought to size, (image_size, image_size, 3) uint8, for a model that normalises itself."""
        return _applied(fit_transforms(self), self.to_scale(image))

    def to_scale(self, image: np.ndarray) -> np.ndarray:
        """Return an image that `fit` can crop: a large one shrunk to native_size, zeros around a tiny one.

        Where neither is needed, as for all images of a data set of one size, that is the image itself.
        """
        if self.fit != "crop":
            return image
        height, width = image.shape[:2]
        if self.native_size and min(height, width) > self.native_size:
            scale = self.native_size / min(height, width)
            size = (round(width * scale), round(height * scale))
            return np.asarray(Image.fromarray(image).resize(size, Image.BILINEAR))
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
    size = preprocessing.image_size
    return {
        "resize": [vision.Resize((size, size), Inter.LINEAR)],
        "crop": [vision.CenterCrop(size)],
        "center_crop": [vision.Resize(round(size * CENTER_CROP_MARGIN), Inter.LINEAR), vision.CenterCrop(size)],
    }[preprocessing.fit]


def training_transforms(
    preprocessing: Preprocessing, augment: Sequence[str], crop_padding: int | None
) -> list[Callable]:
    """Return the operators for training: those of evaluation, with the augmentations named in `augment`.

    crop_flip is a random crop and a left-right flip. With fit "resize" the crop is taken from the resized image with
    `crop_padding` zeros around (default: an eighth of image_size); with "crop" from the image itself, likewise padded;
    with "center_crop" it is a random part of 8 to 100% of the area, resized (Szegedy et al. 2014).
    """
    size = preprocessing.image_size
    padding = size // 8 if crop_padding is None else crop_padding
    fit = fit_transforms(preprocessing)
    if "crop_flip" in augment:
        crop = vision.RandomCrop(size, padding, pad_if_needed=True)
        fit = {
            "resize": [*fit, crop],
            "crop": [crop],
            "center_crop": [vision.RandomResizedCrop(size, interpolation=Inter.LINEAR)],
        }[preprocessing.fit] + [_by_chance(vision.HorizontalFlip(), 0.5)]
    if "color_jitter" in augment:
        fit.append(vision.RandomColorAdjust(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1))
    normalized = _normalization(preprocessing)
    if "cutout" in augment:
        # After normalisation a square of zeros is a square of the mean colour (DeVries and Taylor 2017).
        normalized.append(_by_chance(vision.CutOut(max(1, size // 4), is_hwc=True), 1.0))
    return [*fit, *normalized, vision.HWC2CHW()]


def _by_chance(transform: Callable, probability: float) -> Callable:
    """Return an operator that applies another to a share of the images, with random numbers of its own.

    MindSpore seeds all operators of a pipeline alike, so that those which take equally many random numbers an image
    move in step: RandomHorizontalFlip after RandomCrop would flip upper crops always and lower ones never, and
    CutOut would cut where the crop is taken. RandomSelectSubpolicy takes another number of them. (Each of several
    workers draws the same numbers for it, so that neighbours in a batch share theirs.)
    """
    return vision.RandomSelectSubpolicy([[(transform, probability)]])


def _normalization(preprocessing: Preprocessing) -> list[Callable]:
    if preprocessing.normalize == "per_image":
        return [standardize]
    return [vision.Rescale(1 / 255, 0.0), vision.Normalize(list(preprocessing.mean), list(preprocessing.std))]


def standardize(image: np.ndarray) -> np.ndarray:
    """Return (x - mean) / max(std, 1 / sqrt(number of values)) over the whole image, as TensorFlow does."""
    pixels = image.astype(np.float32)
    return (pixels - pixels.mean()) / max(pixels.std(), pixels.size**-0.5)
