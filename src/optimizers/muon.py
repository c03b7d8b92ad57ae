"""Muon: momentum whose steps are orthogonal matrices, so that no direction of a layer learns faster than another."""

from __future__ import annotations

from mindspore import Tensor, jit, nn, ops

# The odd polynomial a*x + b*x^3 + c*x^5, applied over and over, takes singular values up to 1 to around 1.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
ITERATIONS = 3
TINY = 1e-7


def orthogonalized(matrix: Tensor) -> Tensor:
    """Return about the nearest matrix, (rows, columns), whose singular values are all equal: around 1.

    By Newton and Schulz's iteration, which takes nothing but matrix products.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (ops.sqrt(ops.square(x).sum()) + TINY)
    for _ in range(ITERATIONS):
        gram = ops.matmul(x, x.T)
        x = a * x + ops.matmul(b * gram + c * ops.matmul(gram, gram), x)
    return x if wide else x.T


class Muon(nn.Optimizer):
    """Muon for the filters of convolutions, SGD with Nesterov momentum for the rest.

    params, learning_rate, weight_decay, loss_scale: as in nn.Optimizer.
    momentum: share of the past in the moving sum of gradients, for filters and the rest.

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

    @jit
    def construct(self, gradients):
        gradients = self.scale_grad(self.decay_weight(gradients))
        rates = self.get_lr()
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        done = ()
        for i, (parameter, moment, gradient) in enumerate(zip(self.parameters, self.moments, gradients)):
            rate = rates[i] if self.is_group_lr else rates
            moment = ops.assign(moment, self.momentum * moment + gradient)
            step = gradient + self.momentum * moment
            if self.turns[i]:
                step = orthogonalized(step.reshape(step.shape[0], -1)).reshape(step.shape)
                scale = parameter.shape[0] ** 0.5 / ops.sqrt(ops.square(parameter).sum())
                updated = scale * parameter - rate * step
            else:
                updated = parameter - rate * step
            done += (ops.assign(parameter, updated),)
        return done
