from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.config import OptimizerConfig
from src.loss import CrossEntropy
from src.optimizers.muon import ITERATIONS, NEWTON_SCHULZ, equal_stacks, orthogonalized, padded_stacks
from src.squeezenet import SqueezeNet
from src.training.finetuning import freeze
from src.training.model import build_model

LAST = ("classifier.1.weight", "classifier.1.bias")


def is_filter(name: str) -> bool:
    return name.endswith("conv.weight")


def polynomial(x: np.ndarray) -> np.ndarray:
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        x = a * x + b * x**3 + c * x**5
    return x


def orthogonal(matrix: np.ndarray) -> np.ndarray:
    """What orthogonalized gives, by singular values."""
    u, s, v = np.linalg.svd(matrix.reshape(len(matrix), -1), full_matrices=False)
    return (u * polynomial(s / np.sqrt(np.sum(s**2))) @ v).reshape(matrix.shape)


class Training:
    """A small net, its gradients by hand, and its train network."""

    def __init__(self, config: OptimizerConfig, rates, frozen=()):
        ms.set_seed(0)
        self.net = SqueezeNet(4, "cifar", batch_norm="all", dropout=0, final_relu=False, base_e=32, incr_e=32)
        freeze(self.net, frozen)
        loss = CrossEntropy()
        self.train = build_model(self.net, loss, config, np.array(rates, np.float32)).train_network.set_train(True)
        random = np.random.RandomState(0)
        self.images = Tensor(random.standard_normal((8, 3, 8, 8)).astype(np.float32))
        self.labels = Tensor(random.randint(0, 4, 8), ms.int32)
        parameters = ms.ParameterTuple(self.net.trainable_params())

        def forward(x, y):  # MindSpore cannot always parse a lambda.
            return loss(self.net(x), y)

        self._gradients = ms.grad(forward, None, parameters)

    @property
    def weights(self) -> dict[str, np.ndarray]:
        return {p.name: p.asnumpy().astype(np.float64) for p in self.net.trainable_params()}

    def gradients(self) -> dict[str, np.ndarray]:
        values = self._gradients(self.images, self.labels)
        return {p.name: g.asnumpy().astype(np.float64) for p, g in zip(self.net.trainable_params(), values)}

    def step(self) -> None:
        self.train(self.images, self.labels)


@pytest.mark.parametrize("shape", [(6, 6), (5, 40), (40, 5), (1, 7)])
@pytest.mark.parametrize("size", [1e-3, 1, 1e3])
def test_orthogonalized_takes_every_singular_value_near_1_and_keeps_the_directions(shape, size):
    matrix = np.random.RandomState(3).standard_normal(shape).astype(np.float32) * size
    matrix = matrix if shape[0] <= shape[1] else matrix.T
    found = orthogonalized(Tensor(matrix.astype(np.float32))).asnumpy()
    np.testing.assert_allclose(found, orthogonal(matrix), atol=2e-3)
    if shape != (6, 6):  # Whose smallest singular value is too small for three iterations.
        values = np.linalg.svd(found, compute_uv=False)
        assert values.min() > 0.6 and values.max() < 1.3


def test_a_gradient_of_zeros_gives_no_step():
    assert not orthogonalized(Tensor(np.zeros((3, 4), np.float32))).asnumpy().any()


def test_steps_turn_the_filters_and_move_the_rest_as_nesterov_momentum_does():
    """Three steps against the same in numpy, with weight decay on the last convolution and rates that change."""
    rates, momentum, decay = [0.1, 0.05, 0.2], 0.8, 0.01
    config = OptimizerConfig(optimizer="muon", momentum=momentum, weight_decay=decay, decay_biases=False)
    training = Training(config, rates)
    moments = {name: np.zeros_like(value) for name, value in training.weights.items()}
    for rate in rates:
        weights, gradients = training.weights, training.gradients()
        training.step()
        for name, found in training.weights.items():
            weight, gradient = weights[name], gradients[name]
            if name == LAST[0]:
                gradient = gradient + decay * weight
            moments[name] = momentum * moments[name] + gradient
            step = gradient + momentum * moments[name]
            if is_filter(name):
                step, weight = orthogonal(step), weight * np.sqrt(len(weight) / np.sum(weight**2))
            np.testing.assert_allclose(found, weight - rate * step, atol=5e-3 * rate, err_msg=name)
    assert sum(map(is_filter, moments)) == 13 and not any(map(is_filter, LAST))


