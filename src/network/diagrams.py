"""Draw a Fire module, and networks side by side, from the tables that build them."""

from __future__ import annotations

from typing import Any, Mapping, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Patch

from src.network.convolutions import arguments, convolutions, layers_of
from src.network.design_space import Pool, Widths
from src.network.summary import summarize, totals

_COLORS = {"convolution": "#f6d6ad", "max pool": "#cfd8dc", "Fire": "#b9d7f0", "average": "#d9ead3"}
_BYPASSES = {"identity": "tab:green", "1x1 convolution": "tab:red"}


class Box(NamedTuple):
    """A layer of a diagram: its text, kind and output shape, and the kind of its bypass, or None."""

    text: str
    kind: str
    output: tuple[int, ...]
    bypass: str | None = None


def boxes(model: Mapping[str, Any], image_size: int) -> list[Box]:
    """Return the layers of a network with the paper's names. model: arguments of SqueezeNet."""
    given, (stem, layers), rows = arguments(model), layers_of(model), summarize(model, image_size)
    convolved = convolutions(model)
    projected = {convolution.index for convolution in convolved if convolution.part == "shortcut"}
    stem_text = f"conv1: {stem.kernel_size}x{stem.kernel_size}, {stem.channels}"
    found = [Box(f"{stem_text}, stride {stem.stride}", "convolution", rows[0].output)]
    number = 1
    for index, (layer, row) in enumerate(zip(layers, rows[1:]), 1):
        if isinstance(layer, Pool):
            text = f"max pool: {layer.kernel_size}x{layer.kernel_size}, stride {layer.stride}"
            found.append(Box(text, "max pool", row.output))
        elif isinstance(layer, Widths):
            number += 1
            same = given["bypass"] != "none" and found[-1].output[0] == row.output[0]
            bypass = "identity" if same else "1x1 convolution" if index in projected else None
            text = f"fire{number}: {layer.squeeze}, {layer.expand1x1} + {layer.expand3x3}"
            found.append(Box(text, "Fire", row.output, bypass))
    last = next(row for row in rows if row.name == "classifier.1")
    found.append(Box(f"conv{convolved[-1].number}: 1x1, {given['num_classes']}", "convolution", last.output))
    return [*found, Box("global average", "average", (given["num_classes"],))]


