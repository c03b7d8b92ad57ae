"""Metrics of an evaluation, each image counted once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple

import numpy as np
from mindspore import nn

from src.cli.errors import UserError
from src.devices.processes import ALONE, ProcessGroup


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Results for each of N images, in their order.

    indices: of the images in the source, (N,) int, without unreadable ones.
    labels, predictions: class indices, (N,) int.
    confidences: probability of the predicted class, (N,).
    losses: cross entropy, (N,).
    in_top_5: whether the label is among the five largest logits, (N,) bool.
    num_classes: length of the logits.
    """

    indices: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray
    losses: np.ndarray
    in_top_5: np.ndarray
    num_classes: int

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy, from 0 to 1."""
        return float(np.mean(self.predictions == self.labels))

    @property
    def top_5_accuracy(self) -> float:
        """Fraction of images whose class is among the five most likely ones."""
        return float(np.mean(self.in_top_5))

    @property
    def loss(self) -> float:
        """Mean cross entropy."""
        return float(np.mean(self.losses))

    def confusion(self) -> np.ndarray:
        """Return the confusion matrix: number of images by class (rows) and predicted class (columns)."""
        pairs = self.labels * self.num_classes + self.predictions
        return np.bincount(pairs, minlength=self.num_classes**2).reshape(self.num_classes, self.num_classes)

    def accuracy_per_class(self) -> list[float | None]:
        """Return the accuracy on each class, or None for a class without images."""
        confusion = self.confusion()
        return [float(row[c] / row.sum()) if row.sum() else None for c, row in enumerate(confusion)]

    def worst_mistakes(self, count: int) -> np.ndarray:
        """Return the positions of the wrong predictions with the highest loss, worst first."""
        wrong = np.flatnonzero(self.predictions != self.labels)
        return wrong[np.argsort(-self.losses[wrong], kind="stable")][:count]

    def summary(self) -> dict[str, float | int]:
        """Return the number of images and the value of each of METRICS."""
        return {"images": len(self.labels), **{name: metric.of(self) for name, metric in METRICS.items()}}


class Metric(NamedTuple):
    """A metric of an evaluation.

    of: computes the metric.
    label: its name for display; percent: whether it is displayed as a percentage.
    least_classes: number of classes below which it is meaningless, and not displayed.
    """

    of: Callable[[Evaluation], float]
    label: str
    percent: bool = False
    least_classes: int = 0


# Metrics in result.json and for display, by name. A new metric is a function of an Evaluation and a row here.
METRICS = {
    "accuracy": Metric(lambda evaluation: evaluation.accuracy, "top-1", percent=True),
    "top_5_accuracy": Metric(lambda evaluation: evaluation.top_5_accuracy, "top-5", percent=True, least_classes=6),
    "loss": Metric(lambda evaluation: evaluation.loss, "loss"),
}


def describe(summary: Mapping[str, Any], num_classes: int) -> str:
    """Return the metrics of a summary as a line of text."""
    shown = ((name, metric) for name, metric in METRICS.items() if num_classes >= metric.least_classes)
    return ", ".join(f"{m.label} {summary[name]:{'.2%' if m.percent else '.4f'}}" for name, m in shown)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities for logits (N, classes)."""
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


class Classification(nn.Metric):
    """A metric for `Model.eval` whose value is an Evaluation.

    group: the process group, each process evaluating every group.size-th image; all get the results for all images.
    seen: is called with the number of images of each batch, on all processes together.
    """

    def __init__(self, group: ProcessGroup = ALONE, seen: Callable[[int], object] = lambda images: None):
        super().__init__()
        self.group, self.seen = group, seen
        self.clear()

    def clear(self):
        """Reset the metric."""
        self._batches = []

    def update(self, *inputs):
        """Add a batch: logits (N, num_classes) and labels (N,), negative for an unreadable image."""
        logits, labels = map(self._convert_data, inputs)
        rows = np.arange(len(labels))
        log_probabilities = logits - logits.max(1, keepdims=True)
        log_probabilities = log_probabilities - np.log(np.exp(log_probabilities).sum(1, keepdims=True))
        predictions = logits.argmax(1)
        # Of equal logits the lower index comes first, as in argmax.
        own = logits[rows, labels][:, None]
        ahead = (logits > own) | ((logits == own) & (np.arange(logits.shape[1]) < labels[:, None]))
        self._num_classes = logits.shape[1]
        self.seen(len(labels) * self.group.size)
        self._batches.append(
            (
                labels,
                predictions,
                np.exp(log_probabilities[rows, predictions]),
                -log_probabilities[rows, labels],
                ahead.sum(1) < 5,
            )
        )

    def eval(self) -> Evaluation:
        """Return the results for the images so far. Raises UserError if none of them was readable."""
        types = [np.int32, np.int64, np.float32, np.float32, bool]
        columns = np.stack([np.concatenate(parts).astype(np.float32) for parts in zip(*self._batches)], 1)
        if self.group.size > 1:
            longest = int(self.group.all_gather(np.array(len(columns))).max())
            missing = np.full((longest - len(columns), columns.shape[1]), -1)
            # Image i of process r is number i * size + r of the source.
            everyones = self.group.all_gather(np.concatenate([columns, missing]))
            columns = everyones.transpose(1, 0, 2).reshape(-1, columns.shape[1])
        indices = np.flatnonzero(columns[:, 0] >= 0)
        if not len(indices):
            raise UserError("none of the images to evaluate can be read")
        values = [column.astype(kind) for column, kind in zip(columns[indices].T, types)]
        return Evaluation(indices, *values, self._num_classes)
