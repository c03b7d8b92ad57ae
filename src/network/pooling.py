"""Max pooling: quick in training on any CPU, and with output sizes rounded up."""

from __future__ import annotations

import os
from pathlib import Path

import mindspore as ms
from mindspore import nn, ops


def onednn_has_fast_pooling() -> bool:
    """Return whether oneDNN vectorises max pooling in training, in MindSpore's layout: with AVX-512 alone."""
    cpu = Path("/proc/cpuinfo")
    capable = cpu.exists() and "avx512bw" in cpu.read_text()
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL"
    return capable and limit.upper().startswith(("ALL", "DEFAULT", "AVX512", "AVX10"))


class MaxPool2d(nn.Cell):
    """Max pooling that trains fast on CPUs without AVX-512 too.

    There MaxPool with its gradient runs in a scalar kernel of oneDNN (benchmarks/profile_step.py), and
    MaxPoolWithArgmax gives the same sooner, its gradient to rounding. In evaluation MaxPool is the faster one.
    pad_mode: "valid", or "same" for maps that it pads at the last row and column alone; elsewhere MaxPoolWithArgmax
        places the padding differently.
    """

    def __init__(self, kernel_size: int, stride: int, pad_mode: str = "valid"):
        super().__init__()
        self.max_pool = nn.MaxPool2d(kernel_size, stride, pad_mode)
        self.slow_gradient = ms.get_context("device_target") == "CPU" and not onednn_has_fast_pooling()
        self.with_argmax = _max_pool_with_argmax(kernel_size, stride, pad_mode)

    def construct(self, x):
        if self.training and self.slow_gradient:
            return self.with_argmax(x)[0]
        return self.max_pool(x)


def _max_pool_with_argmax(kernel_size: int, stride: int, pad_mode: str) -> ops.Primitive:
    """Return the operator. `ops.MaxPoolWithArgmax` warns that it is deprecated, but its successor is far slower."""
    operator = ops.Primitive("MaxPoolWithArgmax")
    operator.init_prim_io_names(inputs=["x"], outputs=["output", "mask"])
    operator.add_prim_attr("kernel_size", (1, kernel_size, kernel_size, 1))
    operator.add_prim_attr("strides", (1, stride, stride, 1))
    operator.add_prim_attr("pad_mode", pad_mode.upper())
    operator.add_prim_attr("format", "NCHW")
    return operator


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
        self.whole = MaxPool2d(kernel_size, stride)
        self.over = MaxPool2d(kernel_size, stride, "same")

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
