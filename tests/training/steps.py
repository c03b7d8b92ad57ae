"""One step of an optimizer."""

from __future__ import annotations

import mindspore as ms
import numpy as np
from mindspore import Tensor

from src.config import OptimizerConfig
from src.loss import CrossEntropy
from src.squeezenet import SqueezeNet
from src.training.model import build_model

RATES = np.array([0.1, 0.2, 0.3], np.float32)


def weights(net) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in net.trainable_params()}


def one_step(optimizer: OptimizerConfig, rate: float = 0.1) -> dict[str, np.ndarray]:
    """Return by how much one training step moves each parameter of a small net whose weights are all alike."""
    ms.set_seed(0)
    net = SqueezeNet(4, "cifar", dropout=0, final_relu=False, base_e=8, incr_e=8)
    for parameter in net.trainable_params():
        if parameter.name.endswith(".bias"):
            parameter.set_data(Tensor(np.full(parameter.shape, 0.5, np.float32)))
    before = weights(net)
    model = build_model(net, CrossEntropy(), optimizer, np.full(3, rate, np.float32))
    random = np.random.RandomState(0)
    images, labels = random.standard_normal((8, 3, 8, 8)).astype(np.float32), random.randint(0, 4, 8)
    model.train_network.set_train(True)
    model.train_network(Tensor(images), Tensor(labels, ms.int32))
    return {name: value - before[name] for name, value in weights(net).items()}
