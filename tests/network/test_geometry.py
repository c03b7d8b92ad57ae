"""Sizes and places of feature maps: computed from the list of layers, and those of the true maps."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.network.convolutions import layers_of
from src.network.design_space import STEMS
from src.network.geometry import feature_size
from src.squeezenet import VERSIONS, SqueezeNet


@pytest.fixture(autouse=True)
def pynative():
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=mode)


def noise(*shape: int) -> Tensor:
    return Tensor(np.random.RandomState(0).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("version", VERSIONS)
def test_feature_size_is_the_side_of_the_true_feature_map(version, stem, ceil_mode):
    net = SqueezeNet(2, version, stem=stem, ceil_mode=ceil_mode, base_e=4, incr_e=0)

    def side_for(size: int) -> int:
        return feature_size(net.stem, net.layers, size, ceil_mode)

    smallest = next(size for size in range(1, 100) if side_for(size) >= 1)
    keeps_resolution = net.stem.stride == 1
    for size in (smallest, *range(35, 38), *(() if keeps_resolution else (227,))):
        assert net.features(noise(1, 3, size, size)).shape[2:] == (side_for(size),) * 2, size
    if smallest > 1:
        with pytest.raises(ValueError, match="must be"):
            net.features(noise(1, 3, smallest - 1, smallest - 1))


def test_feature_sizes_of_v1_0_are_the_published_ones():
    """13x13 at 227 (the paper's Caffe net) whichever way sizes are rounded; 13x13 at 224 in torchvision, 12x12 here."""
    stem, layers = layers_of({"version": "1_0"})
    found = [feature_size(stem, layers, size, ceil_mode) for size in (227, 224) for ceil_mode in (False, True)]
    assert found == [13, 13, 12, 13]
