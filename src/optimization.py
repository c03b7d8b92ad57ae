"""The Model that trains: optimizer, precision and loss scale."""

from __future__ import annotations

import contextlib
import os
import tempfile
from typing import Iterator

import mindspore as ms
import numpy as np
from mindspore import Model, Tensor, nn

from src.config import OptimizerConfig
from src.errors import UserError
from src.job import ALONE, Job
from src.loss import CrossEntropy
from src.metrics import Classification
from src.network.input_layer import InputLayer
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
    metrics, names = {"evaluation": Classification(job)}, [parameter.name for parameter in net.get_parameters()]
    with _rewriting_elsewhere() if config.amp_level == "O1" else contextlib.nullcontext() as folder:
        model = Model(net, loss, optimizer, metrics=metrics, amp_level=config.amp_level, **scale)
    model.train_network.rewritten = folder  # Read again when that is compiled, and removed with it.
    for parameter, name in zip(net.get_parameters(), names):
        parameter.name = name  # O1 renames those of a network within another, and checkpoints go by names.
    for _, cell in net.cells_and_names():
        if isinstance(cell, InputLayer):
            cell.to_float(ms.float32)  # O2 and O3 make all of the network float16.
    return model


@contextlib.contextmanager
def _rewriting_elsewhere() -> Iterator[tempfile.TemporaryDirectory]:
    """Give a temporary folder to what MindSpore's rewriting for O1 writes into the current one."""
    folder, before = tempfile.TemporaryDirectory(prefix="rewritten_network_"), os.getcwd()
    os.chdir(folder.name)
    try:
        yield folder
    finally:
        os.chdir(before)


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
