"""The Model that trains: optimizer, precision and loss scale."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Model, Tensor, nn

from src.config import OptimizerConfig
from src.errors import UserError
from src.job import ALONE, Job
from src.loss import CrossEntropy
from src.metrics import Classification
from src.optimizers import OPTIMIZERS
from src.optimizers.groups import parameter_groups


def build_model(
    net: nn.Cell, loss: CrossEntropy, config: OptimizerConfig, rates: np.ndarray, job: Job = ALONE
) -> Model:
    """Return MindSpore's Model of a network, with its optimizer, precision and loss scale."""
    optimizer, scale = make_optimizer(net, config, rates), {}
    if config.loss_scale == 0:
        scale["loss_scale_manager"] = ms.amp.DynamicLossScaleManager()
    elif config.loss_scale != 1:
        scale["loss_scale_manager"] = ms.amp.FixedLossScaleManager(config.loss_scale, drop_overflow_update=False)
    metrics = {"evaluation": Classification(job)}
    return Model(net, loss, optimizer, metrics=metrics, amp_level=config.amp_level, **scale)


def make_optimizer(net: nn.Cell, config: OptimizerConfig, rates: np.ndarray) -> nn.Optimizer:
    """Return the optimizer of a network's parameters, with the learning rate of each step."""
    parameters = parameter_groups(net, rates, config.weight_decay, config.decay_biases, config.lr_layer_decay)
    return OPTIMIZERS[config.optimizer](
        parameters,
        Tensor(rates),
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        loss_scale=config.loss_scale or 1.0,
    )


def check_precision(config: OptimizerConfig, target: str) -> None:
    """Raise UserError for a mixed precision that MindSpore cannot train with on the CPU."""
    if target != "CPU":
        return
    if config.amp_level in ("O2", "O3"):
        raise UserError(f"amp_level: {config.amp_level} needs an Ascend or a GPU; on the CPU O0 is right and fastest")
    if config.loss_scale == 0 or (config.loss_scale != 1 and config.amp_level == "O0"):
        raise UserError(f"loss_scale: {config.loss_scale} is for mixed precision on an Ascend or a GPU; leave it at 1")
