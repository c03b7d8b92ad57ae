"""Muon: momentum with orthogonalised steps, so that no direction of a layer learns faster than another."""

from __future__ import annotations

from mindspore import Tensor, jit, nn, ops

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


class Muon(nn.Optimizer):
    """Muon for the filters of convolutions, SGD with Nesterov momentum for the rest.

    params, learning_rate, weight_decay, loss_scale: as in nn.Optimizer.
    momentum: factor of the past in the moving sum of gradients, for filters and the rest.

    A step turns a layer's filters by about learning_rate radians, whatever the size of the gradient: the filters, a row
    of a matrix each, are brought to a mean square norm of 1, and learning_rate times the orthogonalised momentum is
    taken off. The rest, that is biases, batch norm, and the last convolution, has the usual steps and the weight decay
    (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; for the norm, the polynomial and three iterations
    https://github.com/KellerJordan/cifar10-airbench, airbench94_muon.py).
    """

    def __init__(self, params, learning_rate, momentum=0.9, weight_decay=0.0, loss_scale=1.0):
        super().__init__(learning_rate, params, weight_decay, loss_scale)
        self.momentum = momentum
        self.moments = self.parameters.clone(prefix="moments", init="zeros")
        self.turns = tuple(p.ndim == 4 and not p.name.startswith("classifier.") for p in self.parameters)
        self.decay_flags = tuple(decays and not turns for decays, turns in zip(self.decay_flags, self.turns))
        # Filters whose matrices have one shape, wide side across, are stacked: one product serves them all.
        stacks: dict[tuple, list] = {}
        for i, (parameter, turns) in enumerate(zip(self.parameters, self.turns)):
            if turns:
                rows, columns = len(parameter), parameter[0].size
                stacks.setdefault((min(rows, columns), max(rows, columns)), []).append(i)
        self.stacks = tuple(tuple(stack) for stack in stacks.values())
        order = [i for stack in self.stacks for i in stack]
        self.places = tuple(order.index(i) if turns else -1 for i, turns in enumerate(self.turns))
        self.tall = tuple(p.ndim == 4 and len(p) > p[0].size for p in self.parameters)

    @jit
    def construct(self, gradients):
        gradients = self.scale_grad(self.decay_weight(gradients))
        rates = self.get_lr()
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        steps = ()
        for moment, gradient in zip(self.moments, gradients):
            moment = ops.assign(moment, self.momentum * moment + gradient)
            steps += (gradient + self.momentum * moment,)
        turned, done = self._orthogonalized(steps), ()
        for i, parameter in enumerate(self.parameters):
            rate = rates[i] if self.is_group_lr else rates
            if self.turns[i]:
                step = turned[self.places[i]]
                step = (step.T if self.tall[i] else step).reshape(parameter.shape)
                scale = parameter.shape[0] ** 0.5 / ops.sqrt(ops.square(parameter).sum())
                updated = scale * parameter - rate * step
            else:
                updated = parameter - rate * steps[i]
            done += (ops.assign(parameter, updated),)
        return done

    def _orthogonalized(self, steps):
        """Return the orthogonalised steps of all filters as matrices, wide side across, in the order of the stacks."""
        turned = ()
        for stack in self.stacks:
            matrices = ()
            for i in stack:
                matrix = steps[i].reshape(steps[i].shape[0], -1)
                matrices += (matrix.T if self.tall[i] else matrix,)
            turned += ops.unstack(orthogonalized(ops.stack(matrices)))
        return turned
