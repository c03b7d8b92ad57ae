"""Classification losses with label smoothing, which also count correct predictions.

A new loss is a subclass with `losses` and `untrained`, and a line in LOSSES.
"""

from __future__ import annotations

import math
from typing import Sequence

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops


class ClassificationLoss(nn.LossBase):
    """Base class: smooth the targets, compute the loss, and count correct predictions.

    Input: logits (N, num_classes), and either labels, (N,) int32, or soft labels, (N, classes) float32, which may leave
    out the network's last classes. Output: the mean loss, a scalar.

    label_smoothing: fraction of the target spread evenly over all classes (Szegedy et al. 2015, section 7).
    class_weights: of each class, (num_classes,) float32, or None. The loss of an image is multiplied by the weight of
        its class, or by the mean weight of its target, if that is smoothed or mixed. The sum is divided by the number
        of images, so that gradients on several devices add up to those on one.

    In training, `correct` and `seen` count correct predictions and images, and `loss_sum` sums the losses, inside the
    graph: this needs no second forward pass, and covers every step also with dataset sinking. A prediction for soft
    labels is correct if it is the class of the largest one.
    """

    def __init__(self, label_smoothing: float = 0.0, class_weights: np.ndarray | None = None):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else Tensor(class_weights, ms.float32)
        self.correct = Parameter(Tensor(0, ms.int32), name="train_correct", requires_grad=False)
        self.seen = Parameter(Tensor(0, ms.int32), name="train_seen", requires_grad=False)
        self.loss_sum = Parameter(Tensor(0, ms.float32), name="train_loss_sum", requires_grad=False)

    @staticmethod
    def untrained(num_classes: int) -> float:
        """Return the loss of logits that are all 0."""
        raise NotImplementedError

    def losses(self, logits, targets):
        """Return the loss of each image, (N,), for logits and targets, both (N, num_classes) float32."""
        raise NotImplementedError

    def restart(self) -> None:
        """Reset the counters."""
        for counter in (self.correct, self.seen, self.loss_sum):
            counter.set_data(Tensor(0, counter.dtype))

    def construct(self, logits, labels):
        soft = labels.ndim == 2
        if self.training:
            expected = labels.argmax(1).astype(ms.int32) if soft else labels
            right = (logits.argmax(1).astype(ms.int32) == expected).astype(ms.float32).sum()
            self.correct = self.correct + right.astype(ms.int32)
            self.seen = self.seen + labels.shape[0]
        classes = logits.shape[1]
        off = self.label_smoothing / classes
        if soft:
            if labels.shape[1] < classes:  # Not by ops.pad, which CANN computes on the AI CPU.
                labels = ops.concat((labels, ops.zeros((labels.shape[0], classes - labels.shape[1]), labels.dtype)), 1)
            targets = labels * (1 - self.label_smoothing) + off
        else:
            on = Tensor(1 - self.label_smoothing + off, ms.float32)
            targets = ops.one_hot(labels, classes, on, Tensor(off, ms.float32))
        losses = self.losses(logits, targets)
        if self.class_weights is not None:
            losses = losses * (targets * self.class_weights).sum(1)
        loss = self.get_loss(losses)  # Their mean.
        if self.training:
            self.loss_sum = self.loss_sum + loss * labels.shape[0]
        return loss


class CrossEntropy(ClassificationLoss):
    """Softmax cross entropy; see ClassificationLoss."""

    untrained = staticmethod(math.log)

    def __init__(self, label_smoothing: float = 0.0, class_weights: np.ndarray | None = None):
        super().__init__(label_smoothing, class_weights)
        # Not `sparse=True`, whose loss is infinite on the CPU once a logit exceeds the label's by 87.
        self.cross_entropy = ops.SoftmaxCrossEntropyWithLogits()

    def losses(self, logits, targets):
        """Return the cross entropy of each image."""
        return self.cross_entropy(logits, targets)[0]


class BinaryCrossEntropy(ClassificationLoss):
    """Sigmoid cross entropy, averaged over the classes; see ClassificationLoss.

    Wightman et al. 2021 (https://arxiv.org/abs/2110.00476, section 2.2), as in timm.
    """

    @staticmethod
    def untrained(num_classes: int) -> float:
        """Return ln 2, whatever the number of classes."""
        return math.log(2)

    def losses(self, logits, targets):
        """Return the mean over the classes for each image."""
        # log(1 + exp(x)) without overflow, minus x for the target.
        losses = ops.relu(logits) - logits * targets + ops.log1p(ops.exp(-ops.abs(logits)))
        return losses.mean(1)


LOSSES = {"cross_entropy": CrossEntropy, "bce": BinaryCrossEntropy}


def relative_weights(given: str | Sequence[float], labels: np.ndarray, num_classes: int) -> np.ndarray | None:
    """Return the weights of classes, (num_classes,) float32, whose mean over the training images is 1.

    given: "none", which returns None; "balanced", inversely proportional to the number of a class's images; or the
        weights themselves. Raises ValueError if these do not fit.
    """
    if given == "none":
        return None
    counts = np.bincount(labels, minlength=num_classes)
    if given == "balanced":
        weights = 1 / np.maximum(counts, 1)
    elif len(given) == num_classes:
        weights = np.array(given, float)
    else:
        raise ValueError(f"{len(given)} weights")
    total = float((weights * counts).sum())
    if not total > 0:
        raise ValueError("no image has a weight above 0")
    return (weights * (counts.sum() / total)).astype(np.float32)
