"""Softmax cross entropy with label smoothing, which also counts how many training images were right."""

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops


class CrossEntropy(nn.LossBase):
    """Mean softmax cross entropy of logits (N, num_classes) and labels.

    The labels are classes, (N,) int32, or of mixed images the shares of the first classes, (N, classes) float32.

    label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2015, section 7).

    While the network trains, `correct` and `seen` count the images classified right and the images seen, and `loss_sum`
    adds up their losses, inside the graph: this costs no second forward pass, and loses no step where a device is fed
    several at a time.
    """

    def __init__(self, label_smoothing: float = 0.0):
        super().__init__()
        self.label_smoothing = label_smoothing
        self.cross_entropy = nn.SoftmaxCrossEntropyWithLogits(reduction="mean")
        self.correct = Parameter(Tensor(0, ms.int32), name="train_correct", requires_grad=False)
        self.seen = Parameter(Tensor(0, ms.int32), name="train_seen", requires_grad=False)
        self.loss_sum = Parameter(Tensor(0, ms.float32), name="train_loss_sum", requires_grad=False)

    def restart(self) -> None:
        """Count from 0 again."""
        for counter in (self.correct, self.seen, self.loss_sum):
            counter.set_data(Tensor(0, counter.dtype))

    def construct(self, logits, labels):
        mixed = labels.ndim == 2
        if self.training:
            expected = labels.argmax(1).astype(ms.int32) if mixed else labels
            right = (logits.argmax(1).astype(ms.int32) == expected).astype(ms.float32).sum()
            self.correct = self.correct + right.astype(ms.int32)
            self.seen = self.seen + labels.shape[0]
        # Not `sparse=True`, whose loss is infinite on the CPU from a logit 87 above the label's on.
        classes = logits.shape[1]
        off = self.label_smoothing / classes
        if mixed:
            shares = ops.pad(labels, (0, classes - labels.shape[1]))
            targets = shares * (1 - self.label_smoothing) + off
        else:
            on = Tensor(1 - self.label_smoothing + off, ms.float32)
            targets = ops.one_hot(labels, classes, on, Tensor(off, ms.float32))
        loss = self.cross_entropy(logits, targets)
        if self.training:
            self.loss_sum = self.loss_sum + loss * labels.shape[0]
        return loss
