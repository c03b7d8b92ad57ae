"""Convert a file of another framework to a checkpoint, or a checkpoint to such a file."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional

import mindspore as ms
import numpy as np

from src.checkpoint import FIRST, load_network, load_weights, save_checkpoint, weights_of
from src.cli.errors import UserError, first_line
from src.conversion import origins
from src.conversion.caffemodel import read_caffemodel
from src.conversion.config import ConvertConfig
from src.conversion.deep_compression import read_net
from src.conversion.measuring import measured
from src.conversion.mindspore_files import read_mindspore
from src.conversion.names import NAMINGS, parameters
from src.conversion.npz import read_npz, write_npz
from src.conversion.onnx_files import read_onnx
from src.conversion.recognition import recognise
from src.conversion.safetensors_files import read_safetensors, write_safetensors
from src.conversion.source import Foreign
from src.conversion.supposing import PUBLISHED, known_arguments, suppose
from src.conversion.torch_files import read_torch, write_torch
from src.dataset.preprocessing import Preprocessing
from src.dataset.source import IMAGENET_MEAN, IMAGENET_STD, printable
from src.files.atomic import write_bytes
from src.files.kinds import explained
from src.files.run_folder import output_folder
from src.model_card import ModelCard
from src.network.convolutions import arguments
from src.network.summary import check_image_size
from src.squeezenet import SqueezeNet


class Format(NamedTuple):
    """A file format of another framework.

    read: reads a file.
    write: returns a file's content for tensors and a card, or None.
    naming: key in NAMINGS for writing.
    origin: where the weights come from, unless the file shows another origin.
    """

    read: Callable[[Path], Foreign]
    write: Optional[Callable[[Mapping[str, np.ndarray], ModelCard], bytes]]
    naming: str
    origin: origins.Origin


FORMATS = {
    "torchvision": Format(read_torch, write_torch, "torchvision", origins.TORCHVISION),
    "safetensors": Format(read_safetensors, write_safetensors, "torchvision", origins.TORCHVISION),
    "onnx": Format(read_onnx, None, "caffe", origins.ONNX),
    "caffemodel": Format(read_caffemodel, None, "caffe", origins.CAFFEMODEL),
    "net": Format(read_net, None, "caffe", origins.DEEP_COMPRESSION),
    "npz": Format(read_npz, write_npz, "caffe", origins.NPZ),
    "mindspore": Format(read_mindspore, None, "zoo", origins.ZOO),
}


def convert(config: ConvertConfig) -> str:
    """Convert a file as configured, and return a description of the output and its network.

    Raises UserError for any unusable file or option, before anything is written.
    """
    target = Path(config.ckpt_path if config.from_format else config.file)
    if config.from_format and target.suffix != ".ckpt":
        raise UserError(f"{target}: a checkpoint's name ends in .ckpt")
    if os.path.lexists(target) and not config.overwrite:
        raise UserError(f"{target}: already exists; choose another name, or replace it with --overwrite")
    if config.from_format:
        net, card, notes = imported(config)
        with output_folder(target.parent, target.name):
            save_checkpoint(net, target, card)
    else:
        content, card = export_weights(config)
        with output_folder(target.parent, target.name):
            write_bytes(target, content)
        notes = _unlike_torchvision(card.model) if config.to_format == "torchvision" else []
    return "\n".join([f"{target}: {_listed(card.model)}", *notes])


def _listed(model: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in model.items())


def _unlike_torchvision(model: dict[str, Any]) -> list[str]:
    """Say what torchvision's class does not have of a network."""
    own, theirs = arguments(model), origins.TORCHVISION.model
    plain = {"num_classes": own["num_classes"], "version": own["version"]}
    if own["version"] not in PUBLISHED or parameters(model, None) != parameters(plain, None):
        return ["torchvision has no class for these weights; convert.py reads them with the model card in the file"]
    others = {key: own[key] for key in theirs if own[key] != theirs[key]}
    return [f"torchvision's own class has the same weights, but not {_listed(others)}"] if others else []


