"""Muon: momentum with orthogonalised steps, so that no direction of a layer learns faster than another."""

from __future__ import annotations

from typing import Sequence

import mindspore as ms
from mindspore import ParameterTuple, Tensor, jit, nn, ops

from src.optimizers.momentum import Momentum

# The odd polynomial a*x + b*x^3 + c*x^5, applied over and over, takes singular values up to 1 to around 1.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 3
TINY = 1e-7


def orthogonalized(matrices: Tensor) -> Tensor:
    """Return about the nearest matrices whose singular values are all equal: around 1.

    matrices: (..., rows, columns), no more rows than columns. By Newton and Schulz's iteration, which takes nothing but
    matrix products.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices / (ops.sqrt(ops.square(matrices).sum((-2, -1), keepdims=True)) + TINY)
    for _ in range(ITERATIONS):
        gram = ops.matmul(x, x.swapaxes(-2, -1))
        x = a * x + ops.matmul(b * gram + c * ops.matmul(gram, gram), x)
    return x


def equal_stacks(shapes: Sequence[tuple[int, int]], filters: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the filters by the shape of their matrices."""
    stacks: dict[tuple, tuple[int, ...]] = {}
    for i in filters:
        stacks[shapes[i]] = (*stacks.get(shapes[i], ()), i)
    return list(stacks.values())


def padded_stacks(shapes: Sequence[tuple[int, int]], filters: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the filters in two stacks, small and large matrices, as the fewest multiplications have it."""

    def multiplications(stack: Sequence[int]) -> int:
        rows, columns = (max((shapes[i][side] for i in stack), default=0) for side in (0, 1))
        return len(stack) * rows**2 * columns

    by_size = sorted(filters, key=lambda i: shapes[i])
    splits = [(tuple(by_size[:n]), tuple(by_size[n:])) for n in range(len(by_size) + 1)]
    best = min(splits, key=lambda stacks: sum(map(multiplications, stacks)))
    return [stack for stack in best if stack]


def padded(matrix: Tensor, rows: int, columns: int) -> tuple:
    """Return a matrix filled up with zeros to so many rows and columns, in parts, one below the other.

    Not ops.pad, which CANN computes on the AI CPU.
    """
    height, width = matrix.shape
    if width < columns:
        matrix = ops.concat((matrix, ops.zeros((height, columns - width), matrix.dtype)), 1)
    return (matrix, ops.zeros((rows - height, columns), matrix.dtype)) if height < rows else (matrix,)


class Muon(nn.Optimizer):
    """Muon for the filters of convolutions, SGD with Nesterov momentum for the rest.

    params, learning_rate, weight_decay, loss_scale: as in nn.Optimizer.
    momentum: factor of the past in the moving sum of gradients, for filters and the rest.

    A step turns a layer's filters by about learning_rate radians, whatever the size of the gradient: the filters, a row
    of a matrix each, are brought to a mean square norm of 1, and learning_rate times the orthogonalised momentum is
    taken off. The rest, that is biases, batch norm, and the last convolution, has the usual steps and the weight decay
    (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; for the norm, the polynomial and three iterations
    https://github.com/KellerJordan/cifar10-airbench, airbench94_muon.py).

    On an Ascend, where each kernel costs its launch, the filters are stacked with zeros around the smaller ones, which
    change nothing, and each parameter of the rest has one kernel, as in Momentum.
    """

    def __init__(self, params, learning_rate, momentum=0.9, weight_decay=0.0, loss_scale=1.0):
        super().__init__(learning_rate, params, weight_decay, loss_scale)
        self.momentum = momentum
        self.moments = self.parameters.clone(prefix="moments", init="zeros")
        self.turns = tuple(p.ndim == 4 and not p.name.startswith("classifier.") for p in self.parameters)
        self.decay_flags = tuple(decays and not turns for decays, turns in zip(self.decay_flags, self.turns))
        self.tall = tuple(p.ndim == 4 and len(p) > p[0].size for p in self.parameters)
        # A filter's matrix, wide side across.
        self.shapes = tuple((min(len(p), p[0].size), max(len(p), p[0].size)) for p in self.parameters)
        filters = [i for i, turns in enumerate(self.turns) if turns]
        rest = [i for i, turns in enumerate(self.turns) if not turns]
        self.fuses = ms.get_context("device_target") == "Ascend"
        # One product serves a whole stack.
        self.stacks = tuple(padded_stacks(self.shapes, filters) if self.fuses else equal_stacks(self.shapes, filters))
        stacked = [i for stack in self.stacks for i in stack]
        # Among the stacked filters, or among the rest.
        self.places = tuple((stacked if turns else rest).index(i) for i, turns in enumerate(self.turns))
        if self.fuses:
            self.nesterov, self.factor = ops.SGD(0.0, 0.0, True), Tensor(momentum, ms.float32)
            self.unused = ParameterTuple(self.parameters[i] for i in rest).clone(prefix=Momentum.UNUSED, init="zeros")

    @jit
    def construct(self, gradients):
        gradients = self.scale_grad(self.decay_weight(gradients))
        rates = self.get_lr()
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        steps = ()
        for i, gradient in enumerate(gradients):
            if self.fuses and not self.turns[i]:
                steps += (gradient,)
            else:
                moment = self.momentum * self.moments[i] + gradient
                ops.assign(self.moments[i], moment)
                steps += (gradient + self.momentum * moment,)
        turned, done = self._orthogonalized(steps), ()
        for i, parameter in enumerate(self.parameters):
            rate = rates[i] if self.is_group_lr else rates
            if self.turns[i]:
                step = turned[self.places[i]]
                step = (step.T if self.tall[i] else step).reshape(parameter.shape)
                scale = parameter.shape[0] ** 0.5 / ops.sqrt(ops.square(parameter).sum())
                done += (ops.assign(parameter, scale * parameter - rate * step),)
            elif self.fuses:
                unused = self.unused[self.places[i]]
                done += (self.nesterov(parameter, steps[i], rate, self.moments[i], self.factor, unused),)
            else:
                done += (ops.assign(parameter, parameter - rate * steps[i]),)
        return done

    def _orthogonalized(self, steps):
        """Return the orthogonalised steps of all filters as matrices, wide side across, in the order of the stacks."""
        turned = ()
        for stack in self.stacks:
            rows = max([self.shapes[i][0] for i in stack])
            columns = max([self.shapes[i][1] for i in stack])
            matrices = ()
            for i in stack:
                matrix = steps[i].reshape(steps[i].shape[0], -1)
                matrices += padded(matrix.T if self.tall[i] else matrix, rows, columns)
            whole = orthogonalized(ops.concat(matrices).reshape(len(stack), rows, columns))
            for i, matrix in zip(stack, ops.unstack(whole)):
                turned += (matrix if self.shapes[i] == (rows, columns) else ops.slice(matrix, (0, 0), self.shapes[i]),)
        return turned
