"""AdamW: Adam with decoupled weight decay."""

from __future__ import annotations

from mindspore import nn, ops


class AdamW(nn.Adam):
    """Adam that shrinks the parameters themselves instead of adding an L2 penalty to their gradients.

    Each step multiplies a parameter by 1 - learning_rate * weight_decay, then takes Adam's step (Loshchilov and Hutter
    2019, https://arxiv.org/abs/1711.05101, algorithm 2, as torch.optim.AdamW has it). Not nn.AdamWeightDecay, which
    leaves out Adam's bias correction.
    """

    def decay_weight(self, gradients):
        """Shrink the parameters that have weight decay; return the gradients as they are."""
        if self.exec_weight_decay:
            rates, decays = self.get_lr(), self.get_weight_decay()
            for i, parameter in enumerate(self.parameters):
                if self.decay_flags[i]:
                    rate = rates[i] if self.is_group_lr else rates
                    decay = (decays[i] if self.is_group else decays) / self.loss_scale  # MindSpore multiplies by it.
                    ops.assign(parameter, parameter * (1 - rate * decay))
        return gradients
