"""Max pooling with output sizes rounded up."""

from __future__ import annotations

from mindspore import nn, ops


class CeilMaxPool2d(nn.Cell):
    """Max pooling that rounds output sizes up, like torchvision's SqueezeNet.

    Repeating the last row and column gives the extra window when the size is even and goes unused when it is odd,
    and unlike `nn.MaxPool2d(ceil_mode=True)` it exports to ONNX. Right for any kernel with stride 2.
    """

    def __init__(self, kernel_size: int, stride: int):
        super().__init__()
        self.pool = nn.MaxPool2d(kernel_size, stride)

    def construct(self, x):
        x = ops.concat((x, x[:, :, -1:, :]), 2)
        x = ops.concat((x, x[:, :, :, -1:]), 3)
        return self.pool(x)
