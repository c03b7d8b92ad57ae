"""Gradient clipping by the norm of all gradients together."""

from __future__ import annotations

from mindspore import nn, ops


class ClippedGradients(nn.Cell):
    """Scale gradients down to a global norm of at most `clip_norm` (Pascanu et al. 2013, section 3.2).

    reducer: what the train network does with the gradients before, such as averaging them over the devices.

    Not ops.clip_by_global_norm, which on an Ascend launches several kernels for each parameter: here the norm is that
    of one vector, and one kernel scales each gradient. A gradient that is not finite stays so, and is noticed where a
    loss scale overflows.
    """

    def __init__(self, reducer: nn.Cell, clip_norm: float):
        super().__init__(auto_prefix=False)
        self.reducer, self.clip_norm = reducer, clip_norm

    def construct(self, gradients):
        gradients = self.reducer(gradients)
        parts, clipped = (), ()
        for gradient in gradients:
            parts += (gradient.reshape(-1),)
        norm = ops.sqrt(ops.square(ops.concat(parts)).sum())
        factor = self.clip_norm / ops.maximum(norm, self.clip_norm)
        for gradient in gradients:
            clipped += (gradient * factor,)
        return clipped
