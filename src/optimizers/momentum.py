"""SGD with momentum, in one kernel for each parameter on an Ascend."""

from __future__ import annotations

import mindspore as ms
from mindspore import jit, nn, ops


class Momentum(nn.Momentum):
    """SGD with momentum, whose update on an Ascend includes the weight decay.

    nn.Momentum takes three kernels for each parameter there: the decay, its sum with the gradient, and the update. For
    biases of some hundred bytes a kernel costs its launch alone. The operator behind nn.SGD does all three. On other
    devices, and where groups of parameters have a weight decay or a rate of their own, this is nn.Momentum itself.
    """

    UNUSED = "unused"  # Prefix of the zeros by which the operator is told that its sums have begun; they never change.

    def __init__(self, params, learning_rate, momentum, **common):
        super().__init__(params, learning_rate, momentum, **common)
        self.fuses = ms.get_context("device_target") == "Ascend" and not self.is_group
        if self.fuses:
            decay = float(self.weight_decay)
            self.updates = tuple(ops.SGD(0.0, decay if decays else 0.0, False) for decays in self.decay_flags)
            self.unused = self.params.clone(prefix=self.UNUSED, init="zeros")

    @jit
    def construct(self, gradients):
        if not self.fuses:
            return super().construct(gradients)
        gradients = self.scale_grad(gradients)
        rate = self.get_lr()
        self.assignadd(self.global_step, self.global_step_increase_tensor)
        done = ()
        for i, update in enumerate(self.updates):
            done += (update(self.params[i], gradients[i], rate, self.moments[i], self.momentum, self.unused[i]),)
        return done