def import_network(config: ConvertConfig) -> tuple[SqueezeNet, ModelCard]:
    """Load the network of a foreign file in evaluation mode, with its model card; see imported."""
    net, card, _ = imported(config)
    return net, card


def imported(config: ConvertConfig) -> tuple[SqueezeNet, ModelCard, list[str]]:
    """Load the network of a foreign file in evaluation mode, with its model card, and lines that say what was supposed.

    Raises UserError for a damaged file, for another network, and if the file does not determine the whole network.
    """
    form, path = FORMATS[config.from_format], Path(config.file)
    with explained(path, config.from_format), _readable(path):
        foreign = form.read(path)
        known = known_arguments(config, foreign)
        model, found = recognise({name: array.shape for name, array in foreign.tensors.items()}, known, path)
        supposed = suppose(config, foreign, foreign.origin or form.origin, {**model, **known})
        check_image_size(supposed.card.model, supposed.card.preprocessing.image_size)
        net = supposed.card.build()
        weights = {p.own: ms.Parameter(ms.Tensor(foreign.tensors[p.name]), name=p.own) for p in found}
        load_weights(net, weights, path)
        net.set_train(False)
        if foreign.check:
            foreign.check(net)
    if supposed.doubtful and len(supposed.card.classes) > 1:
        supposed = measured(net, supposed)
    card = supposed.card
    card.warn_of_one_class()
    if supposed.bgr:
        turn_to_rgb(net)
    if config.fold_input:
        card = dataclasses.replace(card, preprocessing=fold_input(net, card.preprocessing))
    return net, card, [*foreign.notes, *supposed.lines()]


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Convert errors in reading a file to UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Each library has its own exceptions for unreadable files.
        raise UserError(f"{path}: not a file of this format, or damaged ({printable(first_line(error))})") from None


def turn_to_rgb(net: SqueezeNet) -> None:
    """Reverse the input channels of the first convolution."""
    kernel = weights_of(net)[FIRST]
    kernel.set_data(ms.Tensor(np.ascontiguousarray(kernel.asnumpy()[:, ::-1])))


def fold_input(net: SqueezeNet, given: Preprocessing) -> Preprocessing:
    """Convert the first convolution to the usual normalisation (p - mean) / std of ImageNet networks.

    Exact up to float32's rounding. Returns the new preprocessing. Raises UserError if nothing is to be folded, or zero
    padding makes that impossible.
    """
    usual = dataclasses.replace(given, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    if given == usual or given.channels != len(IMAGENET_MEAN):
        raise UserError("fold_input: a network with rgb input has nothing to fold; for Caffe's input give --input bgr")
    if net.stem.pad_mode != "valid":
        raise UserError("fold_input: a mean cannot be folded into a first convolution with zero padding")
    kernel, bias = (weights_of(net)[f"features.0.conv.{kind}"] for kind in ("weight", "bias"))
    means, stds = (np.array([getattr(given, key), getattr(usual, key)]) for key in ("mean", "std"))
    offsets = kernel.asnumpy().astype(np.float64).sum((2, 3)) * ((means[1] - means[0]) / stds[0])
    kernel.set_data(ms.Tensor((kernel.asnumpy() * (stds[1] / stds[0])[:, None, None]).astype(np.float32)))
    bias.set_data(ms.Tensor((bias.asnumpy() + offsets.sum(1)).astype(np.float32)))
    return usual


def export_weights(config: ConvertConfig) -> tuple[bytes, ModelCard]:
    """Return the content of a foreign file with a checkpoint's parameters, and its model card. Raises UserError."""
    form = FORMATS[config.to_format]
    net, card = load_network(config.ckpt_path)
    own = weights_of(net)
    found = parameters(card.model, NAMINGS[form.naming])
    return form.write({parameter.name: own[parameter.own].asnumpy() for parameter in found}, card), card
