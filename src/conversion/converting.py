"""Convert a file of another framework to a checkpoint, or a checkpoint to such a file."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional

import mindspore as ms
import numpy as np

from src.checkpoint import load_network, load_weights, save_checkpoint, weights_of
from src.cli.errors import UserError, first_line
from src.conversion.caffemodel import read_caffemodel
from src.conversion.config import ConvertConfig
from src.conversion.deep_compression import published_card, read_class_names, read_net
from src.conversion.names import NAMINGS, parameters
from src.conversion.npz import read_npz, write_npz
from src.conversion.onnx_files import read_onnx
from src.conversion.recognition import recognise
from src.conversion.safetensors_files import read_safetensors, write_safetensors
from src.conversion.source import Foreign
from src.conversion.torch_files import read_torch, write_torch
from src.dataset.imagenet_classes import imagenet_classes
from src.dataset.preprocessing import Preprocessing
from src.dataset.source import IMAGENET_MEAN, IMAGENET_STD, printable
from src.files.atomic import write_bytes
from src.files.run_folder import output_folder
from src.model_card import ModelCard
from src.network.summary import check_image_size
from src.squeezenet import SqueezeNet

# Exact preprocessing of ImageNet networks; the image size depends on the format.
_RGB = Preprocessing(224, "center_crop", "dataset", IMAGENET_MEAN, IMAGENET_STD, resizer="pillow")
# Arguments that change the network's output but do not show in its weights.
_ASKED = ("classifier_padding", "ceil_mode")


class Format(NamedTuple):
    """A file format of another framework.

    read: reads a file.
    write: returns a file's content for tensors and a card, or None.
    naming: key in NAMINGS for writing.
    model: default arguments of SqueezeNet for this format.
    input: "rgb" or "bgr", see ConvertConfig.
    image_size: side of the images in pixels.
    """

    read: Callable[[Path], Foreign]
    write: Optional[Callable[[Mapping[str, np.ndarray], ModelCard], bytes]]
    naming: str
    model: dict[str, Any]
    input: str
    image_size: int


# torchvision's own class.
_TORCHVISION = {"bypass": "none", "stem": "imagenet", "classifier_padding": 0, "ceil_mode": True, "final_relu": True}
FORMATS = {
    "torchvision": Format(read_torch, write_torch, "torchvision", _TORCHVISION, "rgb", 224),
    "safetensors": Format(read_safetensors, write_safetensors, "torchvision", _TORCHVISION, "rgb", 224),
    "onnx": Format(read_onnx, None, "caffe", {}, "rgb", 224),
    "caffemodel": Format(read_caffemodel, None, "caffe", {}, "bgr", 227),
    # Caffe rounds pooled sizes up, which at 227 pixels is the same in v1.0.
    "net": Format(read_net, None, "caffe", {"ceil_mode": False}, "bgr", 227),
    "npz": Format(read_npz, write_npz, "caffe", {}, "rgb", 227),
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
        net, card = import_network(config)
        with output_folder(target.parent, target.name):
            save_checkpoint(net, target, card)
    else:
        content, card = export_weights(config)
        with output_folder(target.parent, target.name):
            write_bytes(target, content)
    said = f"{target}: {_listed(card.model)}"
    if config.to_format == "torchvision" and (others := _unlike_torchvision(card.model)):
        said += f"\ntorchvision's own class has the same weights, but not {_listed(others)}"
    return said


def _listed(model: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in model.items())


def _unlike_torchvision(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that torchvision's class does not support, although its weights have the same shapes."""
    defaults = inspect.signature(SqueezeNet.__init__).parameters
    own = {key: model.get(key, defaults[key].default) for key in _TORCHVISION}
    return {key: value for key, value in own.items() if value != _TORCHVISION[key]}


