"""How much the output of a network suffers from a change of each weight: a factored Fisher matrix for each convolution.

Of the weights of one output channel the Fisher matrix, the curvature of the Kullback-Leibler divergence from the
original's output, is taken to be the same up to a factor (as in K-FAC and Shampoo, https://arxiv.org/abs/1503.05671,
https://arxiv.org/abs/1802.09568). Both factors come from gradients alone, for labels drawn from the network's own
output: no labels are needed, and images need not be those of the training.
"""

from __future__ import annotations

from typing import Iterable

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from src.compression.allocate import Curvature
from src.squeezenet import SqueezeNet

_BATCH = 4  # Images a gradient: their labels are drawn independently, so that its square is right in the mean.


def curvatures(net: SqueezeNet, inputs: Iterable[np.ndarray], seed: int) -> dict[str, Curvature]:
    """Return the curvature of each convolution by its weight's name, from inputs (3, H, W) float32.

    Every convolution needs a bias: batch norm has to be folded before. Inputs that fill no batch of 4 are left out.
    """
    random = np.random.RandomState(seed)
    parameters = net.trainable_params()
    one, zero = Tensor(1.0, ms.float32), Tensor(0.0, ms.float32)

    def likelihood(x, noise):
        logits = net(x)
        # The largest of logits and Gumbel noise is a label drawn from their softmax.
        drawn = ops.one_hot((logits + noise).argmax(1), logits.shape[1], one, zero)
        return (logits * ops.stop_gradient(drawn - ops.softmax(logits, 1))).sum()

    gradient = ms.grad(likelihood, None, ms.ParameterTuple(parameters))
    classes = net.classifier[1].bias.size
    inputs_of, rows_of, batch = {}, {}, []
    for image in inputs:
        batch.append(image)
        if len(batch) < _BATCH:
            continue
        noise = random.gumbel(size=(_BATCH, classes)).astype(np.float32)
        arrays = (g.asnumpy() for g in gradient(Tensor(np.stack(batch)), Tensor(noise)))
        by_name = {p.name: array for p, array in zip(parameters, arrays)}
        batch = []
        for name in (name for name, array in by_name.items() if array.ndim == 4):
            weight, bias = by_name[name], by_name[name.removesuffix("weight") + "bias"]
            matrix = np.concatenate([weight.reshape(len(weight), -1), bias[:, None]], 1).astype(np.float64)
            inputs_of[name] = inputs_of.get(name, 0) + matrix.T @ matrix
            rows_of[name] = rows_of.get(name, 0) + np.square(matrix).sum(1)
    return {name: Curvature(rows_of[name], _normalised(inputs_of[name])) for name in inputs_of}


def _normalised(matrix: np.ndarray) -> np.ndarray:
    """Return a matrix divided by its trace; where all is zero, as in a dead network, no direction is special."""
    trace = np.trace(matrix)
    return matrix / trace if trace > 0 else np.eye(len(matrix)) / len(matrix)
