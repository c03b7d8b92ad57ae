"""Groups of parameters by weight decay and learning rate."""

from __future__ import annotations

import numpy as np
import pytest

from src.config import OptimizerConfig
from src.optimizers.groups import layer_factors, parameter_groups
from src.squeezenet import SqueezeNet
from tests.training.steps import RATES, one_step


def net_of_two_fires() -> SqueezeNet:
    return SqueezeNet(4, "cifar", batch_norm="squeeze", dropout=0, base_e=8, incr_e=8)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
def test_decay_biases_false_leaves_biases_without_weight_decay_and_decays_the_weights(optimizer):
    plain = one_step(OptimizerConfig(optimizer, weight_decay=0))
    decayed = one_step(OptimizerConfig(optimizer, weight_decay=0.5, decay_biases=False))
    for name, step in plain.items():
        if name.endswith(".bias"):
            np.testing.assert_allclose(decayed[name], step, atol=1e-6, err_msg=name)
        else:
            assert np.abs(decayed[name] - step).max() > 1e-4, name


def test_parameter_groups_put_biases_and_batch_norm_apart_and_lose_none():
    net = SqueezeNet(10, "cifar", batch_norm="squeeze")
    decayed, plain, order = parameter_groups(net, RATES, 0.1, decay_biases=False)
    endings = {p.name.rsplit(".", 1)[1] for p in plain["params"]}
    assert endings == {"bias", "gamma", "beta"} and plain["weight_decay"] == 0
    assert {p.name.rsplit(".", 1)[1] for p in decayed["params"]} == {"weight"} and decayed["weight_decay"] == 0.1
    names = [p.name for p in net.trainable_params()]
    assert sorted(p.name for group in (decayed, plain) for p in group["params"]) == sorted(names)
    assert [p.name for p in order["order_params"]] == names


@pytest.mark.parametrize(
    "decay", [{"decay_biases": True, "weight_decay": 0.1}, {"decay_biases": False, "weight_decay": 0.0}]
)
def test_parameter_groups_are_one_where_all_are_treated_alike(decay):
    net = SqueezeNet(10, "cifar")
    assert parameter_groups(net, RATES, **decay) == net.trainable_params()


def test_learning_rates_fall_from_the_last_layer_down_by_the_same_factor():
    factors = layer_factors(net_of_two_fires(), 0.5)
    layers = ("classifier.1", "features.6", "features.5", "features.3", "features.2", "features.0")
    for depth, layer in enumerate(layers):
        assert {factor for name, factor in factors.items() if name.startswith(f"{layer}.")} == {0.5**depth}
    assert factors.keys() >= {parameter.name for parameter in net_of_two_fires().trainable_params()}


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "adam"])
def test_a_step_of_each_layer_is_in_proportion_to_its_learning_rate(optimizer):
    alike = one_step(OptimizerConfig(optimizer, weight_decay=0))
    layered = one_step(OptimizerConfig(optimizer, weight_decay=0, layer_decay=0.5))
    factors = layer_factors(SqueezeNet(4, "cifar", base_e=8, incr_e=8), 0.5)
    for name, step in alike.items():
        np.testing.assert_allclose(layered[name], factors[name] * step, rtol=1e-3, atol=1e-6, err_msg=name)


def test_learning_rates_by_layer_and_weight_decay_by_kind_combine():
    net = net_of_two_fires()
    *groups, order = parameter_groups(net, RATES, 0.1, decay_biases=False, layer_decay=0.5)
    factors, found = layer_factors(net, 0.5), {}
    for group in groups:
        for parameter in group["params"]:
            found[parameter.name] = group["weight_decay"]
            np.testing.assert_array_equal(group["lr"].asnumpy(), RATES * np.float32(factors[parameter.name]))
    assert found == {p.name: 0.1 if p.name.endswith("weight") else 0.0 for p in net.trainable_params()}
    assert [p.name for p in order["order_params"]] == [p.name for p in net.trainable_params()]
