"""Layers of a network with output shapes, parameters and multiply-adds.

python -m src.network.summary --config config/squeezenet_cifar10.yaml --squeeze_ratio 0.25
"""

from __future__ import annotations

import dataclasses
import sys
from typing import NamedTuple

import mindspore as ms
from mindspore import nn

from src.cli.errors import UserError, run
from src.config import parse_train
from src.squeezenet import SqueezeNet


class Row(NamedTuple):
    """One layer: its name in the network, its kind, output shape for one image, parameters and multiply-adds."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


def summarize(net: SqueezeNet, image_size: int) -> list[Row]:
    """Return a row for each layer of a network, a Fire module being one, for an image of image_size x image_size.

    One image of zeros runs through it, layer by layer. Multiply-adds are those of the convolutions.
    """
    counted: list[int] = []
    hooks = [
        cell.register_forward_hook(lambda cell, _, output: counted.append(cell.weight.size * output[0, 0].size))
        for _, cell in net.cells_and_names()
        if isinstance(cell, nn.Conv2d)
    ]
    rows, mode, training = [], ms.get_context("mode"), net.training
    ms.set_context(mode=ms.PYNATIVE_MODE)
    net.set_train(False)
    try:
        x = ms.ops.zeros((1, net.features[0].conv.in_channels, image_size, image_size), ms.float32)
        for part in ("features", "classifier"):
            for name, layer in getattr(net, part).name_cells().items():
                counted.clear()
                x = layer(x)
                parameters = sum(parameter.size for parameter in layer.trainable_params())
                rows.append(Row(f"{part}.{name}", type(layer).__name__, tuple(x.shape[1:]), parameters, sum(counted)))
    finally:
        ms.set_context(mode=mode)
        net.set_train(training)
        for hook in hooks:
            hook.remove()
    return rows


def totals(rows: list[Row]) -> tuple[int, int]:
    """Return the parameters and the multiply-adds of all layers."""
    return sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)


def table(rows: list[Row]) -> str:
    """Return the rows as text, with their totals."""
    cells = [("layer", "kind", "output", "parameters", "multiply-adds")]
    cells += [(r.name, r.kind, "x".join(map(str, r.output)), f"{r.parameters:,}", f"{r.multiply_adds:,}") for r in rows]
    parameters, multiply_adds = totals(rows)
    cells.append(("total", "", "", f"{parameters:,}", f"{multiply_adds:,}"))
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = []
    for name, kind, output, parameters, multiply_adds in cells:
        left = f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {output:>{widths[2]}}"
        lines.append(f"{left}  {parameters:>{widths[3]}}  {multiply_adds:>{widths[4]}}")
    return "\n".join(lines)


def check_image_size(net: SqueezeNet, image_size: int) -> None:
    """Raise UserError when nothing is left of images of this size at the end of the network."""
    if net.feature_size(image_size) < 1:
        smallest = next(size for size in range(1, 4096) if net.feature_size(size) >= 1)
        raise UserError(
            f"image_size: {image_size} is too small for this network, which takes {smallest} or more; "
            "or choose --stem small, --ceil_mode true or --version cifar"
        )


def main() -> None:
    """Print the table of the network that a configuration describes."""
    config = parse_train(sys.argv[1:], "layers, parameters and multiply-adds of a network")
    ms.set_device("CPU")
    net = SqueezeNet(**{**dataclasses.asdict(config.model), "num_classes": config.model.num_classes or 10})
    check_image_size(net, config.data.image_size)
    print(table(summarize(net, config.data.image_size)))


if __name__ == "__main__":
    run(main)
