"""Pictures of a compression: weights with their centroids, bytes by layer, size against accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

import numpy as np
from matplotlib.figure import Figure

from src.visualize import save

# More lines than that would hide the histogram.
_MOST_LINES = 256
_COLUMNS = 4


def histograms(path: Path, layers: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Write a histogram of each layer's weights as they were, zeros left out, with the values they share now."""
    rows = max(1, -(-len(layers) // _COLUMNS))
    figure = Figure(figsize=(4 * _COLUMNS, 2.4 * rows))
    for i, (name, original, shared) in enumerate(layers):
        axes = figure.add_subplot(rows, _COLUMNS, i + 1)
        axes.hist(original[original != 0], bins=101)
        values = np.unique(shared[shared != 0])
        pruned = np.mean(shared == 0)
        title = f"{name.removesuffix('.weight')}\n{pruned:.0%} zero"
        if len(values) <= _MOST_LINES:
            axes.vlines(values, 0, 0.15, transform=axes.get_xaxis_transform(), color="red", linewidth=0.5)
            title += f", {len(values)} values"
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=6)
        axes.set_yticks([])
    save(figure, path)


def layer_bytes(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a bar for each layer's bytes in the file; the vectors share one."""
    large = [row for row in rows if len(row["shape"]) >= 2]
    names = [row["name"].removesuffix(".weight") for row in large] + ["vectors"]
    sizes = [row["bytes"] for row in large] + [sum(row["bytes"] for row in rows if len(row["shape"]) < 2)]
    figure = Figure(figsize=(8, 1 + 0.22 * len(names)))
    axes = figure.add_subplot()
    axes.barh(names, sizes)
    axes.invert_yaxis()
    axes.set_xlabel("bytes")
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(alpha=0.3, axis="x")
    save(figure, path)


def curve(path: Path, points: Sequence[dict[str, Any]]) -> None:
    """Write size against accuracy and agreement, as far as they were measured; else bits against size."""
    keys = [key for key in ("accuracy", "agreement") if points and key in points[0]]
    figure = Figure(figsize=(6 * max(1, len(keys)), 4))
    for i, key in enumerate(keys or ["bits"]):
        axes = figure.add_subplot(1, max(1, len(keys)), i + 1)
        for sparsity in dict.fromkeys(point["sparsity"] for point in points):
            line = [point for point in points if point["sparsity"] == sparsity]
            sizes = [point["file_bytes"] for point in line]
            axes.plot(sizes, [point[key] for point in line], marker="o", label=f"sparsity {sparsity:g}")
            for point, size in zip(line, sizes):
                axes.annotate(f"{point['bits']}", (size, point[key]), xytext=(4, -10), textcoords="offset points")
        axes.set_xlabel("bytes (the figures are bits)")
        axes.set_ylabel({"accuracy": "top-1 accuracy", "agreement": "top-1 agreement with the original"}.get(key, key))
        axes.grid(alpha=0.3)
        axes.legend()
    save(figure, path)
