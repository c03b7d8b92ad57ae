"""Fold batch norm into adjacent convolutions: the same function, with a bias instead of four vectors."""

from __future__ import annotations

import dataclasses
from typing import Any, Mapping

import numpy as np
from mindspore import Tensor

from src.cli.errors import UserError
from src.squeezenet import SqueezeNet

# MindSpore's own in nn.BatchNorm2d.
EPSILON = 1e-5
_PARTS = (".gamma", ".beta", ".moving_mean", ".moving_variance")
_NORM = tuple(f".norm{part}" for part in _PARTS)


def norm_scales(parameters: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the scale (O,) that batch norm applies to each output channel, by the name of the preceding weight."""
    scales = {}
    for name in parameters:
        prefix = name.removesuffix(".conv.weight")
        if prefix != name and prefix + _NORM[0] in parameters:
            gamma, _, _, variance = (parameters[prefix + part].astype(np.float64) for part in _NORM)
            scales[name] = gamma / np.sqrt(variance + EPSILON)
    return scales


def fold_batch_norm(parameters: Mapping[str, np.ndarray], card: Any) -> tuple[dict[str, np.ndarray], Any]:
    """Return the parameters and the model card of the equivalent network without batch norm.

    card: of the network, a dataclass whose `model` holds the arguments of SqueezeNet.
    Raises UserError for batch norm before a zero-padded convolution, which no bias can replace.
    """
    scales, folded = norm_scales(parameters), {}
    for name, array in parameters.items():
        if name in scales:
            prefix, scale = name.removesuffix(".conv.weight"), scales[name]
            _, beta, mean, _ = (parameters[prefix + part].astype(np.float64) for part in _NORM)
            folded[name] = (array * scale[:, None, None, None]).astype(np.float32)
            folded[f"{prefix}.conv.bias"] = (beta - mean * scale).astype(np.float32)
        elif not name.endswith(_PARTS):
            folded[name] = array
    # The one before the last convolution goes into that one.
    before = [name.removesuffix(_PARTS[0]) for name in parameters if name.endswith(_PARTS[0]) and _NORM[0] not in name]
    for prefix in before:
        if card.model.get("classifier_padding", 0):
            raise UserError("classifier_padding: a batch norm before a padded convolution cannot be folded into it")
        gamma, beta, mean, variance = (parameters[prefix + part].astype(np.float64) for part in _PARTS)
        scale = gamma / np.sqrt(variance + EPSILON)
        weight = parameters["classifier.1.weight"].astype(np.float64)
        folded["classifier.1.weight"] = (weight * scale[:, None, None]).astype(np.float32)
        shift = weight[:, :, 0, 0] @ (beta - mean * scale)
        folded["classifier.1.bias"] = (parameters["classifier.1.bias"] + shift).astype(np.float32)
    return folded, dataclasses.replace(card, model={**card.model, "batch_norm": "none"})


def without_batch_norm(net: SqueezeNet, card: Any) -> SqueezeNet:
    """Return the equivalent network without batch norm, or the same network if folding is impossible.

    net: in evaluation mode; remains unchanged. card: as in fold_batch_norm.
    """
    if card.model.get("batch_norm", "none") == "none":
        return net
    parameters = {name: parameter.asnumpy() for name, parameter in net.parameters_and_names()}
    try:
        parameters, card = fold_batch_norm(parameters, card)
    except UserError:
        return net
    folded = SqueezeNet(**card.model)
    for name, parameter in folded.parameters_and_names():
        parameter.set_data(Tensor(parameters[name]))
    return folded.set_train(False)
