"""Measure which normalisation a network takes: only with the right one are its classes of photographs clear and varied.

The photographs come with scikit-learn and matplotlib. Too weak an input leaves all probabilities nearly alike, whatever
the image; one that is too strong makes all of them 0 or 1. The order of the channels cannot be told from so few images.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from mindspore import Tensor
from PIL import Image

from src.conversion.origins import CAFFE, RGB
from src.conversion.supposing import MEASURED, NORMALIZATION, Supposed
from src.inference.metrics import softmax
from src.squeezenet import SqueezeNet

# Published nets have 62% to 65% information with their own input, and at most 8% with one 60 times as weak. Their
# confidence is 40% with their own input, and 94% to 100% with one 60 times as strong.
LEAST_INFORMATION, MOST_CONFIDENCE = 0.15, 0.8


class Clarity(NamedTuple):
    """Mutual information of image and class, as a fraction of the most possible, and mean confidence."""

    information: float
    confidence: float

    @property
    def sound(self) -> bool:
        """Whether outputs are clear and varied."""
        return self.information > LEAST_INFORMATION and self.confidence < MOST_CONFIDENCE


def photographs() -> list[np.ndarray]:
    """Return corners and centre of photographs, three quarters of the shorter side each, (side, side, 3) uint8."""
    from sklearn.datasets import load_sample_images

    hopper = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
    parts = []
    for image in (*load_sample_images().images, np.asarray(hopper)):
        height, width = image.shape[:2]
        side = min(height, width) * 3 // 4
        bottom, right = height - side, width - side
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
        parts += [image[top : top + side, left : left + side] for top, left in corners]
    return parts


def clarity(net: SqueezeNet, inputs: np.ndarray) -> Clarity:
    """Return how clear and varied the classes are that a network sees in inputs (N, 3, H, W)."""
    probabilities = softmax(net(Tensor(np.ascontiguousarray(inputs))).asnumpy())
    mean, each = _entropy(probabilities.mean(0)), _entropy(probabilities).mean()
    most = math.log(min(probabilities.shape)) or 1
    return Clarity(float(mean - each) / most, float(probabilities.max(1).mean()))


def _entropy(probabilities: np.ndarray) -> np.ndarray:
    return -(probabilities * np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))).sum(-1)


def measured(net: SqueezeNet, supposed: Supposed) -> Supposed:
    """Return the network's card with the one normalisation of RGB's and Caffe's that gives clear and varied outputs.

    Unchanged, and not said to be measured, if that is so of both or neither, or the photographs are missing.
    """
    try:
        images = photographs()
    except (ImportError, OSError):
        return supposed
    found, sound = {}, {}
    for name, usual in (("rgb", RGB), ("bgr", CAFFE)):
        preprocessing = dataclasses.replace(supposed.card.preprocessing, mean=usual.mean, std=usual.std)
        inputs = np.stack([preprocessing(image) for image in images])
        found[name] = clarity(net, inputs if name == "rgb" else inputs[:, ::-1])
        if found[name].sound:
            sound[name] = preprocessing
    figures = ", ".join(
        f"{of.information:.0%} information and {of.confidence:.0%} confidence with {name}" for name, of in found.items()
    )
    figures = f"on {len(images)} parts of photographs: {figures}"
    if len(sound) != 1:
        return supposed._replace(figures=figures)
    ((name, preprocessing),) = sound.items()
    card = dataclasses.replace(supposed.card, preprocessing=preprocessing)
    reasons = {**supposed.reasons, **dict.fromkeys(NORMALIZATION, MEASURED)}
    return supposed._replace(card=card, bgr=name == "bgr", reasons=reasons, figures=figures)
