"""Summary of a network: layers, output shapes, parameters and multiply-adds, without building the network."""

from __future__ import annotations

import math
from typing import Any, Mapping, NamedTuple

from src.cli.errors import UserError
from src.devices.memory import free_memory
from src.network.convolutions import arguments, convolutions, layers_of
from src.network.design_space import Norm, Pool
from src.network.geometry import feature_size, feature_sizes

# Of one image. Caffe's and torchvision's nets have 4.6 MB at 224; 1 GB is met at about 3,300 pixels.
MAX_FEATURE_MAP = 2**30


class Row(NamedTuple):
    """A layer: its name in the network, its kind, output shape for one image, parameters and multiply-adds."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    multiply_adds: int


def summarize(model: Mapping[str, Any], image_size: int) -> list[Row]:
    """Return a row for each layer or Fire module of a network, for images of image_size x image_size.

    model: arguments of SqueezeNet. Multiply-adds are those of the convolutions.
    """
    given = arguments(model)
    stem, layers = layers_of(given)
    sizes, channels = feature_sizes(stem, layers, image_size, given["ceil_mode"]), stem.channels
    parameters, weights = [0] * (len(layers) + 2), [0] * (len(layers) + 2)
    for convolution in convolutions(given):
        count, vectors = math.prod(convolution.shape), 2 if convolution.has_norm(given["batch_norm"]) else 1
        weights[convolution.index] += count
        parameters[convolution.index] += count + vectors * convolution.shape[0]
    pool = "CeilMaxPool2d" if given["ceil_mode"] else "MaxPool2d"
    kinds, rows = ["ConvUnit"], []
    for layer in layers:
        kinds.append(pool if isinstance(layer, Pool) else "BatchNorm2d" if isinstance(layer, Norm) else "Fire")
    for index, (kind, size) in enumerate(zip(kinds, sizes)):
        channels = layers[index - 1].expand if kind == "Fire" else channels
        count = 2 * channels if kind == "BatchNorm2d" else parameters[index]
        rows.append(Row(f"features.{index}", kind, (channels, size, size), count, weights[index] * size**2))
    size = sizes[-1] + 2 * given["classifier_padding"]
    logits = (given["num_classes"], size, size)
    rows.append(Row("classifier.0", "Dropout", rows[-1].output, 0, 0))
    rows.append(Row("classifier.1", "Conv2d", logits, parameters[-1], weights[-1] * size**2))
    return rows + ([Row("classifier.2", "ReLU", logits, 0, 0)] if given["final_relu"] else [])


def totals(rows: list[Row]) -> tuple[int, int]:
    """Return the parameters and the multiply-adds of all layers."""
    return sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)


def table(rows: list[Row]) -> str:
    """Format the rows as a table with totals."""
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


def check_image_size(model: Mapping[str, Any], image_size: int) -> None:
    """Raise UserError for images too small for a network's layers, or too large for memory.

    model: arguments of SqueezeNet.
    """
    ceil_mode = arguments(model)["ceil_mode"]
    stem, layers = layers_of(model)
    if feature_size(stem, layers, image_size, ceil_mode) < 1:
        smallest = next(size for size in range(1, 4096) if feature_size(stem, layers, size, ceil_mode) >= 1)
        raise UserError(
            f"image_size: {image_size} is too small for this network, which takes {smallest} or more; "
            "or choose --stem small, --ceil_mode true or --version cifar"
        )
    first = 4 * stem.channels * feature_sizes(stem, [], image_size)[0] ** 2
    if first > MAX_FEATURE_MAP:
        raise UserError(
            f"image_size: {image_size} is too large: the first feature map of one image takes {first / 2**30:.1f} GB, "
            f"and {MAX_FEATURE_MAP / 2**30:.0f} GB is the most; choose a smaller size"
        )


def check_memory(model: Mapping[str, Any], image_size: int, batch_size: int, training: bool = False) -> None:
    """Raise UserError for a batch, or a network, that needs more memory than is free.

    Counts the least that can be needed: the weights, and two consecutive feature maps; in training, all of them, and
    for each weight a gradient and a moment. model: arguments of SqueezeNet.
    """
    rows = summarize(model, image_size)
    values = [arguments(model)["in_channels"] * image_size**2, *(math.prod(row.output) for row in rows)]
    maps = sum(values) if training else max(map(sum, zip(values, values[1:])))
    parameters = totals(rows)[0]
    needed, free = 4 * (maps * batch_size + parameters * (3 if training else 1)), free_memory()
    if needed > free:
        raise UserError(
            f"batch_size: {batch_size} images of {image_size} pixels, in a network of {parameters:,} parameters, take "
            f"at least {needed / 2**30:.1f} GB of memory, and {free / 2**30:.1f} GB are free; choose fewer images, "
            "smaller ones, or a smaller network"
        )
