"""The Model that trains: optimizer, precision and loss scale."""

from __future__ import annotations

import tempfile

import mindspore as ms
import numpy as np
from mindspore import Model, Tensor, nn

from src.cli.errors import UserError
from src.config import OptimizerConfig
from src.devices.processes import ALONE, ProcessGroup
from src.files.run_folder import working_in
from src.inference.metrics import Classification
from src.loss import CrossEntropy
from src.network.input_layer import InputLayer, without_input_layer
from src.optimizers import OPTIMIZERS
from src.optimizers.averaging import AveragingOptimizer
from src.optimizers.clipping import ClippedGradients
from src.optimizers.groups import parameter_groups


def build_model(
    net: nn.Cell, loss: CrossEntropy, config: OptimizerConfig, rates: np.ndarray, group: ProcessGroup = ALONE
) -> Model:
    """Return MindSpore's Model of a network, with its optimizer, precision and loss scale."""
    optimizer, manager = make_optimizer(without_input_layer(net), config, rates), loss_scale_manager(config)
    scale = {"loss_scale_manager": manager} if manager else {}
    metrics, names = {"evaluation": Classification(group)}, [parameter.name for parameter in net.get_parameters()]
    folder = tempfile.TemporaryDirectory(prefix="rewritten_network_") if config.amp_level == "O1" else None
    with working_in(folder.name if folder else "."):  # MindSpore's rewriting for O1 writes into the current folder.
        model = Model(net, loss, optimizer, metrics=metrics, amp_level=config.amp_level, **scale)
    if config.clip_norm is not None:
        model.train_network.grad_reducer = ClippedGradients(model.train_network.grad_reducer, config.clip_norm)
    if config.ema_decay is not None:
        model.train_network.optimizer = AveragingOptimizer(optimizer, without_input_layer(net), config.ema_decay)
    model.train_network.rewritten = folder  # Read again when that is compiled, and removed with it.
    for parameter, name in zip(net.get_parameters(), names):
        parameter.name = name  # O1 renames those of a network within another, and checkpoints go by names.
    for _, cell in net.cells_and_names():
        if isinstance(cell, InputLayer):
            cell.to_float(ms.float32)  # O2 and O3 make all of the network float16.
    return model


def make_optimizer(net: nn.Cell, config: OptimizerConfig, rates: np.ndarray) -> nn.Optimizer:
    """Return the optimizer of a network's parameters, with the learning rate of each step."""
    parameters = parameter_groups(net, rates, config.weight_decay, config.decay_biases, config.layer_decay)
    return OPTIMIZERS[config.optimizer](
        parameters, Tensor(rates), momentum=config.momentum, weight_decay=config.weight_decay
    )


def loss_scale_manager(config: OptimizerConfig) -> ms.amp.LossScaleManager | None:
    """Return the manager of the loss scale of mixed precision, which leaves out updates that overflow, or None.

    Given explicitly, as MindSpore takes a dynamic one for O2 where none is given. On a CPU there is none: float32 needs
    no scale, and MindSpore cannot leave updates out there.
    """
    halved = config.amp_level in ("O2", "O3")  # The whole network is float16.
    if ms.get_context("device_target") == "CPU":
        return ms.amp.FixedLossScaleManager(1, drop_overflow_update=False) if halved else None
    scale = config.loss_scale
    if scale is None:
        scale = 1 if config.amp_level in ("O0", "O1") else 0
    if scale == 0:
        return ms.amp.DynamicLossScaleManager()
    if scale == 1 and not halved:
        return None
    return ms.amp.FixedLossScaleManager(scale, drop_overflow_update=True)


def check_precision(config: OptimizerConfig, target: str) -> None:
    """Say which key of mixed precision a CPU does not use. Raises UserError for what it cannot train with."""
    if target != "CPU":
        return
    if config.amp_level in ("O2", "O3"):
        raise UserError(f"amp_level: {config.amp_level} needs an Ascend or a GPU; on a CPU give --amp_level O0")
    if config.loss_scale not in (None, 1):
        print(f"loss_scale: {config.loss_scale:g} is not used on a CPU, where float32 needs none")
