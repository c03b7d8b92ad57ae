"""Checkpoints: a network's weights together with its model card, saved, checked and loaded."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Mapping, Tuple

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from mindspore.nn.utils import no_init_parameters

from src.cli.errors import UserError, first_line
from src.devices.silence import quiet, silent
from src.files.atomic import written
from src.files.bounded import open_file, read_bytes
from src.files.kinds import convert_command, explained
from src.model_card import ModelCard, unreadable_card
from src.network.convolutions import arguments
from src.network.dropout import Dropout
from src.squeezenet import SqueezeNet
from src.sqz.fileformat import MAX_BYTES, decode
from src.sqz.fileformat import SUFFIX as COMPRESSED_SUFFIX
from src.sqz.rans import FormatError

CARD_KEY = "model_card"
# The network's parameters, unlike an optimizer's state and counters in the same file.
_NETWORK_PREFIXES = ("features.", "classifier.")
_COUNTER = f".{Dropout.STEP}"
FIRST = "features.0.conv.weight"
_HEAD = ("classifier.1.weight", "classifier.1.bias")

Shapes = Mapping[str, Tuple[int, ...]]


def save_checkpoint(net: nn.Cell | list[ms.Parameter], path: Path, card: ModelCard, **extra: Any) -> None:
    """Save a network, or a list of parameters, with its model card. Replaces an existing file atomically.

    extra: further arrays, and JSON values, which `read_json` returns, by their keys.
    """
    parameters = net if isinstance(net, list) else list(net.get_parameters())
    # The card first: in a truncated file, it shows that there should be a checksum.
    tensors = {CARD_KEY: to_tensor(card.to_json()), **{key: to_tensor(value) for key, value in extra.items()}}
    records = [{"name": name, "data": tensor} for name, tensor in tensors.items()]
    records += [{"name": parameter.name, "data": parameter} for parameter in parameters]
    with written(path) as temporary, silent():  # MindSpore also logs its exceptions.
        ms.save_checkpoint(records, str(temporary), crc_check=True)


def to_tensor(value: Any) -> Tensor:
    """Return an array as a tensor, or any other value as JSON bytes, (bytes,) uint8; MindSpore stores no strings."""
    if isinstance(value, np.ndarray):
        return Tensor(value)
    return Tensor(np.frombuffer(json.dumps(value).encode(), np.uint8))


def read_json(parameters: dict[str, ms.Parameter], key: str) -> Any:
    """Return a JSON value that save_checkpoint stored next to the weights. Raises KeyError or ValueError."""
    return json.loads(bytes(parameters[key].asnumpy()))


def read_card(parameters: dict[str, ms.Parameter], path: str | Path) -> ModelCard:
    """Return the model card among a checkpoint's parameters. Raises UserError for a missing or damaged card."""
    try:
        values = read_json(parameters, CARD_KEY)
    except (KeyError, ValueError) as error:
        raise unreadable_card(path, error) from None
    return ModelCard.read(values, path)


def read_compressed(path: str | Path) -> tuple[dict[str, np.ndarray], ModelCard]:
    """Return the tensors of a compressed file, float32, and its model card. Raises UserError for a damaged file."""
    advice = "take another copy of a file that compress.py wrote"
    with explained(path, "sqz"):
        try:
            parameters, card = decode(read_bytes(path, MAX_BYTES, advice))
        except FormatError as error:
            raise UserError(f"{path}: {error}; {advice}") from None
    return parameters, ModelCard.read(card, path)


def load_network(path: str | Path) -> tuple[SqueezeNet, ModelCard]:
    """Load the network of a checkpoint in evaluation mode, with its model card.

    path: a checkpoint of train.py, or a file of compress.py. Raises UserError for a damaged file.
    """
    if Path(path).suffix == COMPRESSED_SUFFIX:
        parameters, card = read_compressed(path)
    else:
        parameters = read_checkpoint(path)
        if CARD_KEY not in parameters:
            raise _foreign(path)
        card = read_card(parameters, path)
    return build_network(parameters, card, path), card


def _foreign(path: str | Path) -> UserError:
    """Return the UserError for a MindSpore checkpoint without a model card."""
    command = convert_command("mindspore", path)
    return UserError(f"{path}: contains no model card, so it is not of this project; convert it: {command}")


def build_network(
    parameters: Mapping[str, np.ndarray] | Mapping[str, ms.Parameter], card: ModelCard, path: str | Path
) -> SqueezeNet:
    """Build the network that a model card describes, load the given weights and set evaluation mode.

    Raises UserError, which names `path`, if the weights do not fit.
    """
    try:
        with no_init_parameters():  # The weights follow, and a malicious card could request any amount of memory.
            net = card.build()
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise unreadable_card(path, error) from None
    given = {name: p if isinstance(p, ms.Parameter) else ms.Parameter(p, name=name) for name, p in parameters.items()}
    load_weights(net, given, path)
    return net.set_train(False)


