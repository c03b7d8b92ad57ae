"""convert.py's work: a file of another system into a checkpoint, and a checkpoint into such a file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Optional

import mindspore as ms
import numpy as np

from src.checkpoint import ModelCard, load_network, load_weights, save_checkpoint, weights_of
from src.compression.reading import published_card, read_class_names
from src.conversion.config import ConvertConfig
from src.conversion.names import NAMINGS, parameters
from src.conversion.npz import read_npz, write_npz
from src.conversion.published import read_net
from src.conversion.recognition import recognise
from src.conversion.source import Foreign
from src.dataset.imagenet_classes import imagenet_classes
from src.dataset.source import IMAGENET_MEAN, IMAGENET_STD, printable
from src.dataset.transforms import Preprocessing
from src.errors import UserError
from src.output import output_folder, write_bytes

STEM = "features.0.conv"
# What weights do not tell, and a network computes something else with.
_ASKED = ("classifier_padding", "ceil_mode")


class Format(NamedTuple):
    """A format of other systems.

    read: the reader of a file, or None.
    write: makes a file's content of tensors and a card, or None.
    naming: the key in NAMINGS of what is written.
    model: arguments of SqueezeNet that its networks have unless the file or the user says otherwise.
    input: "rgb" or "bgr", see ConvertConfig.
    image_size: side of the images in pixels.
    """

    read: Optional[Callable[[Path], Foreign]]
    write: Optional[Callable[[Mapping[str, np.ndarray], ModelCard], bytes]]
    naming: str
    model: dict[str, Any]
    input: str
    image_size: int


FORMATS = {
    # Caffe rounds pooled sizes up, which at 227 pixels is the same in v1.0.
    "net": Format(read_net, None, "caffe", {"ceil_mode": False}, "bgr", 227),
    "npz": Format(read_npz, write_npz, "caffe", {}, "rgb", 227),
}


def convert(config: ConvertConfig) -> Iterator[str]:
    """Convert as configured, and yield lines that say what was done.

    Raises UserError for anything that cannot be used, before anything is written.
    """
    target = Path(config.ckpt_path if config.from_format else config.file)
    if config.from_format and target.suffix != ".ckpt":
        raise UserError(f"{target}: a checkpoint's name ends in .ckpt")
    if target.exists() and not config.overwrite:
        raise UserError(f"{target}: is there already; choose another name, or replace it with --overwrite")
    if config.from_format:
        weights, card = import_weights(config)
        net = card.build()
        given = {name: ms.Parameter(ms.Tensor(array), name=name) for name, array in weights.items()}
        load_weights(net, given, config.file)
        with output_folder(target.parent):
            save_checkpoint(net, target, card)
    else:
        content, card = export_weights(config)
        with output_folder(target.parent):
            write_bytes(target, content)
    shape = ", ".join(f"{key} {value}" for key, value in card.model.items())
    yield f"{target}: {shape}"


def import_weights(config: ConvertConfig) -> tuple[dict[str, np.ndarray], ModelCard]:
    """Return the parameters in a file by their names in SqueezeNet, and the card of the network that they are of.

    Raises UserError for a file that is not sound, or not a SqueezeNet's, and where it does not tell all of a network.
    """
    form = FORMATS[config.from_format]
    path = Path(config.file)
    foreign = _read(form, path)
    shapes = {name: array.shape for name, array in foreign.tensors.items()}
    if foreign.card is not None:
        model, found = recognise(shapes, foreign.card.model, path)
        return {parameter.own: foreign.tensors[parameter.name] for parameter in found}, foreign.card
    model, found = recognise(shapes, _known(config, form.model, foreign.facts), path)
    missing = [f"--{key}" for key in _ASKED if key not in model]
    if missing:
        raise UserError(f"{path}: weights do not tell all of a network: say the rest with {' and '.join(missing)}")
    weights = {parameter.own: foreign.tensors[parameter.name] for parameter in found}
    preprocessing = Preprocessing(
        config.image_size or form.image_size, "center_crop", "dataset", IMAGENET_MEAN, IMAGENET_STD
    )
    if (config.input or form.input) == "bgr":
        weights[f"{STEM}.weight"] = np.ascontiguousarray(weights[f"{STEM}.weight"][:, ::-1])
        caffe = published_card().preprocessing
        if config.fold_input:
            fold_input(weights, caffe, preprocessing)
        else:
            preprocessing = dataclasses.replace(caffe, image_size=preprocessing.image_size)
    return weights, ModelCard(
        model, _class_names(model["num_classes"], config.classes), preprocessing, "image_folder", 0.0
    )


def _read(form: Format, path: Path) -> Foreign:
    try:
        return form.read(path)
    except UserError:
        raise
    except Exception as error:  # Each library has exceptions of its own for a file that it cannot read.
        reason = printable((str(error).strip().splitlines() or [type(error).__name__])[0])[:200]
        raise UserError(f"{path}: not a file of this format, or damaged ({reason})") from None


def _known(config: ConvertConfig, usual: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of SqueezeNet that are told. Raises UserError where the file and the user say otherwise."""
    keys = ("bypass", "stem", "classifier_padding", "ceil_mode", "final_relu")
    said = {key: getattr(config, key) for key in keys if getattr(config, key) is not None}
    for key, value in said.items():
        if facts.get(key, value) != value:
            raise UserError(f"{key}: {value} is not what {config.file} has: {facts[key]}; leave it out")
    return {**usual, **said, **facts}


def _class_names(count: int, file: Optional[str]) -> list[str]:
    if file:
        return read_class_names(file, count)
    known = [known.name for known in imagenet_classes()]
    return known if count == len(known) else [str(i) for i in range(count)]


def fold_input(weights: dict[str, np.ndarray], former: Preprocessing, new: Preprocessing) -> None:
    """Change the first convolution from taking inputs normalised in one way to taking them normalised in another.

    Exact, to float32's rounding, where the convolution has no padding: a pixel p comes as (p - mean) / std.
    """
    kernel, bias = f"{STEM}.weight", f"{STEM}.bias"
    former_mean, former_std, new_mean, new_std = np.array([former.mean, former.std, new.mean, new.std])
    w = weights[kernel].astype(np.float64)
    offset = (w.sum((2, 3)) * (new_mean - former_mean) / former_std).sum(1)
    weights[kernel] = (w * (new_std / former_std)[:, None, None]).astype(np.float32)
    weights[bias] = (weights[bias] + offset).astype(np.float32)


def export_weights(config: ConvertConfig) -> tuple[bytes, ModelCard]:
    """Return a file's content, of a checkpoint's parameters, and its card. Raises UserError as load_network does."""
    form = FORMATS[config.to_format]
    net, card = load_network(config.ckpt_path)
    own = weights_of(net)
    found = parameters(card.model, NAMINGS[form.naming])
    return form.write({parameter.name: own[parameter.own].asnumpy() for parameter in found}, card), card
