"""Export a network as a graph with a JSON specification of its input and output."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any, Iterator

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from src.checkpoint import load_network
from src.cli.errors import UserError
from src.config import DeviceConfig
from src.dataset.preprocessing import Preprocessing
from src.devices.device import select_device
from src.devices.silence import quiet
from src.files.atomic import check_place, write_json, written
from src.inference.config import ExportConfig
from src.inference.exported_model import ExportedModel, digest, spec_path
from src.inference.fold import without_batch_norm
from src.model_card import ModelCard
from src.network.input_layer import InputLayer
from src.network.summary import check_image_size

SUFFIXES = {"MINDIR": ".mindir", "AIR": ".air", "ONNX": ".onnx"}
# Largest difference between the exported graph and the network that rounding explains, for logits around 10.
TOLERANCE = 1e-3
# The name of a batch dimension that is left open.
DYNAMIC_DIMENSION = "batch"


class Deployed(nn.Cell):
    """A network together with the preprocessing and postprocessing of a server.

    uint8_input: take pixels (N, side, side, 3) uint8 and make the network's input of them here.
    softmax: give probabilities instead of logits.
    """

    def __init__(self, net: nn.Cell, preprocessing: Preprocessing, uint8_input: bool, softmax: bool):
        super().__init__()
        self.net, self.softmax = net, softmax
        self.input_layer = InputLayer(preprocessing) if uint8_input else nn.Identity()

    def construct(self, x):
        x = self.net(self.input_layer(x))
        return ops.softmax(x, 1) if self.softmax else x


def export_checkpoint(config: ExportConfig, device: DeviceConfig) -> dict[str, Any]:
    """Export a checkpoint as configured, compare the file with the network, and return its specification.

    Batch norm is folded into the convolutions, where that can be; ONNX's runtimes would do so, MindSpore's do not.

    `file` and `largest_difference` are added to what is written beside it. Raises UserError for a checkpoint, format
    or folder that cannot be used, before anything is written.
    """
    file = _target(config)
    target = select_device(device)
    if config.file_format == "AIR" and target != "Ascend":
        raise UserError(
            "file_format: AIR is written on an Ascend only, and this is none; export MINDIR here, which Ascend runs as "
            "well, or repeat the command on the Ascend host"
        )
    net, card = load_network(config.ckpt_path)
    if config.image_size:
        check_image_size(card.model, config.image_size)
        preprocessing = dataclasses.replace(card.preprocessing, image_size=config.image_size)
        card = dataclasses.replace(card, preprocessing=preprocessing)
    exported = without_batch_norm(net, card)
    if config.uint8_input or config.softmax:
        net, exported = (
            Deployed(network, card.preprocessing, config.uint8_input, config.softmax).set_train(False)
            for network in (net, exported)
        )
    spec = _specification(config, card)
    with written(file) as temporary:
        dynamic_here = config.dynamic_batch and config.file_format == "MINDIR"
        example = Tensor(_random_input(spec, config.batch_size))
        shape = Tensor(shape=[None, *example.shape[1:]], dtype=example.dtype) if dynamic_here else example
        # MindSpore takes few characters in a path. It has announced another call for ONNX, which 2.7 lacks.
        with _working_in(temporary.parent), quiet():
            ms.export(exported, shape, file_name=temporary.name, file_format=config.file_format)
        if config.file_format == "ONNX" and config.dynamic_batch:
            _free_batch(temporary)
        difference = None if config.file_format == "AIR" else _largest_difference(net, temporary, spec, config)
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


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """Change the current folder while the body runs."""
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _specification(config: ExportConfig, card: ModelCard) -> dict[str, Any]:
    size, side = card.preprocessing.image_size, card.preprocessing.side
    batch = None if config.dynamic_batch else config.batch_size
    uint8 = config.uint8_input
    return {
        "format": config.file_format,
        "input": {
            "shape": [batch, side, side, 3] if uint8 else [batch, 3, size, size],
            "dtype": "uint8" if uint8 else "float32",
            "what": "RGB pixels, brought to size by `fit`" if uint8 else "RGB, preprocessed as `preprocessing` says",
        },
        "output": {"shape": [batch, len(card.classes)], "what": "probabilities" if config.softmax else "logits"},
        **card.to_json(),
    }


def _random_input(spec: dict[str, Any], batch: int) -> np.ndarray:
    random, shape = np.random.RandomState(0), (batch, *spec["input"]["shape"][1:])
    if spec["input"]["dtype"] == "uint8":
        return random.randint(0, 256, shape).astype(np.uint8)
    return random.standard_normal(shape).astype(np.float32)


def _free_batch(file: Path) -> None:
    """Make the batch dimension of an ONNX model dynamic, which MindSpore exports as fixed."""
    import onnx

    model = onnx.load(str(file))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = DYNAMIC_DIMENSION
    onnx.checker.check_model(model)
    onnx.save(model, str(file))


def _largest_difference(net: nn.Cell, file: Path, spec: dict[str, Any], config: ExportConfig) -> float:
    """Run an exported file and return its largest difference from the network. Raises RuntimeError for a large one."""
    exported = ExportedModel(file, spec)
    difference = 0.0
    for batch in (config.batch_size, config.batch_size + 1) if config.dynamic_batch else (config.batch_size,):
        inputs = _random_input(spec, batch)
        expected = net(Tensor(inputs)).asnumpy()
        difference = max(difference, float(np.abs(exported.run(inputs) - expected).max()))
    if not difference < TOLERANCE:
        raise RuntimeError(f"the exported {config.file_format} differs from the network by {difference}")
    return difference
