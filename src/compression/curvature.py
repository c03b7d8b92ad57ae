"""Estimate the sensitivity of a network's output to each weight: a factored Fisher matrix for each convolution.

The Fisher matrix is the curvature of the Kullback-Leibler divergence from the original's output. It is assumed to be
the same for all output channels of a convolution up to a factor (as in K-FAC and Shampoo,
https://arxiv.org/abs/1503.05671, https://arxiv.org/abs/1802.09568). Both factors follow from gradients for labels
sampled from the network's output, so neither labels nor the training images are needed.
"""

from __future__ import annotations

from typing import Iterable

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from src.compression.allocate import Curvature
from src.squeezenet import SqueezeNet

_BATCH = 4  # Images per gradient; with independently sampled labels the expectation of its square is right.


def curvatures(net: SqueezeNet, inputs: Iterable[np.ndarray], seed: int) -> dict[str, Curvature]:
    """Return the curvature of each convolution by its weight's name, from inputs (3, H, W) float32.

    Every convolution must have a bias: fold batch norm first. An incomplete last batch of 4 inputs is dropped.
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
    return {name: Curvature(rows_of[name], _normalized(inputs_of[name])) for name in inputs_of}


def _normalized(matrix: np.ndarray) -> np.ndarray:
    """Return a matrix divided by its trace, or a multiple of the identity for a zero matrix (a dead network)."""
    trace = np.trace(matrix)
    return matrix / trace if trace > 0 else np.eye(len(matrix)) / len(matrix)
