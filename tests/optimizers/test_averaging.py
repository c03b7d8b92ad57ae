"""Exponential moving averages of weights and statistics."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.config import OptimizerConfig
from src.devices.processes import ALONE, vector
from src.loss import CrossEntropy
from src.optimizers.averaging import averaged
from src.squeezenet import SqueezeNet
from src.training.model import build_model

DECAY = 0.5


def state(net) -> np.ndarray:
    """Return all weights of a network in a row, then its statistics."""
    statistics = [p for p in net.get_parameters() if p.name.endswith((".moving_mean", ".moving_variance"))]
    return vector([*net.trainable_params(), *statistics])


def mean(states: list[np.ndarray]) -> np.ndarray:
    """Return the mean of states, each with a weight of DECAY times that of the next."""
    return np.average(states, 0, [DECAY ** (len(states) - i) for i in range(len(states))])


def trained(config: OptimizerConfig, steps: int = 3, batch_norm: str = "all"):
    """Return a train network after a few steps, its network, and the state before the first and after each."""
    ms.set_seed(0)
    net = SqueezeNet(4, "cifar", dropout=0, final_relu=False, base_e=8, incr_e=8, batch_norm=batch_norm)
    network = build_model(net, CrossEntropy(), config, np.full(steps, 0.1, np.float32)).train_network.set_train(True)
    random = np.random.RandomState(0)
    images, labels = random.standard_normal((8, 3, 8, 8)).astype(np.float32), random.randint(0, 4, 8)
    states = [state(net)]
    for _ in range(steps):
        network(Tensor(images), Tensor(labels, ms.int32))
        states.append(state(net))
    return network, net, states


@pytest.mark.parametrize("optimizer, batch_norm", [("momentum", "all"), ("adamw", "none"), ("muon", "squeeze")])
def test_the_average_is_over_the_weights_and_statistics_after_each_step(optimizer, batch_norm):
    network, net, states = trained(OptimizerConfig(optimizer=optimizer, ema_decay=DECAY), batch_norm=batch_norm)
    with averaged(network, ALONE):
        found = state(net)
    weights = sum(parameter.size for parameter in net.trainable_params())
    expected = np.concatenate(
        [mean(states)[:weights], mean(states[1:])[weights:]]
    )  # The first statistics are none yet.
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-6) and np.abs(found - states[-1]).max() > 1e-3
    assert np.array_equal(state(net), states[-1])


def test_averaging_does_not_change_the_training():
    plain = trained(OptimizerConfig())[2]
    assert all(map(np.array_equal, trained(OptimizerConfig(ema_decay=0.999))[2], plain))


def test_the_weights_come_back_after_an_error():
    network, net, states = trained(OptimizerConfig(ema_decay=DECAY))
    with pytest.raises(ZeroDivisionError), averaged(network, ALONE):
        1 / 0  # noqa: B018
    assert np.array_equal(state(net), states[-1])


def test_without_averaging_the_weights_are_those_that_are_trained():
    network, net, states = trained(OptimizerConfig(clip_norm=1.0), 1)
    with averaged(network, ALONE):
        assert np.array_equal(state(net), states[1])


def test_clip_norm_bounds_the_step_of_a_training():
    for norm, clips in ((0.001, True), (1000.0, False)):
        config = OptimizerConfig(optimizer="sgd", weight_decay=0.0)
        states = [trained(OptimizerConfig(**{**vars(config), "clip_norm": n}), 2, "none")[2] for n in (norm, None)]
        moved = np.linalg.norm(states[0][2] - states[0][1])
        assert (moved == pytest.approx(0.1 * norm, rel=1e-2)) if clips else np.array_equal(states[0][2], states[1][2])


def test_frozen_weights_are_left_out_of_the_average():
    ms.set_seed(0)
    net = SqueezeNet(4, "cifar", base_e=8, incr_e=8, final_relu=False)
    net.features[0].conv.weight.requires_grad = False
    model = build_model(net, CrossEntropy(), OptimizerConfig(ema_decay=DECAY), np.full(2, 0.1, np.float32))
    average = model.train_network.optimizer.average
    assert average.size == sum(p.size for p in net.trainable_params()) + 1 and average.name == "ema.weights"
