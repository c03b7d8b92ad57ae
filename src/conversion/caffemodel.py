"""Read Caffe's .caffemodel: a protocol buffer of the network with its weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from src.conversion.source import Foreign, read_weights
from src.network.design_space import Pool, Widths
from src.squeezenet import SqueezeNet

# The part of caffe.proto used here: message: field: (number, type, whether repeated). The rest is skipped.
_MESSAGES = {
    "NetParameter": {"layer": (100, "LayerParameter", True)},
    "LayerParameter": {
        "name": (1, "string", False),
        "type": (2, "string", False),
        "bottom": (3, "string", True),
        "top": (4, "string", True),
        "blobs": (7, "BlobProto", True),
        "convolution_param": (106, "ConvolutionParameter", False),
        "pooling_param": (121, "PoolingParameter", False),
    },
    "BlobProto": {
        "shape": (7, "BlobShape", False),
        "data": (5, "bytes", True),  # Packed floats, each of which protobuf would convert to a Python number.
        "num": (1, "int32", False),
        "channels": (2, "int32", False),
        "height": (3, "int32", False),
        "width": (4, "int32", False),
    },
    "BlobShape": {"dim": (1, "int64", True)},
    "ConvolutionParameter": {
        "pad": (3, "uint32", True),
        "kernel_size": (4, "uint32", True),
        "stride": (6, "uint32", True),
    },
    "PoolingParameter": {
        "pool": (1, "int32", False),
        "kernel_size": (2, "uint32", False),
        "stride": (3, "uint32", False),
        "round_mode": (13, "int32", False),
    },
}
_MAX, _ROUND_UP = 0, 0  # Of PoolingParameter.pool and round_mode, the defaults.


def _net_parameter() -> type:
    """Return the class of the NetParameter message."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe_weights.proto", package="caffe_weights", syntax="proto2")
    field_type = descriptor_pb2.FieldDescriptorProto
    for message, fields in _MESSAGES.items():
        described = file.message_type.add(name=message)
        for name, (number, kind, repeated) in fields.items():
            label = field_type.LABEL_REPEATED if repeated else field_type.LABEL_OPTIONAL
            field = described.field.add(name=name, number=number, label=label)
            if kind in _MESSAGES:
                field.type, field.type_name = field_type.TYPE_MESSAGE, f".caffe_weights.{kind}"
            else:
                field.type = getattr(field_type, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe_weights.NetParameter"))


def read_caffemodel(path: Path) -> Foreign:
    """Read the weights of a .caffemodel by their names, and the arguments of SqueezeNet that its layers reveal."""
    net = _net_parameter()()
    net.ParseFromString(read_weights(path))
    convolutions = [layer for layer in net.layer if layer.type == "Convolution"]
    if not convolutions:
        raise ValueError("no convolutions, or only those of Caffe before 2015")
    tensors = {}
    for layer in convolutions:
        for kind, blob in zip(("weight", "bias"), layer.blobs):
            tensors[f"{layer.name}.{kind}"] = _array(blob)
    additions, fires = (sum(layer.type == kind for layer in net.layer) for kind in ("Eltwise", "Concat"))
    last = convolutions[-1]
    pools = [layer.pooling_param for layer in net.layer if layer.type == "Pooling"]
    facts = {
        "bypass": "none" if not additions else "complex" if additions == fires else "simple",
        "ceil_mode": all(pool.round_mode == _ROUND_UP for pool in pools),
        "classifier_padding": _first(last.convolution_param.pad, 0),
        "final_relu": any(layer.type == "ReLU" and last.top[0] in layer.bottom for layer in net.layer),
    }
    return Foreign(tensors, facts, check=lambda made: _check(made, net.layer, additions))


def _array(blob: Any) -> np.ndarray:
    shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
    data = np.frombuffer(b"".join(blob.data), "<f4")
    if len(shape) == 4 and shape[:3] == (1, 1, 1):  # A bias, as Caffe wrote it before 2015.
        shape = shape[3:]
    if any(side < 1 for side in shape):
        raise ValueError(f"it has weights of shape {shape}")
    return data.reshape(shape)


def _first(values: Any, default: int) -> int:
    return values[0] if values else default


def _check(made: SqueezeNet, layers: Any, additions: int) -> None:
    """Raise ValueError unless a network's strides, pooling and additions match those in the file."""
    found: list[Any] = []
    for layer in layers:
        if layer.type == "Convolution" and not found:
            convolution = layer.convolution_param
            found.append((_first(convolution.kernel_size, 1), _first(convolution.stride, 1)))
        elif layer.type == "Pooling" and layer.pooling_param.pool == _MAX:
            found.append(Pool(layer.pooling_param.kernel_size, layer.pooling_param.stride))
        elif layer.type == "Concat":
            found.append("Fire")
    wanted = [(made.stem.kernel_size, made.stem.stride)]
    wanted += ["Fire" if isinstance(layer, Widths) else layer for layer in made.layers]
    shortcuts = sum(cell.shortcut is not None for cell in made.features if hasattr(cell, "shortcut"))
    if found != wanted or additions != shortcuts:
        raise ValueError(f"its layers are not in SqueezeNet's order: {found}, {additions} additions")
