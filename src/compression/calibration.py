"""Provide calibration inputs: real images without labels, or synthetic images."""

from __future__ import annotations

import dataclasses
from typing import Iterator, Optional

import numpy as np

from src.compression.photographs import open_photographs
from src.compression.synthetic import dead_leaves
from src.dataset.source import Source
from src.model_card import ModelCard

IMAGES = 128


def calibration_inputs(
    card: ModelCard, folder: Optional[str], training: Optional[Source], seed: int
) -> Iterator[np.ndarray]:
    """Yield at most IMAGES inputs (3, H, W) float32, preprocessed as a card says.

    folder: of photographs; None: training images, or synthetic ones when there is no training set either.
    Raises UserError for an unusable folder.
    """
    random = np.random.RandomState(seed)
    if folder is None and training is None:
        # Images of the network's size are only normalized.
        sized = dataclasses.replace(card.preprocessing, fit="crop", native_size=None)
        for _ in range(IMAGES):
            yield sized(dead_leaves(sized.image_size, random))
        return
    images = open_photographs(folder, None, ("", ""), card.classes) if folder else training
    for index in random.permutation(len(images))[:IMAGES]:
        yield card.preprocessing(images.image(int(index)))
