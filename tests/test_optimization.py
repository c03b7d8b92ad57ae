from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.config import OptimizerConfig
from src.errors import UserError
from src.loss import CrossEntropy
from src.optimization import build_model, check_precision
from src.squeezenet import SqueezeNet

RATES = np.array([0.1, 0.2, 0.3], np.float32)


def weights(net) -> dict[str, np.ndarray]:
    return {parameter.name: parameter.asnumpy().copy() for parameter in net.trainable_params()}


def one_step(optimizer: OptimizerConfig, rate: float = 0.1) -> dict[str, np.ndarray]:
    """Return by how much one training step moves each parameter of a small net whose weights are all alike."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
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
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)


@pytest.mark.parametrize("optimizer", ["momentum", "muon"])
def test_a_loss_scale_does_not_change_the_step(optimizer):
    plain, scaled = (one_step(OptimizerConfig(optimizer, loss_scale=scale, amp_level="O0")) for scale in (1.0, 1024.0))
    for name, step in plain.items():
        np.testing.assert_allclose(scaled[name], step, rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(
    "keys, key",
    [
        ({"amp_level": "O2"}, "amp_level"),
        ({"amp_level": "O3"}, "amp_level"),
        ({"loss_scale": 1024.0}, "loss_scale"),
        ({"loss_scale": 0.0}, "loss_scale"),
        ({"amp_level": "O1", "loss_scale": 0.0}, "loss_scale"),
        ({"amp_level": "auto", "loss_scale": 0.0}, "loss_scale"),
    ],
    ids=str,
)
def test_a_precision_that_mindspore_cannot_train_with_on_the_cpu_is_refused_there_only(keys, key):
    with pytest.raises(UserError, match=f"^{key}: "):
        check_precision(OptimizerConfig(**keys), "CPU")
    assert check_precision(OptimizerConfig(**keys), "Ascend") is None
