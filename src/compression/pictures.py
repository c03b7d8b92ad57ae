"""Draw a compression: histograms of the weights with their codebooks, and bytes by layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

# More lines than that would hide the histogram.
_MOST_LINES = 256
_COLUMNS = 4
_INCHES_FOR_LEGEND = 0.15  # More than the title takes.


class Layer(NamedTuple):
    """The weights of a convolution before and after compression."""

    name: str
    original: np.ndarray
    compressed: np.ndarray


def histograms(layers: Sequence[Layer]) -> Figure:
    """Draw a histogram of the original's nonzero weights for each layer, with lines at the codebook's values."""
    rows = max(1, -(-len(layers) // _COLUMNS))
    height = 2.4 * rows + 0.5
    figure = Figure(figsize=(4 * _COLUMNS, height))
    for i, layer in enumerate(layers):
        axes = figure.add_subplot(rows, _COLUMNS, i + 1)
        axes.hist(layer.original[layer.original != 0], bins=101)
        values = np.unique(layer.compressed[layer.compressed != 0])
        title = f"{layer.name.removesuffix('.weight')}\n{np.mean(layer.compressed == 0):.0%} pruned"
        if len(values) <= _MOST_LINES:
            axes.vlines(values, 0, 0.15, transform=axes.get_xaxis_transform(), color="red", linewidth=0.5)
            title += f", {len(values)} values"
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=6)
        axes.set_yticks([])
    figure.suptitle("Weights of each convolution and their codebooks", y=1 - 0.1 / height)
    keys = [Patch(color="C0", label="original weights"), Line2D([], [], color="red", label="codebook value")]
    figure.legend(handles=keys, loc="upper right", fontsize=8)
    figure.set_layout_engine("tight", rect=(0, 0, 1, 1 - _INCHES_FOR_LEGEND / height))
    return figure


def layer_bytes(rows: Sequence[dict[str, Any]], file_bytes: int) -> Figure:
    """Draw a bar for each convolution's size in the file, and one for the biases and other vectors together."""
    large = [row for row in rows if len(row["shape"]) >= 2]
    names = [row["name"].removesuffix(".weight") for row in large] + ["biases and other vectors"]
    sizes = [row["bytes"] for row in large] + [sum(row["bytes"] for row in rows if len(row["shape"]) < 2)]
    figure = Figure(figsize=(8, 1.3 + 0.22 * len(names)), layout="tight")
    axes = figure.add_subplot()
    bars = axes.barh(names, [size / 1000 for size in sizes])
    axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=7)
    axes.margins(x=0.1)
    axes.invert_yaxis()
    axes.set_title(f"Size of each layer in the compressed file ({file_bytes / 1000:,.1f} kB)")
    axes.set_xlabel("kB (1000 bytes)")
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(alpha=0.3, axis="x")
    return figure
