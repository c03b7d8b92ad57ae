"""Figures: images with their classes, learning curves, the learning rate, and the confusion matrix.

A figure shows in a notebook as it is; save(figure, path) writes it.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from pathlib import Path
from typing import Mapping, Sequence

import numpy as np
from matplotlib import colormaps, font_manager, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from src.files.atomic import written

RIGHT, WRONG = "blue", "red"
# With more classes, a confusion matrix has no room for numbers and names.
MAX_NAMED_CLASSES = 30
MOST_IN_LEGEND = 100  # Names that have no font.
_COLUMNS = 8  # Of a grid of images.
_INCHES_FOR_HEAD = 0.33  # Of a title, or a legend, above a grid of images.


def image_grid(
    images: Sequence[np.ndarray],
    titles: Sequence[str],
    title: str = "",
    colors: Sequence[str] | None = None,
    captions: Sequence[str] | None = None,
    legend: Mapping[str, str] | None = None,
) -> Figure:
    """Draw a grid of images (H, W, 3) uint8, each with a title above in its color, and a caption below.

    title: of the figure. legend: meaning by color.
    """
    columns = max(1, min(_COLUMNS, len(images)))
    rows = max(1, -(-len(images) // columns))
    lines = max((text.count("\n") + 1 for text in titles), default=1) + bool(captions)
    heads = [head for head in (title, legend) if head]
    height = (1.75 + 0.17 * lines) * rows + _INCHES_FOR_HEAD * len(heads)
    # Wide enough for the title of a few images.
    figure = Figure(figsize=(max(1.7 * columns, 0.075 * len(title)), height))
    for i, image in enumerate(images):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(image, interpolation="nearest")
        axes.set_title(titles[i], color=colors[i] if colors else "black", fontsize=8, parse_math=False)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        if captions:
            axes.set_xlabel(_short(captions[i], 26), fontsize=7, color="dimgrey", parse_math=False)
    if title:
        figure.suptitle(title, y=1 - 0.1 / height, fontsize=10, parse_math=False)
    if legend:
        keys = [Patch(color=color, label=meaning) for color, meaning in legend.items()]
        place = (0.5, 1 - _INCHES_FOR_HEAD * len(heads) / height)
        figure.legend(
            handles=keys, loc="lower center", bbox_to_anchor=place, ncols=len(keys), fontsize=8, frameon=False
        )
    # The layout leaves room for the title by itself.
    figure.set_layout_engine("tight", rect=(0, 0, 1, 1 - _INCHES_FOR_HEAD * bool(legend) / height))
    return figure


def prediction_grid(
    images: Sequence[np.ndarray],
    predicted: Sequence[str],
    confidences: Sequence[float],
    true: Sequence[str] | None = None,
    title: str = "",
    names: Sequence[str] | None = None,
) -> Figure:
    """Draw a grid of images with the predicted class and its probability, in blue where right and red where wrong.

    true: classes, which stand with the wrong predictions, or None where they are not known. names: of the images.
    """
    titles = [class_title(*pair) for pair in zip(predicted, confidences)]
    if true is None:
        return image_grid(images, titles, title, captions=names)
    right = [a == b for a, b in zip(predicted, true)]
    titles = [text if r else f"{text}\ntrue: {_short(name)}" for text, r, name in zip(titles, right, true)]
    legend = {RIGHT: "predicted class and confidence: right", WRONG: "wrong"}
    return image_grid(images, titles, title, [RIGHT if r else WRONG for r in right], names, legend)


def activation_grid(
    images: Sequence[np.ndarray],
    overlays: Sequence[np.ndarray],
    predicted: Sequence[str],
    confidences: Sequence[float],
    title: str = "",
    names: Sequence[str] | None = None,
) -> Figure:
    """Draw a grid of images with predictions, each followed by its class activation map."""
    titles = [t for name, c in zip(predicted, confidences) for t in (class_title(name, c), "class activation")]
    captions = [text for name in names for text in (name, "")] if names else None
    return image_grid([picture for pair in zip(images, overlays) for picture in pair], titles, title, None, captions)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) uint8 overlaid with a heat map (H, W) from 0 to 1, transparent at 0."""
    colors = colormaps["turbo"](heat)[..., :3] * 255
    opacity = 0.65 * heat[..., None]
    return np.round(image * (1 - opacity) + colors * opacity).astype(np.uint8)