def test_filters_have_no_weight_decay():
    plain, decayed = (Training(OptimizerConfig(optimizer="muon", weight_decay=value), [0.1]) for value in (0.0, 0.5))
    plain.step(), decayed.step()
    for name, value in decayed.weights.items():
        assert (np.abs(value - plain.weights[name]).max() > 1e-4) == (name == LAST[0]), name


def test_rates_differ_from_layer_to_layer_where_asked_for_and_frozen_layers_stay():
    config = OptimizerConfig(optimizer="muon", weight_decay=0, layer_decay=0.1)
    training = Training(config, [0.1], frozen=["features.0"])
    stem, before = training.net.features[0].conv.weight.asnumpy().copy(), training.weights
    training.step()
    np.testing.assert_array_equal(training.net.features[0].conv.weight.asnumpy(), stem)
    turned = []
    for name, weight in before.items():
        if name.endswith("squeeze.conv.weight"):
            scaled = weight * np.sqrt(len(weight) / np.sum(weight**2))
            turned.append(np.linalg.norm(training.weights[name] - scaled) / np.sqrt(min(weight.shape[:2])))
    assert len(turned) == 4
    for below, above in zip(turned, turned[1:]):
        assert below < 0.2 * above


@pytest.fixture
def as_on_an_ascend(monkeypatch):
    """Have optimizers made as on an Ascend; they run here."""

    def make(*arguments, **keywords) -> Training:
        asked = ms.get_context
        with monkeypatch.context() as patch:
            patch.setattr(ms, "get_context", lambda key: "Ascend" if key == "device_target" else asked(key))
            training = Training(*arguments, **keywords)
        assert training.train.optimizer.fuses
        return training

    return make


@pytest.mark.thorough
@pytest.mark.parametrize("keys", [{}, {"decay_biases": False}, {"layer_decay": 0.5}], ids=str)
def test_steps_of_padded_stacks_and_of_one_kernel_for_the_rest_are_those_of_the_cpu(as_on_an_ascend, keys):
    config, rates = OptimizerConfig(optimizer="muon", momentum=0.8, weight_decay=0.01, **keys), [0.1, 0.05, 0.2]
    plain, padded = Training(config, rates), as_on_an_ascend(config, rates)
    assert not plain.train.optimizer.fuses
    shapes = plain.train.optimizer.shapes
    assert len(padded.train.optimizer.stacks) == 2 < len(plain.train.optimizer.stacks)
    assert any(len({shapes[i] for i in stack}) > 1 for stack in padded.train.optimizer.stacks), "nothing is padded"
    for _ in rates:
        plain.step(), padded.step()
    for name, value in padded.weights.items():
        np.testing.assert_allclose(value, plain.weights[name], atol=1e-4, err_msg=name)
    moments = ({p.name: p.asnumpy() for p in t.train.optimizer.moments} for t in (plain, padded))
    expected, found = moments
    assert expected.keys() == found.keys()
    for name, value in found.items():
        np.testing.assert_allclose(value, expected[name], atol=1e-4, err_msg=name)


def test_frozen_filters_leave_no_stack(as_on_an_ascend):
    training = as_on_an_ascend(OptimizerConfig(optimizer="muon"), [0.1], frozen=["features"])
    before = training.weights
    training.step()
    assert training.train.optimizer.stacks == () and set(before) == set(LAST)
    assert all(np.abs(value - before[name]).max() > 0 for name, value in training.weights.items())


def test_stacks_hold_every_filter_once_and_two_take_few_multiplications():
    shapes = ((16, 32), (192, 1152), (24, 64), (160, 576), (24, 64), (192, 1152), (5, 5))
    filters = (0, 1, 2, 3, 4, 5)
    assert equal_stacks(shapes, filters) == [(0,), (1, 5), (2, 4), (3,)]
    assert padded_stacks(shapes, filters) == [(0, 2, 4), (3, 1, 5)]
    assert padded_stacks(shapes, (3,)) == [(3,)] and padded_stacks(shapes, ()) == []
