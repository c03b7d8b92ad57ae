"""Plots: images with their classes, learning curves, the learning rate, and the confusion matrix."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Sequence

import numpy as np
from matplotlib import colormaps, font_manager, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.files.atomic import written

RIGHT, WRONG = "blue", "red"
# With more classes, a confusion matrix has no room for numbers and names.
MAX_NAMED_CLASSES = 30
MOST_IN_LEGEND = 100  # Classes that have no font.


def image_grid(
    path: Path,
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    colors: Sequence[str] | None = None,
    columns: int = 8,
) -> None:
    """Plot a grid of images (H, W, 3) uint8 with a title above each, in its color."""
    rows = max(1, -(-len(images) // columns))
    columns = max(1, min(columns, len(images)))
    lines = max((title.count("\n") + 1 for title in titles), default=1)
    figure = Figure(figsize=(1.7 * columns, (1.85 + 0.15 * lines) * rows))
    for i, (image, title) in enumerate(zip(images, titles)):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(image, interpolation="nearest")
        axes.set_title(title, color=colors[i] if colors else "black", fontsize=8, parse_math=False)
        axes.axis("off")
    save(figure, path)


def prediction_grid(
    path: Path, images: Sequence[np.ndarray], predicted: Sequence[str], right: Sequence[bool] | None = None
) -> None:
    """Plot a grid of images titled "predict:<class>", blue for right and red for wrong predictions."""
    colors = None if right is None else [RIGHT if r else WRONG for r in right]
    image_grid(path, images, [f"predict:{_short(name)}" for name in predicted], colors)


def activation_grid(
    path: Path, images: Sequence[np.ndarray], overlays: Sequence[np.ndarray], predicted: Sequence[str]
) -> None:
    """Plot a grid of images titled "predict:<class>", each followed by its class activation map."""
    titles = [title for name in predicted for title in (f"predict:{_short(name)}", "seen here")]
    image_grid(path, [picture for pair in zip(images, overlays) for picture in pair], titles)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) uint8 overlaid with a heat map (H, W) from 0 to 1, transparent at 0."""
    colors = colormaps["turbo"](heat)[..., :3] * 255
    opacity = 0.65 * heat[..., None]
    return np.round(image * (1 - opacity) + colors * opacity).astype(np.uint8)


def learning_curves(path: Path, history: Sequence[dict]) -> None:
    """Plot loss, accuracy and learning rate over the steps of a run.

    history: rows with `step` and any of loss, accuracy, lr, val_loss, val_accuracy.
    """
    figure = Figure(figsize=(12, 3.6))
    panels = (("loss", ("loss", "val_loss")), ("accuracy", ("accuracy", "val_accuracy")), ("learning rate", ("lr",)))
    for i, (title, keys) in enumerate(panels):
        axes = figure.add_subplot(1, 3, i + 1)
        for key in keys:
            points = [(row["step"], row[key]) for row in history if row.get(key) is not None]
            if points:
                label = "validation" if key.startswith("val_") else "training"
                axes.plot(*zip(*points), marker="." if len(points) < 40 else None, label=label)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if len(axes.get_lines()) > 1:
            axes.legend()
    save(figure, path)


def accuracy_over_time(path: Path, curves: dict[str, Sequence[tuple[float, float]]]) -> None:
    """Plot the validation accuracy of runs over time: points (seconds, accuracy) by the run's name."""
    figure = Figure(figsize=(7, 4.2))
    axes = figure.add_subplot()
    for name, points in curves.items():
        axes.plot([seconds / 60 for seconds, _ in points], [accuracy for _, accuracy in points], marker=".", label=name)
    axes.set_xlabel("minutes")
    axes.set_ylabel("validation accuracy")
    axes.grid(alpha=0.3)
    axes.legend()
    save(figure, path)


def learning_rate(path: Path, rates: np.ndarray, steps_per_epoch: int) -> None:
    """Plot the learning rate of each step over the epochs."""
    figure = Figure(figsize=(6, 3.6))
    axes = figure.add_subplot()
    axes.plot(np.arange(len(rates)) / steps_per_epoch, rates)
    axes.set_xlabel("epoch")
    axes.set_ylabel("learning rate")
    axes.grid(alpha=0.3)
    save(figure, path)


def confusion_matrix(path: Path, confusion: np.ndarray, classes: Sequence[str]) -> None:
    """Plot a confusion matrix, rows the true classes, each normalised by its number of images."""
    count = len(classes)
    size = min(12.0, 3 + 0.5 * count)
    figure = Figure(figsize=(size, size))
    axes: Axes = figure.add_subplot()
    fractions = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if count <= MAX_NAMED_CLASSES:
        names = [_short(name) for name in classes]
        axes.set_xticks(range(count), names, rotation=90, parse_math=False)
        axes.set_yticks(range(count), names, parse_math=False)
        for row, column in np.argwhere(confusion > 0):
            color = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, confusion[row, column], ha="center", va="center", color=color, fontsize=7)
    save(figure, path)


def label_title(label: np.ndarray, classes: Sequence[str]) -> str:
    """Return the class of a label, or for a soft label its classes in percent, one per line."""
    if not label.ndim:
        return _short(classes[label])
    shown = [c for c in np.argsort(-label, kind="stable") if label[c] >= 0.005]
    return "\n".join(f"{_short(classes[c])} {label[c]:.0%}" for c in shown)


def _short(name: str) -> str:
    return name if len(name) <= 20 else name[:19] + "…"


@functools.cache
def legible(classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of classes for pictures, which take a font for them if one is installed that has their letters.

    Without one, such names are numbers, and a legend is printed, once.
    """
    manager, letters = font_manager.fontManager, {ord(c) for name in classes for c in name if c.isprintable()}
    missing = letters - font_manager.get_font(font_manager.findfont(font_manager.FontProperties())).get_charmap().keys()
    if not missing:
        return classes
    for file in set(font_manager.findSystemFonts()) - {font.fname for font in manager.ttflist}:
        with contextlib.suppress(OSError, RuntimeError):  # Matplotlib's list may be older than the font, or it is none.
            manager.addfont(file)
    for font in sorted(manager.ttflist, key=lambda font: (font.style != "normal", font.weight != 400, font.fname)):
        with contextlib.suppress(OSError, RuntimeError):
            if missing <= font_manager.get_font(font.fname).get_charmap().keys():
                rcParams["font.family"] = [*rcParams["font.family"], font.name]
                return classes
    numbered = [i for i, name in enumerate(classes) if missing & set(map(ord, name))]
    legend = ", ".join(f"#{i} {classes[i]}" for i in numbered[:MOST_IN_LEGEND]) + ", ..." * (
        len(numbered) > MOST_IN_LEGEND
    )
    print(
        f"no installed font has the letters of some classes, which have numbers in the pictures: {legend}", flush=True
    )
    return tuple(f"#{i}" if i in numbered else name for i, name in enumerate(classes))


def save(figure: Figure, path: Path, top: float = 1.0) -> None:
    """Save a figure, leaving the fraction of its height above `top` to its title. Raises WriteError."""
    figure.tight_layout(rect=(0, 0, 1, top))
    with written(path) as temporary:
        figure.savefig(temporary, dpi=110, format=path.suffix[1:])
