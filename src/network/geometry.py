"""Sizes of feature maps, and their position on the image, from the list of layers alone."""

from __future__ import annotations

from typing import Sequence

from src.network.design_space import Layer, Pool, Stem


def feature_sizes(stem: Stem, layers: Sequence[Layer], image_size: int, ceil_mode: bool = False) -> list[int]:
    """Return the sides in pixels of the feature maps after the first convolution and after each layer.

    For square images of `image_size` pixels; a network with a side below 1 cannot run.
    """
    lost = stem.kernel_size - 1 if stem.pad_mode == "valid" else 0
    sizes = [(image_size - 1 - lost) // stem.stride + 1]
    for layer in layers:
        size = sizes[-1]
        if isinstance(layer, Pool) and size >= 1:
            size = (size - layer.kernel_size + (layer.stride - 1 if ceil_mode else 0)) // layer.stride + 1
        sizes.append(size)
    return sizes


def feature_size(stem: Stem, layers: Sequence[Layer], image_size: int, ceil_mode: bool = False) -> int:
    """Return the side in pixels of the last feature map; see feature_sizes."""
    return feature_sizes(stem, layers, image_size, ceil_mode)[-1]


def feature_grid(stem: Stem, layers: Sequence[Layer]) -> tuple[float, int]:
    """Return the position of the last feature map on the image, in pixels: first value's centre, and spacing."""
    around = {"valid": 0, "pad": stem.kernel_size // 2}.get(stem.pad_mode, (stem.kernel_size - stem.stride) // 2)
    first = (stem.kernel_size - 1) / 2 - around
    spacing = stem.stride
    for layer in layers:
        if isinstance(layer, Pool):
            first += (layer.kernel_size - 1) / 2 * spacing
            spacing *= layer.stride
    return first, spacing