def import_network(config: ConvertConfig) -> tuple[SqueezeNet, ModelCard]:
    """Load the network of a foreign file in evaluation mode, with its model card.

    Raises UserError for a damaged file, for another network, and if the file does not determine the whole network.
    """
    form, path = FORMATS[config.from_format], Path(config.file)
    with _readable(path):
        foreign = form.read(path)
        known = foreign.card.model if foreign.card else _known(config, form.model, foreign.facts)
        model, found = recognise({name: array.shape for name, array in foreign.tensors.items()}, known, path)
        missing = [f"--{key}" for key in _ASKED if key not in model]
        if missing and not foreign.card:
            raise UserError(
                f"{path}: the weights do not determine the whole network; give also {' and '.join(missing)}"
            )
        card = foreign.card or _card(model, config, foreign.image_size or form.image_size)
        check_image_size(card.model, card.preprocessing.image_size)
        net = card.build()
        weights = {p.own: ms.Parameter(ms.Tensor(foreign.tensors[p.name]), name=p.own) for p in found}
        load_weights(net, weights, path)
        net.set_train(False)
        if foreign.check:
            foreign.check(net)
    if foreign.card:
        return net, card
    if (config.input or form.input) == "bgr":
        return net, dataclasses.replace(card, preprocessing=take_rgb(net, card.preprocessing, config.fold_input))
    if config.fold_input:
        raise UserError("fold_input: a network with rgb input has nothing to fold; for Caffe's input give --input bgr")
    return net, card


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Convert errors in reading a file to UserError."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Each library has its own exceptions for unreadable files.
        raise UserError(f"{path}: not a file of this format, or damaged ({printable(first_line(error))})") from None


def _known(config: ConvertConfig, usual: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Return the known arguments of SqueezeNet. Raises UserError where the file and the user contradict each other."""
    keys = ("bypass", "stem", "classifier_padding", "ceil_mode", "final_relu")
    said = {key: getattr(config, key) for key in keys if getattr(config, key) is not None}
    for key, value in said.items():
        if facts.get(key, value) != value:
            raise UserError(f"{key}: {value} contradicts {config.file}, which has {facts[key]}; leave it out")
    return {**usual, **said, **facts}


def _card(model: dict[str, Any], config: ConvertConfig, image_size: int) -> ModelCard:
    """Return a model card for a file without one; a network with ImageNet's number of classes gets ImageNet's names."""
    count, names = model["num_classes"], [known.name for known in imagenet_classes()]
    if config.classes:
        classes = read_class_names(config.classes, count)
    else:
        classes = names if count == len(names) else [str(i) for i in range(count)]
    preprocessing = dataclasses.replace(_RGB, image_size=config.image_size or image_size)
    return ModelCard(model, classes, preprocessing, "imagenet" if classes == names else "image_folder", val_split=0.0)


def take_rgb(net: SqueezeNet, usual: Preprocessing, fold: bool) -> Preprocessing:
    """Convert the first convolution from Caffe's BGR input to RGB, and return the new preprocessing.

    fold: convert also to the usual normalisation (p - mean) / std of ImageNet networks, exact up to float32's rounding.
    Raises UserError if zero padding makes that impossible.
    """
    caffe = published_card().preprocessing
    kernel, bias = (weights_of(net)[f"features.0.conv.{kind}"] for kind in ("weight", "bias"))
    turned = kernel.asnumpy()[:, ::-1]
    if not fold:
        kernel.set_data(ms.Tensor(np.ascontiguousarray(turned)))
        return dataclasses.replace(caffe, image_size=usual.image_size)
    if net.stem.pad_mode != "valid":
        raise UserError("fold_input: a mean cannot be folded into a first convolution with zero padding")
    means, stds = (np.array([getattr(caffe, key), getattr(usual, key)]) for key in ("mean", "std"))
    offsets = turned.astype(np.float64).sum((2, 3)) * ((means[1] - means[0]) / stds[0])
    kernel.set_data(ms.Tensor((turned * (stds[1] / stds[0])[:, None, None]).astype(np.float32)))
    bias.set_data(ms.Tensor((bias.asnumpy() + offsets.sum(1)).astype(np.float32)))
    return usual


def export_weights(config: ConvertConfig) -> tuple[bytes, ModelCard]:
    """Return the content of a foreign file with a checkpoint's parameters, and its model card. Raises UserError."""
    form = FORMATS[config.to_format]
    net, card = load_network(config.ckpt_path)
    own = weights_of(net)
    found = parameters(card.model, NAMINGS[form.naming])
    return form.write({parameter.name: own[parameter.own].asnumpy() for parameter in found}, card), card