def load_pretrained(net: SqueezeNet, path: str | Path, card: ModelCard) -> ModelCard | None:
    """Load a checkpoint's weights into a network for fine-tuning, and return the checkpoint's model card if present.

    card: of the network. Prints the differences from the checkpoint's, since padding, rounding and bypass do not show
        in the weights.

    A last convolution for another number of classes is initialized anew, with a notice: with zeros, to spare the
    pretrained layers the gradients of random classes (as in https://github.com/google-research/big_transfer), or left
    as is before a ReLU. Raises UserError for any other difference of the weights.
    """
    parameters = read_checkpoint(path)
    theirs = read_card(parameters, path) if CARD_KEY in parameters else None
    if theirs is None and FIRST not in parameters:
        raise _foreign(path)
    differences = _differences(theirs, card) if theirs else ""
    own = weights_of(net)
    if all(name in parameters and parameters[name].shape[1:] == own[name].shape[1:] for name in _HEAD):
        classes, wanted = len(parameters[_HEAD[0]]), len(own[_HEAD[0]])
        if classes != wanted:
            print(f"{path}: the last convolution has {classes} classes instead of {wanted} and is initialized anew")
            parameters.update({name: own[name] for name in _HEAD})
            if not isinstance(net.classifier[-1], nn.ReLU):  # A ReLU would never pass a gradient on to zeros.
                parameters[_HEAD[0]] = ms.Parameter(np.zeros(own[_HEAD[0]].shape, np.float32))
    try:
        load_weights(net, parameters, path)
    except UserError as error:
        raise UserError(f"{error}; its network has {differences}") if differences else error from None
    if differences:
        print(f"{path}: its network has {differences}")
    return theirs


def _differences(theirs: ModelCard, ours: ModelCard) -> str:
    """Return the configuration keys in which two networks differ, except for their classes and dropout."""

    def decisive(card: ModelCard) -> dict[str, Any]:
        values = {**arguments(card.model), "normalize": card.preprocessing.normalize}
        return {key: value for key, value in values.items() if key not in ("num_classes", "dropout")}

    old, new = decisive(theirs), decisive(ours)
    pairs = [(key, old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)]
    return ", ".join(f"{key} {json.dumps(former)} (here {json.dumps(value)})" for key, former, value in pairs)


def read_checkpoint(path: str | Path) -> dict[str, ms.Parameter]:
    """Return the parameters in a checkpoint file. Raises UserError for a missing, damaged or other kind of file."""
    if not os.path.isfile(path):  # Path.is_file raises for a name that is too long.
        raise UserError(f"{path}: there is no such checkpoint; give a .ckpt that train.py or convert.py has written")
    own = Path(path).suffix == ".ckpt"
    with explained(path, *(("checkpoint", "mindspore") if own else ())):
        if not own:
            raise UserError(f"{path}: not named .ckpt; give a checkpoint of train.py or convert.py")
        try:
            with silent():  # MindSpore also logs its exceptions.
                parameters = ms.load_checkpoint(str(path), crc_check=True)
        except Exception as error:  # MindSpore raises different types for different kinds of damage.
            raise UserError(f"{path}: not a checkpoint, or damaged ({first_line(error)})") from None
    # MindSpore does not check a file without a checksum. All files with a card were saved with one.
    if CARD_KEY in parameters and not _has_checksum(path):
        raise UserError(f"{path}: damaged: its checksum is missing")
    return parameters


def _has_checksum(path: str | Path) -> bool:
    with open_file(path) as stream:
        stream.seek(-17, os.SEEK_END)
        return stream.read(7) == b"crc_num"


def load_weights(net: nn.Cell, parameters: dict[str, ms.Parameter], path: str | Path) -> None:
    """Load a checkpoint's weights into a network. Raises UserError, which names the differences, unless all fit."""
    own = weights_of(net)
    networks = {name: p for name, p in parameters.items() if name.startswith(_NETWORK_PREFIXES) or name in own}
    check_fit(
        {name: parameter.shape for name, parameter in own.items()},
        {name: parameter.shape for name, parameter in networks.items() if not name.endswith(_COUNTER)},
        path,
    )
    broken = not_finite([parameters[name] for name in own])
    if broken:
        raise UserError(f"{path}: {broken} holds values that are not finite; take an earlier checkpoint")
    with quiet():  # MindSpore warns of dropout's counter, which is not loaded.
        ms.load_param_into_net(net, {name: parameters[name] for name in own})


def differences(own: Shapes, given: Shapes) -> list[str]:
    """Describe the differences between the parameters of a network and those in a file."""
    missing = [f"{name} is missing" for name in own if name not in given]
    wrong = [
        f"{name} is {given[name]} in the file and {shape} in the network"
        for name, shape in own.items()
        if name in given and given[name] != shape
    ]
    return missing + wrong + [f"{name} is not in the network" for name in given if name not in own]


def check_fit(own: Shapes, given: Shapes, path: str | Path, network: str = "the network") -> None:
    """Raise UserError, which names the first differences, unless a file has exactly the parameters of a network."""
    found = differences(own, given)
    if found:
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        raise UserError(f"{path}: does not fit {network}: {'; '.join(found[:3])}{more}")


def not_finite(parameters: list[ms.Parameter]) -> str | None:
    """Return the name of the first parameter with a NaN or infinite value, or None."""
    return next((p.name for p in parameters if not np.isfinite(p.asnumpy()).all()), None)


def weights_of(net: SqueezeNet) -> dict[str, ms.Parameter]:
    """Return the weights, biases and batch norm statistics of a network by name, without dropout's step counter."""
    return {name: parameter for name, parameter in net.parameters_and_names() if not name.endswith(_COUNTER)}
