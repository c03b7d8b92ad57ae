"""Fine-tuning: freeze layers of a network."""

from __future__ import annotations

import re
from typing import Sequence

from mindspore import nn

from src.cli.errors import UserError
from src.squeezenet import SqueezeNet


def freeze(net: SqueezeNet, parts: Sequence[str]) -> None:
    """Freeze layers: neither their weights nor their batch norm statistics change in training.

    parts: "features" or "classifier", one of their layers, as "features.3", or a range, as "features.0-4". No gradients
    are computed below the first trained layer. Raises UserError for unknown parts, and if nothing is left to train.
    """
    for part in parts:
        for layer in _layers(net, part):
            for parameter in layer.trainable_params():
                parameter.requires_grad = False
            for _, cell in layer.cells_and_names():
                if isinstance(cell, nn.BatchNorm2d):
                    cell.use_batch_statistics = False  # set_train, which Model calls, would undo set_train(False).
    if not net.trainable_params():
        raise UserError(f"freeze: {' '.join(parts)} leave nothing to train")


def _layers(net: SqueezeNet, part: str) -> list[nn.Cell]:
    named = re.fullmatch(r"(features|classifier)(?:\.(\d+)(?:-(\d+))?)?", part)
    layers = list(getattr(net, named[1])) if named else []
    if named and named[2]:
        first, last = int(named[2]), int(named[3] or named[2])
        layers = layers[first : last + 1] if first <= last < len(layers) else []
    if not layers:
        raise UserError(
            f"freeze: {part!r} is not a part of this network: it has features.0 to features.{len(net.features) - 1} "
            "(python -m src.summary lists them); give one, a range such as features.0-4, or features for all"
        )
    return layers
