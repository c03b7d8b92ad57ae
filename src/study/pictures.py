"""Plots of a study: accuracy over model size for each numeric key, as in the paper's figure 3, or side by side."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Optional, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from src import visualize
from src.study.design import Design, Point
from src.study.results import SPLITS, accuracies, spread

Results = dict[str, list[dict[str, Any]]]
LOG_RANGE = 20  # Largest value by smallest from which an axis is logarithmic.


def draw_axes(design: Design, results: Results) -> dict[str, Path]:
    """Plot the accuracy over each varied key that has two or more results; return the pictures by key.

    results: of the finished runs, by the point's name. The accuracy is that on test images, if all runs have it.
    """
    found = [result for several in results.values() for result in several]
    split = next((s for s in reversed(SPLITS) if found and len(accuracies(found, s)) == len(found)), None)
    pictures = {}
    for key, values in design.axes.items():
        lines = _lines(design, results, key) if split else {}
        if lines:
            pictures[key] = design.folder / f"{key}.png"
            figure = Figure(figsize=(7, 4.6))
            axes = figure.add_subplot()
            _draw(axes, lines, results, key, values, split)
            note = "\nmeans and standard deviations over the seeds" if len(design.seeds) > 1 else ""
            axes.set_title(f"{split} accuracy for values of {key}\n{design.subject()}{note}", fontsize=10)
            axes.set_ylabel(f"{split} accuracy")
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.grid(alpha=0.3)
            if len(lines) > 1:
                axes.legend(fontsize=8)
            visualize.save(figure, pictures[key])
    return pictures


def _lines(design: Design, results: Results, key: str) -> dict[str, list[Point]]:
    """Return the points with results that differ in a key alone, by their other values, two or more in a line."""
    order, lines = design.axes[key], {}
    for point in design.points:
        if results[point.name] and point.values[key] in order:
            others = ", ".join(f"{k}={v}" for k, v in point.values.items() if k != key)
            lines.setdefault(others, []).append(point)
    return {
        others: sorted(points, key=lambda point: order.index(point.values[key]))
        for others, points in lines.items()
        if len(points) > 1
    }


def _draw(
    axes: Axes, lines: dict[str, list[Point]], results: Results, key: str, values: Sequence[str], split: str
) -> None:
    """Draw lines over the model's size, over the key's value where all sizes are equal, or over names."""
    numbers = [_number(value) for value in values]
    numeric = None not in numbers
    sizes = [point.bytes / 1e6 for points in lines.values() for point in points]
    over_size = numeric and len(set(sizes)) > 1
    for others, points in lines.items():
        labels = [point.values[key] for point in points]
        if over_size:
            xs = [point.bytes / 1e6 for point in points]
        else:
            xs = [_number(label) if numeric else values.index(label) for label in labels]
        several = [accuracies(results[point.name], split) for point in points]
        means, deviations = [statistics.fmean(v) for v in several], [spread(v) or 0 for v in several]
        style = "o-" if numeric else "o"
        pairs = sorted(zip(xs, means, deviations, labels, points))
        xs, means, deviations, labels, points = zip(*pairs)
        axes.errorbar(xs, means, deviations if any(deviations) else None, fmt=style, capsize=3, label=others)
        for x, mean, label, point in zip(xs, means, labels, points):
            text = label if over_size else f"{mean:.1%}" if numeric else f"{mean:.1%}\n{point.bytes / 1e6:.3g} MB"
            axes.annotate(text, (x, mean), (-6, 6), textcoords="offset points", ha="right", fontsize=8)
    axes.margins(x=0.12, y=0.15)
    if over_size:
        axes.set_xlabel(f"size of the parameters in MB (float32); at the points: {key}")
    else:
        axes.set_xlabel(key)
    shown = sizes if over_size else [number for number in numbers if number is not None]
    if not numeric:
        axes.set_xticks(range(len(values)), values)
        axes.set_xlim(-0.5, len(values) - 0.3)
    elif min(shown) > 0 and max(shown) / min(shown) >= LOG_RANGE:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ScalarFormatter())


def _number(text: str) -> Optional[float]:
    try:
        return float(text)
    except ValueError:
        return None
