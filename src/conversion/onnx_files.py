"""Read SqueezeNet's weights from ONNX models of any exporter, by the graph, since names differ between exporters."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Optional

import numpy as np
import onnx
from mindspore import Tensor
from onnx import numpy_helper

from src.checkpoint import CARD_KEY
from src.conversion.names import NAMINGS
from src.conversion.onnx_models import load_model, run_model
from src.conversion.origins import CAFFE2
from src.conversion.source import Foreign, read_card, to_float32
from src.inference.exported_model import card_of, read_spec, spec_path
from src.inference.metrics import softmax
from src.network.convolutions import FIRST_FIRE
from src.squeezenet import SqueezeNet

# Node types of exported SqueezeNets.
_KNOWN = (
    *("Conv", "Relu", "MaxPool", "Concat", "Add", "Slice", "Dropout", "Identity", "Constant", "ReduceMean"),
    *("GlobalAveragePool", "AveragePool", "Flatten", "Reshape", "Squeeze", "Softmax"),
    *("Cast", "Shape", "Gather", "Unsqueeze", "Sub", "Mul", "Div"),
)
# Nodes to skip when searching for weights, and when searching for constants.
_PASSED, _SAME = ("Relu", "Dropout", "Identity", "Cast"), ("Identity", "Cast")
MAX_SIDE, MAX_PIXELS, USUAL_SIDE = 2048, 1 << 24, 224  # Of inputs; running larger models would exhaust the memory.
# What Caffe2's exporter calls itself and its input, which is that of Caffe's nets.
CAFFE2_PRODUCER, CAFFE2_INPUT = "onnx-caffe2", "data_0"
# Largest rounding difference of logits, relative to the largest logit.
TOLERANCE = 1e-4


def read_onnx(path: Path) -> Foreign:
    """Read the weights of a model by their names in Caffe, and the arguments of SqueezeNet that its graph reveals.

    The card is in the models that export.py writes, and in the specification next to them.
    """
    model = load_model(path)
    graph = _Graph(model.graph)
    layers = graph.layers()
    tensors = {}
    for name, node in layers.items():
        for kind, tensor in zip(("weight", "bias"), node.input[1:]):
            tensors[f"{name}.{kind}"] = to_float32(f"{name}.{kind}", graph.constant(tensor))
    last = list(layers.values())[-1]
    facts = {
        "bypass": graph.bypass(layers),
        "ceil_mode": graph.rounds_up(),
        "classifier_padding": _padding(last),
        "final_relu": any(node.op_type == "Relu" and last.output[0] in node.input for node in graph.nodes),
    }
    batch, channels, size = graph.input_shape()
    card = read_card(next((entry.value for entry in model.metadata_props if entry.key == CARD_KEY), None), path)
    if card is None and spec_path(path).is_file():
        card = card_of(read_spec(path), spec_path(path))
    if card is not None and card.model.get("batch_norm"):  # export.py has folded it into the convolutions.
        card = dataclasses.replace(card, model={**card.model, "batch_norm": "none"})
    caffe2 = model.producer_name == CAFFE2_PRODUCER or model.graph.input[0].name == CAFFE2_INPUT
    scale, offset = graph.scaling(layers[NAMINGS["caffe"].stem].input[0], channels)

    def check(net: SqueezeNet) -> None:
        _check(net, model, (batch, channels, size, size), scale, offset)

    normalization = _normalization(scale, offset)
    return Foreign(tensors, facts, card, size, check, CAFFE2 if caffe2 else None, normalization=normalization)


class _Graph:
    """Graph of a model. Raises ValueError for a graph that is not a SqueezeNet's."""

    def __init__(self, graph: onnx.GraphProto):
        self.nodes, self.inputs = list(graph.node), graph.input
        self._producers = {output: node for node in self.nodes for output in node.output if output}
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        values = ((node, a) for node in self.nodes if node.op_type == "Constant" for a in node.attribute)
        unknown = {node.op_type for node in self.nodes} - set(_KNOWN)
        if unknown:
            raise ValueError(f"it has nodes that no SqueezeNet has: {', '.join(sorted(unknown))}")
        later: set[str] = set()
        for node in reversed(self.nodes):  # A search in a circle would not end.
            later.update(filter(None, node.output))
            if not later.isdisjoint(node.input):
                raise ValueError("its nodes are not in the order in which they are computed")
        self._constants.update({node.output[0]: a.t for node, a in values if a.name == "value"})

    def constant(self, name: str) -> np.ndarray:
        """Return the value of a constant."""
        return numpy_helper.to_array(self._constants[self._behind(name, *_SAME)])

    def layers(self) -> dict[str, onnx.NodeProto]:
        """Return the convolutions by their names in Caffe: the first, those of Fire modules, and the last."""
        convolutions = [node for node in self.nodes if node.op_type == "Conv"]
        if not convolutions:
            raise ValueError("there is no convolution in it")
        named, number, naming = {NAMINGS["caffe"].stem: convolutions[0]}, FIRST_FIRE, NAMINGS["caffe"]
        for node in self.nodes:
            expands = [self._convolution(name) for name in node.input] if node.op_type == "Concat" else []
            if len(expands) != 2 or None in expands or expands[0].input[0] != expands[1].input[0]:
                continue
            fire = {"squeeze": self._convolution(expands[0].input[0]), "expand1x1": expands[0], "expand3x3": expands[1]}
            fire["shortcut"] = next(filter(None, map(self._convolution, self._added_to(node.output[0]))), None)
            for part, convolution in fire.items():
                if convolution is not None:
                    named[naming.fire.format(number=number, part=naming.parts.get(part, part))] = convolution
            number += 1
        named[naming.last.format(number=number)] = convolutions[-1]
        if len({id(node) for node in named.values()}) != len(convolutions):
            raise ValueError(f"it has {len(convolutions)} convolutions, and {number - FIRST_FIRE} Fire modules")
        return named

    def bypass(self, layers: dict[str, onnx.NodeProto]) -> str:
        """Return the kind of bypass connections: none, simple or complex."""
        if any(NAMINGS["caffe"].parts["shortcut"] in name for name in layers):
            return "complex"
        added = (node for node in self.nodes if node.op_type == "Add")
        return "simple" if any(not any(map(self._is_constant, node.input)) for node in added) else "none"

    def rounds_up(self) -> bool:
        """Return whether max pooling rounds sizes up, in any of the exporters' notations."""
        for node in self.nodes:
            if node.op_type == "MaxPool":
                before = self._producers.get(node.input[0])
                repeated = before is not None and before.op_type == "Concat" and self._is_slice(before.input[-1])
                # Caffe2 writes one row of padding at the bottom and one column at the right.
                padded = _attribute(node, "pads", [])[-2:] == [1, 1]
                # So does "same" padding, MindSpore's notation, where the size is even.
                same = _attribute(node, "auto_pad", b"") == b"SAME_UPPER"
                if repeated or padded or same or _attribute(node, "ceil_mode", 0):
                    return True
        return False

    def input_shape(self) -> tuple[int, int, int]:
        """Return the batch size, the channels and the side of the input in pixels, by default 1, 3 and 224."""
        images = next(value for value in self.inputs if value.name not in self._constants)
        sides = [dimension.dim_value for dimension in images.type.tensor_type.shape.dim]
        image = len(sides) == 4 and sides[1] in (1, 3) and sides[2] == sides[3]
        if not image or sides[2] > MAX_SIDE or sides[0] * sides[2] ** 2 > MAX_PIXELS:
            raise ValueError(f"it takes {tuple(sides)}, not a batch of square RGB or grey images")
        return sides[0] or 1, sides[1], sides[2] or USUAL_SIDE

    def scaling(self, name: str, channels: int) -> tuple[np.ndarray, np.ndarray]:
        """Return scale and offset (channels, 1, 1) by which the model changes its input to what a tensor holds."""
        steps = []
        while (name := self._behind(name, *_SAME)) in self._producers:
            node = self._producers[name]
            constants = [name for name in node.input if self._is_constant(name)]
            if node.op_type not in ("Add", "Sub", "Mul", "Div") or len(constants) != 1:
                raise ValueError(f"its input passes through {node.op_type} before the first convolution")
            value = self.constant(constants[0]).astype(np.float64).reshape(-1, 1, 1)
            if len(value) not in (1, channels):
                raise ValueError("its input is not normalised by channel before the first convolution")
            steps.append((node.op_type, value, node.input[0] == constants[0]))
            name = next(name for name in node.input if name != constants[0])
        scale, offset = np.ones((channels, 1, 1)), np.zeros((channels, 1, 1))
        for kind, value, reverse in reversed(steps):
            if kind == "Div" and reverse:
                raise ValueError("its input is a divisor before the first convolution")
            factor = {"Mul": value, "Div": 1 / value}.get(kind, -1 if kind == "Sub" and reverse else 1)
            term = {"Add": value, "Sub": value if reverse else -value}.get(kind, 0)
            scale, offset = scale * factor, offset * factor + term
        if not (scale > 0).all():
            raise ValueError("its input is inverted before the first convolution")
        return scale, offset

    def _is_constant(self, name: str) -> bool:
        return self._behind(name, *_SAME) in self._constants

    def _behind(self, name: str, *passed: str) -> str:
        while name in self._producers and self._producers[name].op_type in passed:
            name = self._producers[name].input[0]
        return name

    def _convolution(self, name: str) -> Optional[onnx.NodeProto]:
        node = self._producers.get(self._behind(name, *_PASSED))
        return node if node is not None and node.op_type == "Conv" else None

    def _added_to(self, name: str) -> list[str]:
        sums = [node for node in self.nodes if node.op_type == "Add" and name in node.input]
        return [other for node in sums for other in node.input if other != name]

    def _is_slice(self, name: str) -> bool:
        return name in self._producers and self._producers[name].op_type == "Slice"


