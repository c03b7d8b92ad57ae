"""Parameter groups: which parameters have weight decay, and learning rates that differ from layer to layer."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor, nn


def parameter_groups(
    net: nn.Cell, rates: np.ndarray, weight_decay: float, decay_biases: bool = True, layer_decay: float = 1.0
) -> list:
    """Return the parameters that an optimizer trains: all alike, or groups by weight decay and learning rate.

    rates: learning rate of each step. decay_biases: weight decay on biases too; batch norm parameters never have it.
    layer_decay: see layer_factors.
    """
    if (decay_biases or not weight_decay) and layer_decay == 1:
        return net.trainable_params()  # Of which MindSpore leaves out gamma and beta by itself.
    undecayed = (".gamma", ".beta") if decay_biases else (".bias", ".gamma", ".beta")
    factors = {} if layer_decay == 1 else layer_factors(net, layer_decay)
    groups: dict[tuple, list] = {}
    for parameter in net.trainable_params():
        decay = 0.0 if parameter.name.endswith(undecayed) else weight_decay
        groups.setdefault((factors.get(parameter.name, 1), decay), []).append(parameter)
    return [
        *(
            {"params": parameters, "weight_decay": decay}
            | ({} if layer_decay == 1 else {"lr": Tensor(rates * np.float32(factor))})
            for (factor, decay), parameters in groups.items()
        ),
        {"order_params": net.trainable_params()},
    ]


def layer_factors(net: nn.Cell, decay: float) -> dict[str, float]:
    """Return the factor of each parameter's learning rate, by the parameter's name.

    net: a SqueezeNet. 1 for the last convolution, and `decay` times the factor of the layer above for every other layer
    that has weights (discriminative fine-tuning, Howard and Ruder 2018, https://arxiv.org/abs/1801.06146, section 3.1).
    """
    layers = [layer for layer in (*net.features, net.classifier) if list(layer.get_parameters())]
    return {
        parameter.name: decay**depth
        for depth, layer in enumerate(reversed(layers))
        for parameter in layer.get_parameters()
    }
