from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from src.cli.errors import UserError
from src.config import OptimizerConfig
from src.squeezenet import SqueezeNet
from src.training.model import check_precision, loss_scale_manager, parameter_groups
from tests.training.steps import RATES, one_step


def test_the_first_steps_of_the_optimizers_are_those_of_their_update_rules():
    steps = {kind: one_step(OptimizerConfig(kind, weight_decay=0)) for kind in ("sgd", "momentum", "nesterov", "adam")}
    for name, gradient_step in steps["sgd"].items():
        assert np.abs(gradient_step).max() > 1e-6, name
        np.testing.assert_allclose(steps["momentum"][name], gradient_step, rtol=1e-3, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(steps["nesterov"][name], 1.9 * gradient_step, rtol=1e-3, atol=1e-6, err_msg=name)
        clear = np.abs(gradient_step) > 1e-5
        np.testing.assert_allclose(
            steps["adam"][name][clear], 0.1 * np.sign(gradient_step[clear]), rtol=2e-2, err_msg=name
        )


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
def test_weight_decay_adds_its_share_of_each_parameter_to_the_gradient(optimizer):
    plain = one_step(OptimizerConfig(optimizer, momentum=0.0, weight_decay=0))
    decayed = one_step(OptimizerConfig(optimizer, momentum=0.0, weight_decay=0.5))
    bias = "classifier.1.bias"
    np.testing.assert_allclose(decayed[bias] - plain[bias], np.full(4, -0.1 * 0.5 * 0.5), atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
def test_decay_biases_false_leaves_biases_without_weight_decay_and_decays_the_weights(optimizer):
    plain = one_step(OptimizerConfig(optimizer, weight_decay=0))
    decayed = one_step(OptimizerConfig(optimizer, weight_decay=0.5, decay_biases=False))
    for name, step in plain.items():
        if name.endswith(".bias"):
            np.testing.assert_allclose(decayed[name], step, atol=1e-6, err_msg=name)
        else:
            assert np.abs(decayed[name] - step).max() > 1e-4, name


@pytest.mark.parametrize(
    ("level", "scale", "on_ascend", "on_cpu"),
    [
        ("O0", None, None, None),
        ("O1", None, None, None),
        ("auto", None, "dynamic", None),
        ("O2", None, "dynamic", 1),
        ("O2", 0.0, "dynamic", "dynamic"),
        ("O2", 1.0, 1, 1),
        ("O3", 1024.0, 1024, 1024),
        ("auto", 1024.0, 1024, 1024),
        ("O0", 1.0, None, None),
    ],
)
def test_the_loss_scale_is_the_one_of_the_configuration(monkeypatch, level, scale, on_ascend, on_cpu):
    for target, expected in (("Ascend", on_ascend), ("CPU", on_cpu)):
        monkeypatch.setattr(ms, "get_context", lambda name, target=target: target)
        manager = loss_scale_manager(OptimizerConfig(amp_level=level, loss_scale=scale))
        if expected in (None, "dynamic"):
            assert type(manager) is (type(None) if expected is None else ms.amp.DynamicLossScaleManager)
        else:
            # Updates that overflow are left out: on a 910B they would make the weights NaN.
            assert manager.get_loss_scale() == expected and manager.get_drop_overflow_update()


def test_parameter_groups_put_biases_and_batch_norm_apart_and_lose_none():
    net = SqueezeNet(10, "cifar", batch_norm="squeeze")
    decayed, plain, order = parameter_groups(net, OptimizerConfig(decay_biases=False, weight_decay=0.1), RATES)
    endings = {p.name.rsplit(".", 1)[1] for p in plain["params"]}
    assert endings == {"bias", "gamma", "beta"} and plain["weight_decay"] == 0
    assert {p.name.rsplit(".", 1)[1] for p in decayed["params"]} == {"weight"} and decayed["weight_decay"] == 0.1
    names = [p.name for p in net.trainable_params()]
    assert sorted(p.name for group in (decayed, plain) for p in group["params"]) == sorted(names)
    assert [p.name for p in order["order_params"]] == names


@pytest.mark.parametrize("decay", [{"decay_biases": True}, {"decay_biases": False, "weight_decay": 0.0}])
def test_parameter_groups_are_one_where_all_are_treated_alike(decay):
    net = SqueezeNet(10, "cifar")
    assert parameter_groups(net, OptimizerConfig(**decay), RATES) == net.trainable_params()


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