def learning_curves(history: Sequence[dict], rates: np.ndarray, steps_per_epoch: int, title: str = "") -> Figure:
    """Draw loss, accuracy in percent and learning rate over the epochs of a run; mark the best validation accuracy.

    history: rows with `step` and any of loss, accuracy, val_loss, val_accuracy. rates: of each step.
    """
    figure = Figure(figsize=(12, 3.8), layout="tight")
    loss, accuracy, rate = figure.subplots(1, 3)
    for axes, key, factor, label in ((loss, "loss", 1, "loss"), (accuracy, "accuracy", 100, "accuracy (%)")):
        for prefix, name in (("", "training"), ("val_", "validation")):
            rows = [(row["step"], factor * row[prefix + key]) for row in history if row.get(prefix + key) is not None]
            if rows:
                steps, values = zip(*rows)
                axes.plot(np.divide(steps, steps_per_epoch), values, marker="." if len(rows) < 40 else None, label=name)
            if rows and prefix and key == "accuracy":
                best = int(np.argmax(values))
                place = (steps[best] / steps_per_epoch, values[best])
                axes.plot(*place, "*", color="C3", markersize=11, label=f"best: {place[1]:.2f}%, epoch {place[0]:.3g}")
        axes.set_ylabel(label)
        if axes.get_lines():
            axes.legend()
    done = max((row["step"] for row in history), default=0)
    rate.plot(np.arange(1, done + 1) / steps_per_epoch, rates[:done])
    rate.set_ylabel("learning rate")
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epoch")
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize=11, parse_math=False)
    return figure


def learning_rates(rates: Mapping[str, np.ndarray], steps_per_epoch: int, title: str = "") -> Figure:
    """Draw the learning rate of each step over the epochs, for schedules by name."""
    figure = Figure(figsize=(6.4, 3.6), layout="tight")
    axes = figure.add_subplot()
    for name, values in rates.items():
        axes.plot(np.arange(1, len(values) + 1) / steps_per_epoch, values, label=name)
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.set_ylabel("learning rate")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def confusion_matrix(confusion: np.ndarray, classes: Sequence[str], title: str = "") -> Figure:
    """Draw a confusion matrix, rows the true classes with their accuracy, each normalised by its number of images."""
    count, images = len(classes), int(confusion.sum())
    size = min(12.0, 3.5 + 0.5 * count)
    figure = Figure(figsize=(size + 1.5, size), layout="tight")
    axes: Axes = figure.add_subplot()
    fractions = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    shades = axes.imshow(100 * fractions, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(shades, label="% of the images of the true class", fraction=0.046)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class, and how many of its images are right")
    figures = f"{np.trace(confusion) / max(1, images):.2%} of {images:,} images right"
    axes.set_title(f"{title}\n{figures}" if title else figures, fontsize=10, parse_math=False)
    if count <= MAX_NAMED_CLASSES:
        names = [_short(name) for name in classes]
        rows = [class_title(name, fractions[i, i]) if confusion[i].any() else name for i, name in enumerate(classes)]
        axes.set_xticks(range(count), names, rotation=90, parse_math=False)
        axes.set_yticks(range(count), rows, parse_math=False)
        for row, column in np.argwhere(confusion > 0):
            color = "white" if fractions[row, column] > 0.5 else "black"
            axes.text(column, row, confusion[row, column], ha="center", va="center", color=color, fontsize=7)
    return figure


def class_title(name: str, probability: float) -> str:
    """Return a class with its probability or accuracy in percent."""
    return f"{_short(name)} ({probability:.{1 if 0 < probability < 0.01 else 0}%})"


def label_title(label: np.ndarray, classes: Sequence[str]) -> str:
    """Return the class of a label, or for a soft label its classes in percent, one per line."""
    if not label.ndim:
        return _short(classes[label])
    shown = [c for c in np.argsort(-label, kind="stable") if label[c] >= 0.005]
    return "\n".join(class_title(classes[c], label[c]) for c in shown)


def some_of(count: int, images: int, what: str) -> str:
    """Return how many of how many images a picture shows, such as "32 of 10,000 test images"."""
    return f"{images:,} {what}" if count == images else f"{count:,} of {images:,} {what}"


def _short(name: str, length: int = 20) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


@functools.cache
def legible(classes: tuple[str, ...], what: str = "classes") -> tuple[str, ...]:
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
    print(f"no installed font has the letters of some {what}, which have numbers in the pictures: {legend}", flush=True)
    return tuple(f"#{i}" if i in numbered else name for i, name in enumerate(classes))


def save(figure: Figure, path: Path) -> None:
    """Write a figure to a file. Raises WriteError."""
    with written(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # A title may name a folder in letters that no font has.
        figure.savefig(temporary, dpi=110, format=path.suffix[1:])