def _attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((onnx.helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _padding(node: onnx.NodeProto) -> int:
    pads = set(_attribute(node, "pads", [0]))
    if len(pads) != 1:
        raise ValueError("the padding of its last convolution differs from side to side")
    return pads.pop()


def _normalization(scale: np.ndarray, offset: np.ndarray) -> Optional[dict[str, tuple[float, ...]]]:
    """Return the mean and deviation, of images from 0 to 1, by which a model itself normalises its input, or None."""
    if (scale == 1).all() and (offset == 0).all():
        return None
    zero = -offset / scale
    full = 255 if zero.max() > 1 or scale.max() < 0.1 else 1  # No deviation is as large as ten times the brightness.
    return {"mean": tuple((zero / full).ravel().tolist()), "std": tuple((1 / (scale * full)).ravel().tolist())}


def _check(
    net: SqueezeNet, model: onnx.ModelProto, shape: tuple[int, ...], scale: np.ndarray, offset: np.ndarray
) -> None:
    """Raise ValueError unless a model and the network built from its weights agree on a random input.

    scale, offset: from the input of the model to that of the network.
    """
    inputs = np.random.RandomState(0).standard_normal(shape).astype(np.float32)
    given = run_model(model, ((inputs - offset) / scale).astype(np.float32)).reshape(len(inputs), -1)
    logits = net(Tensor(inputs)).asnumpy()
    expected = softmax(logits) if np.abs(given.sum(1) - 1).max() < TOLERANCE else logits
    difference = float(np.abs(given - expected).max()) if given.shape == expected.shape else np.inf
    if not difference < TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise ValueError(f"its output differs from that of the SqueezeNet with its weights by {difference:.2g}")