def network_diagram(models: Mapping[str, Mapping[str, Any]], image_size: int) -> Figure:
    """Draw networks side by side, with the output shape next to each layer.

    models: arguments of SqueezeNet by title. image_size: side of the input in pixels.
    """
    columns = {name: boxes(model, image_size) for name, model in models.items()}
    most = max(map(len, columns.values()))
    figure = Figure(figsize=(3.4 * len(columns), 0.5 * most + 1.6), layout="tight")
    for axes, (name, column) in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns.items()):
        parameters, multiply_adds = totals(summarize(models[name], image_size))
        _prepare(axes, (-0.62, 1.3), (0.6 - most, 0.9))
        axes.set_title(
            f"{name}\n{parameters:,} parameters\n{multiply_adds / 1e6:,.0f} million multiply-adds", fontsize=9
        )
        axes.text(0.5, 0.75, f"image: 3x{image_size}x{image_size}", ha="center", va="center", fontsize=8)
        for i, box in enumerate(column):
            _box(axes, 0, -i - 0.28, 1, 0.56, box.text, _COLORS[box.kind])
            _arrow(axes, (0.5, 0.6 if not i else 0.72 - i), (0.5, 0.28 - i))
            axes.text(-0.05, -i, "x".join(map(str, box.output)), ha="right", va="center", fontsize=7, color="dimgrey")
            if box.bypass:
                # Each starts below the end of the one before, and neighbours lie side by side.
                color, right, start, end = _BYPASSES[box.bypass], 1.1 + 0.08 * (i % 2), 0.43 - i, -0.43 - i
                axes.plot([0.5, right, right], [start, start, end], color=color)
                _arrow(axes, (right, end), (0.5, end), color)
    shown = {box.bypass for column in columns.values() for box in column} - {None}
    keys = [Patch(facecolor=color, edgecolor="grey", label=kind) for kind, color in _COLORS.items()]
    keys += [Line2D([], [], color=_BYPASSES[kind], label=f"bypass: {kind}") for kind in _BYPASSES if kind in shown]
    across = len(keys) if len(columns) > 1 else 2
    figure.legend(handles=keys, loc="lower center", ncols=across, fontsize=7)
    explained = ["Fire: filters of squeeze, expand 1x1 + expand 3x3;", "next to a layer, its output"]
    figure.suptitle((" " if len(columns) > 1 else "\n").join(explained), fontsize=8)
    figure.set_layout_engine("tight", rect=(0, (0.15 + 0.2 * -(-len(keys) // across)) / figure.get_figheight(), 1, 1))
    return figure


def fire_diagram(in_channels: int, squeeze: int, expand1x1: int, expand3x3: int) -> Figure:
    """Draw a Fire module next to a plain 3x3 convolution of the same input and output, with their weights counted."""
    expand = expand1x1 + expand3x3
    counts = [in_channels * squeeze, squeeze * expand1x1, squeeze * expand3x3 * 9]
    plain = in_channels * expand * 9
    figure = Figure(figsize=(9, 4.2), layout="tight")
    axes = figure.add_subplot()
    _prepare(axes, (0, 9), (0, 4.2))
    for x, name, total in ((2.6, "Fire module", sum(counts)), (7.4, "plain convolution", plain)):
        axes.text(x, 4, f"{name}: {total:,} weights", ha="center", va="center", fontsize=11, weight="bold")
        axes.text(x, 3.6, f"input: {in_channels} channels", ha="center", va="center", fontsize=9)
        axes.text(x, 0.2, f"output: {expand} channels", ha="center", va="center", fontsize=9)
    fire, light = _COLORS["Fire"], _COLORS["convolution"]
    _box(axes, 1.2, 2.5, 2.8, 0.7, f"squeeze 1x1: {squeeze} filters\n{in_channels} x {squeeze} = {counts[0]:,}", fire)
    _box(axes, 0.1, 1.2, 2.4, 0.7, f"expand 1x1: {expand1x1} filters\n{squeeze} x {expand1x1} = {counts[1]:,}", fire)
    text = f"expand 3x3: {expand3x3} filters\n{squeeze} x {expand3x3} x 9 = {counts[2]:,}"
    _box(axes, 2.7, 1.2, 2.4, 0.7, text, fire)
    _box(axes, 6.1, 1.85, 2.6, 0.7, f"3x3: {expand} filters\n{in_channels} x {expand} x 9 = {plain:,}", light)
    axes.text(2.6, 0.75, "concatenate", ha="center", va="center", fontsize=9)
    arrows = [((2.6, 3.45), (2.6, 3.2)), ((2.2, 2.5), (1.3, 1.9)), ((3.0, 2.5), (3.9, 1.9)), ((2.6, 0.6), (2.6, 0.35))]
    arrows += [
        ((1.3, 1.2), (2.0, 0.8)),
        ((3.9, 1.2), (3.2, 0.8)),
        ((7.4, 3.45), (7.4, 2.55)),
        ((7.4, 1.85), (7.4, 0.35)),
    ]
    for start, end in arrows:
        _arrow(axes, start, end)
    return figure


def _prepare(axes: Axes, width: tuple[float, float], height: tuple[float, float]) -> None:
    axes.set_axis_off()
    axes.set_xlim(width)
    axes.set_ylim(height)


def _box(axes: Axes, x: float, y: float, width: float, height: float, text: str, color: str) -> None:
    style = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": color, "edgecolor": "grey"}
    axes.add_patch(FancyBboxPatch((x, y), width, height, **style))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], color: str = "black") -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=8, shrinkA=0, shrinkB=0, color=color))
