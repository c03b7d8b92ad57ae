"""Every optimizer of the registry: its update rule, weight decay and loss scale."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from src.optimizers import OPTIMIZERS

RATES = np.array([0.1, 0.02, 0.05, 0.1], np.float32)
SHAPES = {"features.0.conv.weight": (6, 3, 3, 3), "features.0.conv.bias": (6,), "classifier.1.weight": (4, 6, 1, 1)}


def made(name: str, **keywords):
    """Return parameters and an optimizer of them."""
    random = np.random.RandomState(0)
    values = {key: random.standard_normal(shape).astype(np.float32) for key, shape in SHAPES.items()}
    parameters = [Parameter(Tensor(value), name=key) for key, value in values.items()]
    given = {"momentum": 0.9, "weight_decay": 0.0, "loss_scale": 1.0, **keywords}
    return parameters, OPTIMIZERS[name](parameters, Tensor(RATES), **given)


def gradients(step: int) -> list[np.ndarray]:
    random = np.random.RandomState(step + 1)
    return [(0.1 * random.standard_normal(shape)).astype(np.float32) for shape in SHAPES.values()]


def steps_of(name: str, **keywords) -> list[list[np.ndarray]]:
    """Return the parameters after each step."""
    parameters, optimizer = made(name, **keywords)
    found = []
    for step in range(len(RATES)):
        scale = keywords.get("loss_scale", 1.0)
        optimizer(tuple(Tensor(gradient * np.float32(scale)) for gradient in gradients(step)))
        found.append([parameter.asnumpy().copy() for parameter in parameters])
    return found


def steps_of_torch(make) -> list[list[np.ndarray]]:
    torch = pytest.importorskip("torch")
    parameters = [torch.nn.Parameter(torch.tensor(p.asnumpy())) for p in made("sgd")[0]]
    optimizer, found = make(torch, parameters), []
    for step, rate in enumerate(RATES):
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        for parameter, gradient in zip(parameters, gradients(step)):
            parameter.grad = torch.tensor(gradient)
        optimizer.step()
        found.append([parameter.detach().numpy().copy() for parameter in parameters])
    return found


TORCH = {
    "momentum": lambda torch, p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.03),
    "nesterov": lambda torch, p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.03, nesterov=True),
    "sgd": lambda torch, p: torch.optim.SGD(p, 0.1, weight_decay=0.03),
    "adam": lambda torch, p: torch.optim.Adam(p, 0.1, weight_decay=0.03),
    "adamw": lambda torch, p: torch.optim.AdamW(p, 0.1, weight_decay=0.03),
}


@pytest.mark.parametrize("name", TORCH)
def test_steps_with_changing_rates_and_weight_decay_are_those_of_torch(name):
    for found, expected in zip(steps_of(name, weight_decay=0.03), steps_of_torch(TORCH[name])):
        for values, theirs in zip(found, expected):
            np.testing.assert_allclose(values, theirs, rtol=1e-4, atol=1e-5)


def test_every_optimizer_but_muon_is_compared_with_torch():
    """Muon is compared with numpy, in test_muon.py."""
    assert set(OPTIMIZERS) == {*TORCH, "muon"}


@pytest.mark.parametrize("keywords", [{}, {"weight_decay": 0.03}, {"loss_scale": 1024.0}], ids=str)
def test_momentum_in_one_kernel_for_each_parameter_takes_the_steps_of_the_cpu(monkeypatch, keywords):
    expected, asked = steps_of("momentum", **keywords), ms.get_context
    monkeypatch.setattr(ms, "get_context", lambda key: "Ascend" if key == "device_target" else asked(key))
    assert made("momentum", **keywords)[1].fuses
    for found, values in zip(steps_of("momentum", **keywords), expected):
        for one, other in zip(found, values):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_are_divided_by_the_loss_scale(name):
    plain, scaled = (steps_of(name, weight_decay=0.03, loss_scale=scale) for scale in (1.0, 1024.0))
    for before, after in zip(plain, scaled):
        for values, expected in zip(after, before):
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_weight_decay_of_adamw_is_no_part_of_its_moments_and_spares_groups_without(momentum):
    """With gradients of zeros, Adam would step along its penalty by the whole learning rate."""
    parameters = made("sgd")[0]
    groups = [
        {"params": parameters[:1], "weight_decay": 0.5, "lr": Tensor(2 * RATES)},
        {"params": parameters[1:], "weight_decay": 0.0, "lr": Tensor(RATES)},
        {"order_params": parameters},
    ]
    before = [parameter.asnumpy().copy() for parameter in parameters]
    optimizer = OPTIMIZERS["adamw"](groups, Tensor(RATES), momentum=momentum, weight_decay=0.5, loss_scale=1.0)
    optimizer(tuple(ms.ops.zeros_like(parameter) for parameter in parameters))
    np.testing.assert_allclose(parameters[0].asnumpy(), before[0] * (1 - 2 * RATES[0] * 0.5), rtol=1e-6)
    for parameter, value in zip(parameters[1:], before[1:]):
        np.testing.assert_array_equal(parameter.asnumpy(), value)
