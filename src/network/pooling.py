"""Max pooling with output sizes rounded up."""

from __future__ import annotations

from mindspore import nn, ops


class CeilMaxPool2d(nn.Cell):
    """Max pooling with stride 2 that rounds output sizes up, like torchvision's SqueezeNet.

    kernel_size: 2 or 3.
    Raises ValueError for maps of fewer than kernel_size - 1 rows or columns.

    An extra window hangs over the last row or column by one, which is the padding that "same" adds there, and where
    none is wanted there is nothing to pad: one operator, which `nn.MaxPool2d(ceil_mode=True)` is not on every device,
    and which exports to ONNX.
    """

    def __init__(self, kernel_size: int, stride: int):
        super().__init__()
        if kernel_size not in (2, 3) or stride != 2:
            raise ValueError(f"kernel size {kernel_size}, stride {stride}: must be 2 or 3, and 2")
        self.kernel_size = kernel_size
        self.whole = nn.MaxPool2d(kernel_size, stride)
        self.over = nn.MaxPool2d(kernel_size, stride, pad_mode="same")

    def construct(self, x):
        if min(x.shape[2:]) < self.kernel_size - 1:  # MindSpore's operator makes 1 pixel of 1.
            raise ValueError(f"the feature map {x.shape} must be of at least {self.kernel_size - 1} rows and columns")
        over = [(size - self.kernel_size) % 2 == 1 for size in x.shape[2:]]
        if over[0] and over[1]:
            return self.over(x)
        if over[0]:
            x = ops.concat((x, x[:, :, -1:, :]), 2)
        if over[1]:
            x = ops.concat((x, x[:, :, :, -1:]), 3)
        return self.whole(x)
