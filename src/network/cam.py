"""Class activation maps: the image regions with evidence for a class."""

from __future__ import annotations

import numpy as np
from mindspore import nn

from src.network.geometry import feature_grid
from src.squeezenet import SqueezeNet


class Activations(nn.Cell):
    """Network that returns logits, features and class activation maps.

    Input (N, 3, H, W). Output: logits (N, classes); features (N, channels), the mean of the last feature map; and class
    activation maps (N, classes, h, w), the last convolution's output, whose mean the logits are.
    """

    def __init__(self, net: SqueezeNet):
        super().__init__()
        self.net = net

    def construct(self, x):
        features = self.net.features(x)
        maps = self.net.classifier(features)
        return maps.mean((2, 3)), features.mean((2, 3)), maps


def heat(net: SqueezeNet, activation_map: np.ndarray, image_size: int) -> np.ndarray:
    """Return the evidence for a class at each pixel, (image_size, image_size) from 0 to 1.

    activation_map: of the class, (h, w); see Activations. Interpolated at the positions of the convolutions' receptive
        fields, without evidence against the class (Zhou et al. 2016, https://arxiv.org/abs/1512.04150).
    """
    padding = net.classifier[1].padding
    inner = activation_map[padding : len(activation_map) - padding, padding : activation_map.shape[1] - padding]
    first, distance = feature_grid(net.stem, net.layers)
    places = (np.arange(image_size) - first) / distance

    def interpolated(rows: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(places, np.arange(len(row)), row) for row in rows])

    evidence = np.maximum(interpolated(interpolated(inner).T).T, 0)
    return (evidence / max(evidence.max(), np.finfo(np.float32).tiny)).astype(np.float32)
