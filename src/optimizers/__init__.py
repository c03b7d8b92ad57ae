"""Registry of optimizers, with the same arguments for all.

A builder takes parameters, or groups of them (src/optimizers/groups.py); the learning rate of each step, (steps,)
float32; momentum, which adaptive optimizers ignore; weight_decay, the L2 penalty where nothing else is said; and
loss_scale, by which the gradients are divided. A new optimizer is a class or a builder here, a class in a file beside.
"""

from __future__ import annotations

from typing import Any, Callable, Dict

from mindspore import Tensor, nn

from src.devices.silence import quiet
from src.optimizers.adamw import AdamW
from src.optimizers.momentum import Momentum
from src.optimizers.muon import Muon


def nesterov(parameters: list, learning_rate: Tensor, momentum: float, **common: Any) -> nn.Optimizer:
    """Return SGD with Nesterov momentum.

    Not nn.Momentum(use_nesterov=True), which on the CPU is momentum without Nesterov's part (2.8 and 2.10).
    """
    return nn.SGD(parameters, learning_rate, momentum, nesterov=momentum > 0, **common)


def sgd(parameters: list, learning_rate: Tensor, momentum: float, **common: Any) -> nn.Optimizer:
    """Return SGD without momentum."""
    return nn.SGD(parameters, learning_rate, **common)


def adam(parameters: list, learning_rate: Tensor, momentum: float, **common: Any) -> nn.Optimizer:
    """Return Adam, with weight decay as an L2 penalty."""
    with quiet():  # nn.Adam makes operators for sparse gradients too, which MindSpore has deprecated.
        return nn.Adam(parameters, learning_rate, **common)


def adamw(parameters: list, learning_rate: Tensor, momentum: float, **common: Any) -> nn.Optimizer:
    """Return AdamW, whose weight decay is decoupled from the gradient."""
    with quiet():
        return AdamW(parameters, learning_rate, **common)


OPTIMIZERS: Dict[str, Callable[..., nn.Optimizer]] = {
    "momentum": Momentum,
    "nesterov": nesterov,
    "muon": Muon,
    "sgd": sgd,
    "adam": adam,
    "adamw": adamw,
}
