"""Deterministic preprocessing: from an image to the network's input."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Sequence

import numpy as np
from mindspore.dataset import vision
from mindspore.dataset.vision import Inter
from PIL import Image

# Shorter side before the centre crop: 256 for the sizes of ImageNet networks, otherwise in units of image_size.
_SHORTER_SIDE, _MARGIN = {224: 256, 227: 256}, 8 / 7
FITS, NORMALIZATIONS = ("resize", "crop", "center_crop"), ("dataset", "per_image")
RESIZERS, NORMALIZERS = ("mindspore", "pillow", "device"), ("host", "device")
MAX_IMAGE_SIZE = 8192  # Limit for sizes read from files, before memory is allocated.


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of evaluation, from an image (H, W, 3) uint8 to the input (C, image_size, image_size) float32.

    Saved in every checkpoint and with every exported model. fit, normalize: see DataConfig. mean, std: of the RGB
    channels on a scale of 0 to 1, not used with normalize "per_image"; one value each for a network of grey images.
    native_size: side of the data set's images if all have the same; a photograph is resized to it before cropping.
    resizer: see DataConfig, or "device" for resizing in the graph. resize: shorter side before the crop of
    "center_crop", if it is unusual. normalizer: "host" or "device", which is the graph. A graph that does either takes
    pixels (side, side, 3) uint8 (src/network/input_layer.py).
    """

    image_size: int
    fit: str
    normalize: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    native_size: int | None = None
    resizer: str = "mindspore"
    resize: int | None = None
    normalizer: str = "host"

    @property
    def channels(self) -> int:
        """Channels of the network's input: 3, or 1 for grey images."""
        return len(self.mean)

    @property
    def on_device(self) -> bool:
        """Whether the network's graph takes uint8 images, and normalises them."""
        return "device" in (self.resizer, self.normalizer)

    @property
    def side(self) -> int:
        """Side in pixels of the host's output: native_size where the graph resizes the images."""
        return self.native_size if self.resizer == "device" and self.fit != "crop" else self.image_size

    @property
    def shorter_side(self) -> int:
        """Length in pixels of the shorter side before the centre crop of "center_crop"."""
        usual = _SHORTER_SIDE.get(self.image_size, round(self.image_size * _MARGIN))
        return max(self.resize or usual, self.image_size)

    @classmethod
    def from_json(cls, values: dict) -> Preprocessing:
        """Build a Preprocessing from the values of dataclasses.asdict, in which JSON has turned tuples into lists.

        Raises ValueError, TypeError or KeyError for invalid values.
        """
        made = cls(**{**values, "mean": tuple(values["mean"]), "std": tuple(values["std"])})
        numbers = np.array([made.mean, made.std], float)
        sides = [made.image_size, *(side for side in (made.native_size, made.resize) if side is not None)]
        sound = (
            all(type(side) is int and 0 < side <= MAX_IMAGE_SIZE for side in sides),
            made.fit in FITS,
            made.normalize in NORMALIZATIONS,
            made.resizer in RESIZERS,
            made.normalizer in NORMALIZERS,
            made.native_size is not None or made.resizer != "device",
            numbers.shape in ((2, 1), (2, 3)) and ((numbers >= 0) & (numbers <= 1)).all() and (numbers[1] > 0).all(),
            not any(isinstance(n, bool) for n in (*made.mean, *made.std)),
        )
        if not all(sound):
            raise ValueError("invalid preprocessing")
        return made

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Preprocess one image."""
        if not self.on_device:
            return np.ascontiguousarray(applied(evaluation_transforms(self), self.to_scale(image)))
        return self.from_pixels(self.fit_image(image))

    def from_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Return the network's input for pixels (side, side, 3) uint8, computed as in the graph."""
        pixels, matrix = pixels.astype(np.float32), self.resizing()
        if matrix is not None:
            pixels = np.einsum("yh,hwc,xw->yxc", matrix, pixels, matrix, optimize=True)
        return np.ascontiguousarray(applied([*normalization(self), vision.HWC2CHW()], pixels))

    def fit_image(self, image: np.ndarray) -> np.ndarray:
        """Bring an image to (side, side, 3) uint8, for a model that does the remaining preprocessing."""
        if self.resizer != "device" or self.fit == "crop":
            return np.ascontiguousarray(applied(fit_transforms(self), self.to_scale(image)))
        if self.fit == "resize":
            return pillow_resized(image, self.side, self.side)
        return pillow_center_crop(image, self.side, self.side)

    def resizing(self) -> np.ndarray | None:
        """Return the matrix (image_size, side) by which a graph resizes rows and columns of pixels, or None.

        Bilinear without smoothing, as MindSpore's operator does it on float32 images. "center_crop" has only the middle
        rows of a larger one.
        """
        size = self.shorter_side if self.fit == "center_crop" else self.image_size
        if self.resizer != "device" or self.fit == "crop" or size == self.side == self.image_size:
            return None
        places = np.clip((np.arange(size) + 0.5) * self.side / size - 0.5, 0, self.side - 1)
        low = np.floor(places).astype(int)
        matrix = np.zeros((size, self.side), np.float32)
        matrix[np.arange(size), low] = 1 - (places - low)
        matrix[np.arange(size), np.minimum(low + 1, self.side - 1)] += (places - low).astype(np.float32)
        start = (size - self.image_size) // 2
        return matrix[start : start + self.image_size]

    def steps(self, pixels: bool) -> list[dict[str, Any]]:
        """Return the preprocessing of an image file as JSON steps for other programs (docs/DEPLOYMENT.md).

        pixels: stop at the (side, side, 3) uint8 of a model that does the rest itself.
        """
        size, native, exact = self.image_size, self.native_size, self.resizer != "mindspore"

        def resize(**to: Any) -> dict[str, Any]:
            return {"step": "resize", **to, "antialias": exact or self.fit == "crop", "round": True}

        mode = "RGB" if self.channels == 3 else "L"
        steps: list[dict[str, Any]] = [{"step": "decode", "mode": mode, "upright": True}]
        if self.fit == "crop":
            steps += [resize(shorter_side=native, longer_side="nearest", only_if_larger=True)] if native else []
            steps += [{"step": "crop", "size": size}]
        elif self.fit == "resize":
            steps += [resize(width=self.side, height=self.side)]
        else:
            shorter_side = self.side if self.resizer == "device" else self.shorter_side
            steps += [resize(shorter_side=shorter_side, longer_side="floor"), {"step": "crop", "size": self.side}]
        if pixels:
            return steps
        if self.resizing() is not None:
            full = self.shorter_side if self.fit == "center_crop" else size
            steps += [{"step": "resize", "width": full, "height": full, "antialias": False, "round": False}]
            steps += [{"step": "crop", "size": size}] if full != size else []
        if self.normalize == "per_image":
            steps += [{"step": "standardize", "least_std": (self.channels * size**2) ** -0.5}]
        else:
            mean, std = ([255 * value for value in values] for values in (self.mean, self.std))
            steps += [{"step": "normalize", "mean": mean, "std": std}]
        return [*steps, {"step": "transpose", "to": "CHW", **({"channels": 1} if self.channels == 1 else {})}]

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """Return an image of the data set, (native_size, native_size, 3), as the graph's input (side, side, 3)."""
        return image if len(image) == self.side else self.fit_image(image)

    def on_host(self) -> Preprocessing:
        """Return the equivalent preprocessing by data set operators on the host."""
        resizer = "mindspore" if self.resizer == "device" else self.resizer
        return dataclasses.replace(self, resizer=resizer, normalizer="host")

    def to_scale(self, image: np.ndarray) -> np.ndarray:
        """Prepare an image for `fit`: make it grey for a network of one channel, and for "crop" shrink a large one to
        native_size and zero-pad a tiny one.

        Returns the image itself where nothing is needed, as in a data set with images of one size.
        """
        if self.channels == 1:
            image = np.asarray(Image.fromarray(image).convert("L").convert("RGB"))
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
        """Convert inputs (N, channels, H, W) back to pixels (N, H, W, 3) uint8 for display.

        Per-image normalisation is not kept, so such images are stretched to the full range.
        """
        pixels = inputs.transpose(0, 2, 3, 1)
        if self.normalize == "dataset":
            pixels = pixels * np.float32(self.std) + np.float32(self.mean)
        else:
            low, high = (f(pixels, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
            pixels = (pixels - low) / np.maximum(high - low, 1e-6)
        return np.round(np.clip(np.broadcast_to(pixels, (*pixels.shape[:3], 3)), 0, 1) * 255).astype(np.uint8)


def applied(transforms: Sequence[Callable], image: np.ndarray) -> np.ndarray:
    """Apply transforms to an image, one after the other."""
    for transform in transforms:
        image = transform(image)
    return image


def evaluation_transforms(preprocessing: Preprocessing) -> list[Callable]:
    """Return the deterministic operators that produce the network's input."""
    return [*fit_transforms(preprocessing), *normalization(preprocessing), vision.HWC2CHW()]


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
    """Resize an image (H, W, 3) uint8 with Pillow, bilinear with anti-aliasing."""
    return np.asarray(Image.fromarray(image).resize((width, height), Image.BILINEAR))


def pillow_center_crop(image: np.ndarray, shorter_side: int, size: int) -> np.ndarray:
    """Resize the shorter side of an image with Pillow and return the centre (size, size, 3).

    Equal to the pixel to torchvision's Resize and CenterCrop, with which the published ImageNet results were computed.
    """
    height, width = image.shape[:2]
    longer_side = int(shorter_side * max(height, width) / min(height, width))
    sides = (shorter_side, longer_side) if width <= height else (longer_side, shorter_side)
    resized = pillow_resized(image, *sides)
    top, left = ((side - size) // 2 for side in resized.shape[:2])
    return resized[top : top + size, left : left + size]


def normalization(preprocessing: Preprocessing) -> list[Callable]:
    """Return the operators that normalise an image of the network's size."""
    one = [] if preprocessing.channels == 3 else [lambda image: image[..., :1]]
    if preprocessing.normalize == "per_image":
        return [*one, standardize]
    return [*one, vision.Rescale(1 / 255, 0.0), vision.Normalize(list(preprocessing.mean), list(preprocessing.std))]


def standardize(image: np.ndarray) -> np.ndarray:
    """Return (x - mean) / max(std, 1 / sqrt(number of values)) over the whole image, as TensorFlow does."""
    pixels = image.astype(np.float32)
    return (pixels - pixels.mean()) / max(pixels.std(), pixels.size**-0.5)
