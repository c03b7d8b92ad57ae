"""Distillation: a network learns from the probabilities of another one as well as from labels."""

from __future__ import annotations

from mindspore import nn, ops

from src.loss import CrossEntropy
from src.squeezenet import SqueezeNet

TEACHER = "teacher."  # Prefix of its parameters' names.


class Distilling(nn.Cell):
    """Loss of a network on labels and on a teacher's probabilities for the same images.

    Hinton et al. 2015 (https://arxiv.org/abs/1503.02531) at a temperature of 1. Both networks see the same augmented
    images (Beyer et al. 2022, https://arxiv.org/abs/2106.05237, section 3.1).

    Input: images (N, 3, H, W), and labels as for the loss. Output: the loss, a scalar.

    teacher: a network of the same classes without batch norm and dropout: MindSpore sets the mode of training in every
        cell. Its parameters are renamed.
    share: weight of the teacher's part, 0 to 1; the rest is that of the labels.
    """

    def __init__(self, network: SqueezeNet, loss: CrossEntropy, teacher: SqueezeNet, share: float):
        super().__init__(auto_prefix=False)
        teacher.update_parameters_name(TEACHER)
        self.network, self.loss, self.teacher, self.share = network, loss, teacher, share
        self.cross_entropy = ops.SoftmaxCrossEntropyWithLogits()

    def construct(self, images, labels):
        logits = self.network(images)
        expected = ops.softmax(ops.stop_gradient(self.teacher(images)), axis=1)
        taught = self.cross_entropy(logits, expected)[0].mean()
        return (1 - self.share) * self.loss(logits, labels) + self.share * taught
