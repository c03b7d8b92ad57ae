"""Read checkpoints of SqueezeNets without a model card: the model zoo's, mindcv's, and those saved by hand."""

from __future__ import annotations

import re
from pathlib import Path

from src.checkpoint import CARD_KEY, FIRST, read_checkpoint
from src.cli.errors import UserError
from src.conversion.origins import MINDCV, ZOO, ZOO_CIFAR10, Origin
from src.conversion.source import Foreign, to_float32

# The network's parameters, unlike an optimizer's state and counters in the same file.
_NETWORK = re.compile(r"(features|classifier\.1|final_conv|conv\d+|fire\d+)\.")
_CIFAR10 = 10  # Classes. The zoo trains on CIFAR-10 or ImageNet.


def read_mindspore(path: Path) -> Foreign:
    """Read the network's parameters in a checkpoint by their names. Raises UserError for an unusable file."""
    parameters = read_checkpoint(path)
    if CARD_KEY in parameters:
        raise UserError(f"{path}: is a checkpoint of this project already; give it to the other programs as it is")
    found = {name: parameter.asnumpy() for name, parameter in parameters.items() if _NETWORK.match(name)}
    tensors = {name: to_float32(name, array) for name, array in found.items()}
    return Foreign(tensors, {}, origin=_origin(tensors))


def _origin(tensors: dict) -> Origin:
    if FIRST in tensors:
        return ZOO._replace(name="this project", known=False)
    if "classifier.1.weight" in tensors:
        padded = tensors["features.0.weight"].shape[-1] == 3 if "features.0.weight" in tensors else False
        return MINDCV._replace(model={**MINDCV.model, "stem": "padded" if padded else "imagenet"})
    last = next((tensors[name] for name in ("final_conv.weight", "conv10.weight") if name in tensors), ())
    origin = ZOO_CIFAR10 if len(last) == _CIFAR10 else ZOO
    return origin._replace(model={**origin.model, "bypass": "simple" if "conv10.weight" in tensors else "none"})
