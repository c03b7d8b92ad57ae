from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor

from src.network.cam import Activations, heat
from src.network.geometry import feature_grid, feature_size
from src.squeezenet import SqueezeNet


@pytest.mark.parametrize(
    "keys, grid",
    [
        ({}, (17, 16)),  # 7x7/2, then three 3x3/2 pools: 3, 3 + 2, 5 + 4, 9 + 8.
        ({"version": "1_1"}, (15, 16)),
        ({"version": "cifar"}, (1.5, 4)),
        ({"version": "1_1", "stem": "padded"}, (14, 16)),
        ({"stem": "small"}, (7, 8)),
    ],
    ids=str,
)
def test_the_feature_grid_is_where_the_convolutions_see_the_image(keys, grid):
    net = SqueezeNet(**keys)
    first, distance = feature_grid(net.stem, net.layers)
    assert (first, distance) == grid
    for count in (1, 2, 5):
        # The smallest image with so many values a side leaves as much around the first as around the last.
        side = int(2 * first + distance * (count - 1)) + 1
        assert feature_size(net.stem, net.layers, side) == count
        assert feature_size(net.stem, net.layers, side - 1) == count - 1


def test_activations_are_what_the_logits_are_made_of():
    net = SqueezeNet(5, "cifar", base_e=8, incr_e=8, final_relu=False).set_train(False)
    images = Tensor(np.random.RandomState(0).standard_normal((3, 3, 16, 16)).astype(np.float32))
    expected = net(images).asnumpy()
    logits, features, maps = (output.asnumpy() for output in Activations(net).set_train(False)(images))
    assert features.shape == (3, 16) and maps.shape == (3, 5, 4, 4)
    np.testing.assert_allclose(logits, expected, atol=1e-6)
    weight, bias = net.classifier[1].weight.asnumpy()[:, :, 0, 0], net.classifier[1].bias.asnumpy()
    np.testing.assert_allclose(features @ weight.T + bias, expected, atol=1e-5)  # The head is linear without its ReLU.


@pytest.mark.parametrize("padding", [0, 1])
def test_heat_is_greatest_where_the_value_lies_on_the_image_and_none_where_the_evidence_is_against(padding):
    net = SqueezeNet(10, classifier_padding=padding)
    values = np.full((13 + 2 * padding,) * 2, -1, np.float32)
    values[2 + padding, 7 + padding] = 3
    found = heat(net, values, 227)
    assert found.shape == (227, 227) and found.dtype == np.float32 and found.min() == 0
    assert found.max() == found[17 + 16 * 2, 17 + 16 * 7] == 1
    assert (found[:30] == 0).all() and (found[:, :100] == 0).all()
    assert found[17 + 16 * 2 + 8, 17 + 16 * 7] == pytest.approx(1 / 3)  # Half way between 3 and -1 is 1.


def test_heat_reaches_the_border_and_is_zero_where_there_is_no_evidence():
    net = SqueezeNet(10, "cifar")
    assert (heat(net, np.ones((8, 8), np.float32), 32) == 1).all()
    assert (heat(net, np.zeros((8, 8), np.float32), 32) == 0).all()
