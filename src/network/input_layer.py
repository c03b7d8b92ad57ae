"""Preprocessing in the graph: cast, resize and normalise uint8 pixels on the device."""

from __future__ import annotations

from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops


class InputLayer(nn.Cell):
    """Preprocessing of pixels (N, side, side, 3) uint8 to the network's input (N, channels, image_size, image_size)
    float32.

    Resizing is two products with constant matrices, fast on every device and exported by every format. On float32
    images it equals MindSpore's bilinear operator; on uint8 images that operator rounds to whole grey levels, this does
    not. Computes in float32 at any precision of the network, since float16 near 255 has steps of an eighth.

    preprocessing: one with `resizer` "device" (src/dataset/preprocessing.py).
    """

    def __init__(self, preprocessing: Any):
        super().__init__()
        self.size, self.side = preprocessing.image_size, preprocessing.side
        matrix = preprocessing.resizing()
        self.resizes = matrix is not None
        self.matrix = Tensor(np.ascontiguousarray(matrix.T)) if self.resizes else None
        self.product = ops.MatMul()  # Not ops.matmul, which MindSpore Lite converts for static shapes only.
        self.per_image = preprocessing.normalize == "per_image"
        self.channels = preprocessing.channels
        mean, std = (np.float32(values).reshape(1, -1, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        self.scale, self.shift = Tensor(1 / (255 * std)), Tensor(-mean / std)
        self.least_std = (self.channels * preprocessing.image_size**2) ** -0.5

    def construct(self, pixels):
        x = ops.cast(pixels, ms.float32)
        if self.resizes:
            x = ops.transpose(x, (0, 3, 2, 1)).reshape((-1, self.side))
            x = self.product(x, self.matrix).reshape((-1, 3, self.side, self.size))
            x = ops.transpose(x, (0, 1, 3, 2)).reshape((-1, self.side))
            x = self.product(x, self.matrix).reshape((-1, 3, self.size, self.size))
        else:
            x = ops.transpose(x, (0, 3, 1, 2))
        if self.channels == 1:  # Of grey pixels, all three channels are alike.
            x = x[:, :1]
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


def without_input_layer(net: nn.Cell) -> nn.Cell:
    """Return the network that with_input_layer was given."""
    return net.net if isinstance(net, _WithInputLayer) else net
