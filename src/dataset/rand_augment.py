"""RandAugment (Cubuk et al. 2019, https://arxiv.org/abs/1909.13719), with random numbers that the caller draws.

mindspore.dataset.vision.RandAugment draws from the state of its thread, which neither a seed for each image nor a
resume can set. Its deterministic operators are put together here, with the ranges of torchvision's RandAugment.
"""

from __future__ import annotations

import math
from random import Random
from typing import Callable

import numpy as np
from mindspore.dataset import vision

OPERATIONS = 2  # Of an image. These are the defaults of torchvision.
STRENGTH = 9 / 30  # The magnitude as a fraction of each range.


def _moved(shear: tuple[float, float] = (0.0, 0.0), shift: tuple[float, float] = (0.0, 0.0)) -> Callable:
    return vision.Affine(0.0, shift, 1.0, shear)


_SHEAR, _SHIFT, _ANGLE = math.degrees(math.atan(0.3 * STRENGTH)), 150 / 331 * STRENGTH, 30 * STRENGTH
# Operators by name for a sign, +1 or -1, which the last five ignore.
TRANSFORMS: dict[str, Callable[[int], Callable]] = {
    "identity": lambda sign: lambda image: image,
    "shear_x": lambda sign: _moved(shear=(sign * _SHEAR, 0.0)),
    "shear_y": lambda sign: _moved(shear=(0.0, sign * _SHEAR)),
    "translate_x": lambda sign: _moved(shift=(sign * _SHIFT, 0.0)),
    "translate_y": lambda sign: _moved(shift=(0.0, sign * _SHIFT)),
    "rotate": lambda sign: vision.Rotate(sign * _ANGLE),
    "brightness": lambda sign: vision.AdjustBrightness(1 + sign * 0.9 * STRENGTH),
    "color": lambda sign: vision.AdjustSaturation(1 + sign * 0.9 * STRENGTH),
    "contrast": lambda sign: vision.AdjustContrast(1 + sign * 0.9 * STRENGTH),
    "sharpness": lambda sign: vision.AdjustSharpness(1 + sign * 0.9 * STRENGTH),
    "posterize": lambda sign: vision.Posterize(8 - round(4 * STRENGTH)),
    "solarize": lambda sign: vision.Solarize(255 * (1 - STRENGTH)),
    "auto_contrast": lambda sign: vision.AutoContrast(),
    "equalize": lambda sign: vision.Equalize(),
}


def rand_augment(image: np.ndarray, random: Random) -> np.ndarray:
    """Apply random transforms to an image (H, W, 3) uint8, one after the other."""
    for _ in range(OPERATIONS):
        name = random.choice(tuple(TRANSFORMS))
        image = TRANSFORMS[name](random.choice((1, -1)))(image)
    return image
