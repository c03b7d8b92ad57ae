"""Caffe's files, made by the wire format of protocol buffers and the field numbers of caffe.proto."""

from __future__ import annotations

import dataclasses

import numpy as np

from src.network.convolutions import layers_of
from src.network.design_space import Pool
from tests.conversion.made_weights import random_tensors

MODEL = {"num_classes": 5, "version": "1_1"}


def varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def content(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def blob(array: np.ndarray, old: bool) -> bytes:
    data = content(5, array.astype("<f4").tobytes())
    if old:  # num, channels, height, width
        sides = (1,) * (4 - array.ndim) + array.shape
        return b"".join(number(field, side) for field, side in enumerate(sides, 1)) + data
    return content(7, content(1, b"".join(map(varint, array.shape)))) + data


@dataclasses.dataclass
class Made:
    """A network of layers one behind the other, as Caffe writes it."""

    tensors: dict
    old: bool = False
    layers: list = dataclasses.field(default_factory=list)

    def add(self, kind: str, name: str, *parameters: bytes) -> None:
        names = content(1, name.encode()) + content(2, kind.encode()) + content(3, b"in") + content(4, name.encode())
        self.layers.append(names + b"".join(parameters))

    def convolution(self, name: str, pad: int = 0, stride: int = 1) -> None:
        kernel, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        numbers = number(1, len(kernel)) + number(3, pad) + number(4, kernel.shape[2]) + number(6, stride)
        blobs = [content(7, blob(array, self.old)) for array in (kernel, bias)]
        self.add("Convolution", name, *blobs, content(106, numbers))

    def pool(self, name: str, *more: bytes) -> None:
        self.add("Pooling", name, content(121, number(2, 3) + number(3, 2) + b"".join(more)))

    def to_bytes(self) -> bytes:
        return content(1, b"SqueezeNet") + b"".join(content(100, layer) for layer in self.layers)


def caffemodel(bypass=False, pad=0, final_relu=True, old=False, floor=False, first_pool=True, stride=2) -> bytes:
    made = Made(random_tensors(MODEL, "caffe"), old)
    made.add("Data", "data", content(100, number(1, 227)))
    made.convolution("conv1", stride=stride)
    made.add("ReLU", "relu_conv1")
    fire = 1
    for i, layer in enumerate(layers_of({"version": "1_1"})[1]):
        if isinstance(layer, Pool):
            if i or first_pool:
                made.pool(f"pool{i}", number(13, 1) if floor else b"")
            continue
        fire += 1
        for part, padding in (("squeeze1x1", 0), ("expand1x1", 0), ("expand3x3", 1)):
            made.convolution(f"fire{fire}/{part}", padding)
        made.add("Concat", f"fire{fire}/concat")
        if bypass and fire in (3, 5, 7, 9):
            made.add("Eltwise", f"bypass{fire}")
    made.add("Dropout", "drop9")
    made.convolution("conv10", pad)
    if final_relu:
        made.add("ReLU", "relu_conv10", content(3, b"conv10"))
    made.add("Pooling", "pool10", content(121, number(1, 1) + number(12, 1)))
    return made.to_bytes()
