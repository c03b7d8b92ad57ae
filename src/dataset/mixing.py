"""Mixup and CutMix: mix every training image, and its label, with another of the batch.

MindSpore's MixUpBatch and CutMixBatch draw from the state of their thread, which a resumed run cannot restore (see
Drawn).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from random import Random

import numpy as np

METHODS = ("mixup", "cutmix")


class Mixing:
    """Mix each image of a batch with the previous one.

    alphas: by method of METHODS; each image draws one of the methods, and λ from Beta(alpha, alpha).
        mixup: the mean of both images, weighted λ and 1 - λ (Zhang et al. 2017, section 2).
        cutmix: a rectangle of the other image, 1 - λ of the area before clipping (Yun et al. 2019, section 3.1).
    channels: axis of an image's channels, 0 or 2.

    The random numbers depend only on the seed and the draws (see Epochs). As a device has only its own shard of a
    global batch, the other image does depend on the number of devices.
    """

    def __init__(self, alphas: Mapping[str, float], classes: int, seed: int, channels: int):
        self.alphas, self.classes, self.seed, self.channels = list(alphas.items()), classes, seed, channels

    def __call__(self, images: np.ndarray, labels: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mixed images of a batch and their soft labels (N, classes) float32.

        images: (N, H, W, 3) uint8 or (N, 3, H, W) float32. labels: (N,) int32. draws: (N,) int64.
        """
        mixed = images.copy()
        views, others = np.moveaxis(mixed, self.channels + 1, 3), np.moveaxis(images, self.channels + 1, 3)
        lambdas = np.empty((len(images), 1), np.float32)
        for i, draw in enumerate(draws):
            random = Random(f"{self.seed} mix {draw}")
            method, alpha = self.alphas[int(random.random() * len(self.alphas))]
            own = random.betavariate(alpha, alpha)
            if method == "mixup":
                mean = own * views[i] + (1 - own) * others[i - 1]
                views[i] = np.round(mean) if images.dtype == np.uint8 else mean
                lambdas[i] = own
            else:
                rows, columns = rectangle(views[i].shape[:2], 1 - own, random)
                views[i][rows, columns] = others[i - 1][rows, columns]
                lambdas[i] = 1 - views[i][rows, columns, 0].size / views[i][..., 0].size
        targets = np.eye(self.classes, dtype=np.float32)[labels]
        return mixed, lambdas * targets + (1 - lambdas) * np.roll(targets, 1, axis=0)


def rectangle(sides: tuple[int, int], fraction: float, random: Random) -> tuple[slice, slice]:
    """Return rows and columns of a random rectangle, `fraction` of an image's area, clipped at the border."""
    spans = []
    for side in sides:
        length = int(side * math.sqrt(fraction))
        start = int(random.random() * side) - length // 2
        spans.append(slice(max(0, start), max(0, min(side, start + length))))
    return spans[0], spans[1]
