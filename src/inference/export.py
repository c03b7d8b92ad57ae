"""Export a network as a graph with a JSON specification of its input and output."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.checkpoint import CARD_KEY, load_network
from src.cli.errors import UserError
from src.config import DeviceConfig
from src.dataset.preprocessing import Preprocessing
from src.devices.device import select_device
from src.devices.silence import quiet
from src.files.atomic import check_place, write_json, written
from src.files.run_folder import working_in
from src.inference.config import ExportConfig
from src.inference.exported_model import ExportedModel, digest, spec_path
from src.inference.fold import without_batch_norm
from src.inference.metrics import softmax
from src.model_card import ModelCard
from src.network.input_layer import InputLayer
from src.network.summary import check_image_size, check_memory

SUFFIXES = {"MINDIR": ".mindir", "AIR": ".air", "ONNX": ".onnx"}
# Largest difference of logits between the exported graph and the network that rounding explains, and that in
# units of the largest logit where it is more: on devices that compute convolutions in HF32 (an Ascend 910B), float16
# (the first 910) or TF32.
TOLERANCE, RELATIVE_TOLERANCE = 1e-3, 1e-2
# Names in an ONNX model: of the graph, its input, and a batch dimension that is left open.
GRAPH, INPUT, DYNAMIC_DIMENSION = "squeezenet", "image", "batch"


class Deployed(nn.Cell):
    """A network together with the preprocessing and postprocessing of a server.

    uint8_input: take pixels (N, side, side, 3) uint8 and make the network's input of them here.
    softmax: give probabilities instead of logits.
    """

    def __init__(self, net: nn.Cell, preprocessing: Preprocessing, uint8_input: bool, softmax: bool):
        super().__init__(auto_prefix=False)  # The network's parameters keep their names.
        self.net, self.softmax = net, softmax
        self.input_layer = InputLayer(preprocessing) if uint8_input else nn.Identity()

    def construct(self, image):
        logits = self.net(self.input_layer(image))
        return ops.softmax(logits, 1) if self.softmax else logits


def export_checkpoint(config: ExportConfig, device: DeviceConfig) -> dict[str, Any]:
    """Export a checkpoint as configured, compare the file with the network, and return its specification.

    Batch norm is folded into the convolutions, where that can be; ONNX's runtimes would do so, MindSpore's do not.

    `file` and `largest_difference` are added to what is written beside it. Raises UserError for a checkpoint, format
    or folder that cannot be used, before anything is written.
    """
    file = _target(config)
    if config.file_format == "AIR" and config.dynamic_batch:
        raise UserError("dynamic_batch: AIR has a fixed batch; export MINDIR, or leave it out")
    target = select_device(device)
    if config.file_format == "AIR" and target != "Ascend":
        raise UserError(
            "file_format: AIR is exported on an Ascend only, and none was found; export MINDIR, which an Ascend "
            "runs too (AIR is deprecated in MindSpore 2.7 to 2.10)"
        )
    net, card = load_network(config.ckpt_path)
    if config.image_size:
        check_image_size(card.model, config.image_size)
        preprocessing = dataclasses.replace(card.preprocessing, image_size=config.image_size)
        card = dataclasses.replace(card, preprocessing=preprocessing)
    check_memory(card.model, card.preprocessing.image_size, config.batch_size)
    folded = without_batch_norm(net, card)
    net = Deployed(net, card.preprocessing, config.uint8_input, False).set_train(False)
    exported = Deployed(folded, card.preprocessing, config.uint8_input, config.softmax).set_train(False)
    spec = _specification(config, card)
    with written(file) as temporary:
        dynamic_here = config.dynamic_batch and config.file_format == "MINDIR"
        example = Tensor(_random_input(spec, config.batch_size))
        shape = Tensor(shape=[None, *example.shape[1:]], dtype=example.dtype) if dynamic_here else example
        # MindSpore takes few characters in a path. It has announced another call for ONNX, which 2.7 lacks.
        with working_in(temporary.parent), quiet():
            ms.export(exported, shape, file_name=temporary.name, file_format=config.file_format)
        if config.file_format == "ONNX":
            _describe_onnx(temporary, spec)
        difference = None if config.file_format == "AIR" else _largest_difference(net, temporary, spec, config, target)
        spec["sha256"] = digest(temporary)
    write_json(spec_path(file), spec)
    return {**spec, "file": str(file), "largest_difference": difference}


def _target(config: ExportConfig) -> Path:
    """Return the path of the output file. Raises UserError for a path that is not writable."""
    file, suffix = Path(config.file_name or Path(config.ckpt_path).with_suffix("")), SUFFIXES[config.file_format]
    if not file.name:
        raise UserError(f"{file}: is a folder; choose another --file_name")
    file = file if file.suffix == suffix else file.with_name(file.name + suffix)
    if not os.path.isdir(file.parent):  # Path.is_dir raises for a name that is too long.
        raise UserError(f"{file.parent}: there is no such folder to export to; make it first")
    if not os.access(file.parent, os.W_OK):
        raise UserError(f"{file}: cannot write here; choose another --file_name")
    check_place(file, spec_path(file))
    return file


def _specification(config: ExportConfig, card: ModelCard) -> dict[str, Any]:
    size, side, channels = card.preprocessing.image_size, card.preprocessing.side, card.preprocessing.channels
    colors = "RGB" if channels == 3 else "grey"
    batch = None if config.dynamic_batch else config.batch_size
    uint8 = config.uint8_input
    return {
        "format": config.file_format,
        "input": {
            "shape": [batch, side, side, 3] if uint8 else [batch, channels, size, size],
            "dtype": "uint8" if uint8 else "float32",
            "what": f"{colors} pixels, prepared by `steps`" if uint8 else f"{colors}, normalised, prepared by `steps`",
        },
        "output": {"shape": [batch, len(card.classes)], "what": "probabilities" if config.softmax else "logits"},
        "steps": card.preprocessing.steps(uint8),
        **card.to_json(),
    }


def _random_input(spec: dict[str, Any], batch: int) -> np.ndarray:
    random, shape = np.random.RandomState(0), (batch, *spec["input"]["shape"][1:])
    if spec["input"]["dtype"] == "uint8":
        return random.randint(0, 256, shape).astype(np.uint8)
    return random.standard_normal(shape).astype(np.float32)


def _describe_onnx(file: Path, spec: dict[str, Any]) -> None:
    """Name graph, input and output of an ONNX model, add its specification, and open the batch if asked."""
    import onnx

    model = onnx.load(str(file))
    graph = model.graph
    names = {graph.input[0].name: INPUT, graph.output[0].name: spec["output"]["what"]}
    graph.name = GRAPH
    for value in (*graph.input, *graph.output):
        value.name = names[value.name]
        if spec["input"]["shape"][0] is None:  # MindSpore writes the example's.
            value.type.tensor_type.shape.dim[0].dim_param = DYNAMIC_DIMENSION
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(name, name) for name in ends]
    card = {key: spec[key] for key in (field.name for field in dataclasses.fields(ModelCard))}
    described = {"classes": spec["classes"], "steps": spec["steps"], **spec["preprocessing"], CARD_KEY: card}
    onnx.helper.set_model_props(model, {key: json.dumps(value) for key, value in described.items()})
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


def _largest_difference(net: nn.Cell, file: Path, spec: dict[str, Any], config: ExportConfig, target: str) -> float:
    """Run an exported file and return its largest difference from the network. Raises RuntimeError for a large one.

    net: gives logits, also where the file gives probabilities, which differ by no more than those. A class other than
    the network's is a difference too, unless the logits of the two are within the tolerance.
    """
    exported = ExportedModel(file, spec)
    difference = 0.0
    for batch in (config.batch_size, config.batch_size + 1) if config.dynamic_batch else (config.batch_size,):
        inputs = _random_input(spec, batch)
        logits, found = net(Tensor(inputs)).asnumpy(), exported.run(inputs)
        rounding = 0.0 if target == "CPU" else RELATIVE_TOLERANCE * float(np.abs(logits).max())
        behind = float((logits.max(1) - logits[np.arange(batch), found.argmax(1)]).max())
        largest = float(np.abs(found - (softmax(logits) if config.softmax else logits)).max())
        if not max(largest, behind) < max(TOLERANCE, rounding):
            raise RuntimeError(f"the exported {config.file_format} differs from the network by {max(largest, behind)}")
        difference = max(difference, largest)
    return difference
