"""Classification losses with label smoothing, which also count correct predictions.

A new loss is a subclass with `mean_loss` and `untrained`, and a line in LOSSES.
"""

from __future__ import annotations

import math

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops


class ClassificationLoss(nn.LossBase):
    """Base class: smooth the targets, compute the loss, and count correct predictions.

    Input: logits (N, num_classes), and either labels, (N,) int32, or soft labels, (N, classes) float32, which may leave
    out the network's last classes. Output: the mean loss, a scalar.

    label_smoothing: fraction of the target spread evenly over all classes (Szegedy et al. 2015, section 7).

    In training, `correct` and `seen` count correct predictions and images, and `loss_sum` sums the losses, inside the
    graph: this needs no second forward pass, and covers every step also with dataset sinking. A prediction for soft
    labels is correct if it is the class of the largest one.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.correct = Parameter(Tensor(0, ms.int32), name="train_correct", requires_grad=False)
        self.seen = Parameter(Tensor(0, ms.int32), name="train_seen", requires_grad=False)
        self.loss_sum = Parameter(Tensor(0, ms.float32), name="train_loss_sum", requires_grad=False)

    @staticmethod
    def untrained(num_classes: int) -> float:
        """Return the loss of logits that are all 0."""
        raise NotImplementedError

    def mean_loss(self, logits, targets):
        """Return the mean loss of logits and targets, both (N, num_classes) float32."""
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
        loss = self.mean_loss(logits, targets)
        if self.training:
            self.loss_sum = self.loss_sum + loss * labels.shape[0]
        return loss


class CrossEntropy(ClassificationLoss):
    """Softmax cross entropy; see ClassificationLoss."""

    untrained = staticmethod(math.log)

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__(label_smoothing)
        # Not `sparse=True`, whose loss is infinite on the CPU once a logit exceeds the label's by 87.
        self.cross_entropy = nn.SoftmaxCrossEntropyWithLogits(reduction="mean")

    def mean_loss(self, logits, targets):
        """Return the mean over the images."""
        return self.cross_entropy(logits, targets)


class BinaryCrossEntropy(ClassificationLoss):
    """Sigmoid cross entropy, averaged over the classes; see ClassificationLoss.

    Wightman et al. 2021 (https://arxiv.org/abs/2110.00476, section 2.2), as in timm.
    """

    @staticmethod
    def untrained(num_classes: int) -> float:
        """Return ln 2, whatever the number of classes."""
        return math.log(2)

    def mean_loss(self, logits, targets):
        """Return the mean over images and classes."""
        # log(1 + exp(x)) without overflow, minus x for the target.
        losses = ops.relu(logits) - logits * targets + ops.log1p(ops.exp(-ops.abs(logits)))
        return losses.mean()


LOSSES = {"cross_entropy": CrossEntropy, "bce": BinaryCrossEntropy}
