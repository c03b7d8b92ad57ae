"""Preprocessing in the graph: cast, resize and normalise uint8 pixels on the device."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops


class InputLayer(nn.Cell):
    """Preprocessing of pixels (N, side, side, 3) uint8 to the network's input (N, 3, image_size, image_size) float32.

    Resizing is two products with constant matrices, which every device is fast at and every format exports. For
    float32 images it gives what MindSpore's bilinear operator gives; for uint8 images that one rounds to whole grey
    levels, and this does not.

    preprocessing: of the network's images, one with `resizer` "device" (src/dataset/transforms.py).

    It computes in float32 whatever the network's precision: at 255, float16 has steps of an eighth of a grey level.
    """

    def __init__(self, preprocessing: Any):
        super().__init__()
        self.size, self.side = preprocessing.image_size, preprocessing.side
        matrix = preprocessing.resizing()
        self.resizes = matrix is not None
        self.matrix = Tensor(np.ascontiguousarray(matrix.T)) if self.resizes else None
        self.product = ops.MatMul()  # Not ops.matmul, which MindSpore Lite converts for static shapes only.
        self.per_image = preprocessing.normalize == "per_image"
        mean, std = (np.float32(values).reshape(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        self.scale, self.shift = Tensor(1 / (255 * std)), Tensor(-mean / std)
        self.least_std = (3 * preprocessing.image_size**2) ** -0.5

    def construct(self, pixels):
        x = ops.cast(pixels, ms.float32)
        if self.resizes:
            x = ops.transpose(x, (0, 3, 2, 1)).reshape((-1, self.side))
            x = self.product(x, self.matrix).reshape((-1, 3, self.side, self.size))
            x = ops.transpose(x, (0, 1, 3, 2)).reshape((-1, self.side))
            x = self.product(x, self.matrix).reshape((-1, 3, self.size, self.size))
        else:
            x = ops.transpose(x, (0, 3, 1, 2))
        if self.per_image:
            x = x - ops.mean(x, (1, 2, 3), True)
            std = ops.sqrt(ops.mean(x * x, (1, 2, 3), True))
            return x / ops.maximum(std, self.least_std)
        return x * self.scale + self.shift


class _WithInputLayer(nn.Cell):
    def __init__(self, net: nn.Cell, preprocessing: Any):
        super().__init__(auto_prefix=False)  # The network's parameters keep their names.
        self.input_layer, self.net = InputLayer(preprocessing), net

    def construct(self, pixels):
        return self.net(self.input_layer(pixels))


def with_input_layer(net: nn.Cell, preprocessing: Any) -> nn.Cell:
    """Return the network, preceded by an InputLayer if its preprocessing runs on the device."""
    return _WithInputLayer(net, preprocessing) if preprocessing.on_device else net
