"""The Model that trains: optimizer, precision and loss scale."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Model, Tensor, nn

from src.cli.errors import UserError
from src.config import OptimizerConfig
from src.devices.processes import ALONE, ProcessGroup
from src.devices.silence import quiet
from src.inference.metrics import Classification
from src.loss import CrossEntropy
from src.optimizers.muon import Muon
from src.training.finetuning import lr_factors


def build_model(
    net: nn.Cell, loss: CrossEntropy, config: OptimizerConfig, rates: np.ndarray, job: ProcessGroup = ALONE
) -> Model:
    """Return MindSpore's Model of a network, with its optimizer, precision and loss scale."""
    optimizer = make_optimizer(net, config, rates)
    scale, manager = {}, loss_scale_manager(config)
    if manager:
        scale["loss_scale_manager"] = manager
    metrics = {"evaluation": Classification(job)}
    return Model(net, loss, optimizer, metrics=metrics, amp_level=config.amp_level, **scale)


def make_optimizer(net: nn.Cell, config: OptimizerConfig, rates: np.ndarray) -> nn.Optimizer:
    """Return the optimizer of a network's parameters, with the learning rate of each step."""
    common = {"learning_rate": Tensor(rates), "weight_decay": config.weight_decay}
    parameters = parameter_groups(net, config, rates)
    if config.optimizer == "adam":
        with quiet():  # nn.Adam makes operators for sparse gradients too, which MindSpore has deprecated.
            return nn.Adam(parameters, **common)
    if config.optimizer == "sgd":
        return nn.SGD(parameters, **common)
    if config.optimizer == "nesterov":
        # Not nn.Momentum(use_nesterov=True), which on the CPU is momentum without Nesterov's part (2.8 and 2.10).
        return nn.SGD(parameters, momentum=config.momentum, nesterov=config.momentum > 0, **common)
    if config.optimizer == "muon":
        return Muon(parameters, momentum=config.momentum, **common)
    return nn.Momentum(parameters, momentum=config.momentum, **common)


def parameter_groups(net: nn.Cell, config: OptimizerConfig, rates: np.ndarray) -> list:
    """Return what an optimizer trains: all alike, or groups by weight decay and learning rate.

    rates: learning rate of each step.
    """
    undecayed = (".gamma", ".beta") if config.decay_biases else (".bias", ".gamma", ".beta")
    if (config.decay_biases or not config.weight_decay) and config.layer_decay == 1:
        return net.trainable_params()  # Of which MindSpore leaves out gamma and beta by itself.
    factors = {} if config.layer_decay == 1 else lr_factors(net, config.layer_decay)
    groups: dict[tuple, list] = {}
    for parameter in net.trainable_params():
        weight_decay = 0.0 if parameter.name.endswith(undecayed) else config.weight_decay
        groups.setdefault((factors.get(parameter.name, 1), weight_decay), []).append(parameter)
    return [
        *(
            {"params": parameters, "weight_decay": weight_decay}
            | ({} if config.layer_decay == 1 else {"lr": Tensor(rates * np.float32(factor))})
            for (factor, weight_decay), parameters in groups.items()
        ),
        {"order_params": net.trainable_params()},
    ]


def loss_scale_manager(config: OptimizerConfig) -> ms.amp.LossScaleManager | None:
    """Return the manager of the loss scale of mixed precision, which leaves out updates that overflow, or None.

    Given explicitly, as MindSpore takes a dynamic one for O2 where none is given.
    """
    scale = config.loss_scale
    if scale is None:  # MindSpore has no dynamic one on a CPU.
        on_cpu = ms.get_context("device_target") == "CPU"
        scale = 1 if on_cpu or config.amp_level in ("O0", "O1") else 0
    if scale == 0:
        return ms.amp.DynamicLossScaleManager()
    if scale == 1 and config.amp_level not in ("O2", "O3"):
        return None
    return ms.amp.FixedLossScaleManager(scale, drop_overflow_update=True)


def check_precision(config: OptimizerConfig, target: str) -> None:
    """Raise UserError for a mixed precision that MindSpore cannot train with on the CPU."""
    if target != "CPU":
        return
    if config.amp_level in ("O2", "O3"):
        raise UserError(f"amp_level: {config.amp_level} needs an Ascend or a GPU; on the CPU O0 is right and fastest")
    if config.loss_scale not in (None, 1):
        raise UserError(f"loss_scale: {config.loss_scale} is for mixed precision on an Ascend or a GPU; leave it at 1")
