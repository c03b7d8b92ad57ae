"""The normalisation that a network takes, measured by what it says of photographs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor

from src.checkpoint import load_network, weights_of
from src.conversion.config import ConvertConfig
from src.conversion.converting import imported
from src.conversion.measuring import measured
from src.conversion.origins import CAFFE, ONNX, RGB
from src.conversion.supposing import IMAGES, MEASURED, SUPPOSED, Supposed
from src.squeezenet import SqueezeNet
from tests.programs import ROOT


def supposed_of(card) -> Supposed:
    """Suppose the usual normalisation of a network, with no reason."""
    preprocessing = dataclasses.replace(card.preprocessing.on_host(), mean=RGB.mean, std=RGB.std)
    card = dataclasses.replace(card, preprocessing=preprocessing)
    return Supposed(card, False, dict.fromkeys(IMAGES, SUPPOSED), ONNX)


def shipped():
    return load_network(ROOT / "results" / "squeezenet_cifar10_paper" / "best.ckpt")


def test_a_network_of_normalised_rgb_keeps_that():
    net, card = shipped()
    found = measured(net, supposed_of(card))
    assert not found.bgr and found.card.preprocessing.mean == RGB.mean and found.reasons["mean"] == MEASURED
    assert any(
        line.startswith("measured on 15 parts of photographs") and "--input rgb" in line for line in found.lines()
    )


def test_a_network_of_caffes_bgr_is_found_out():
    """The same network, with the normalisation moved into its first convolution and the channels reversed."""
    net, card = shipped()
    kernel = weights_of(net)["features.0.conv.weight"]
    scale = np.float32([1 / (255 * deviation) for deviation in RGB.std])
    kernel.set_data(Tensor(np.ascontiguousarray((kernel.asnumpy() * scale[:, None, None])[:, ::-1])))
    found = measured(net, supposed_of(card))
    assert found.bgr and found.card.preprocessing.mean == CAFFE.mean and found.card.preprocessing.std == CAFFE.std


def test_of_a_network_that_knows_nothing_nothing_is_said_to_be_measured():
    _, card = shipped()
    untrained = SqueezeNet(**card.model).set_train(False)
    found = measured(untrained, supposed_of(card))
    assert (found.bgr, MEASURED in found.reasons.values()) == (False, False)
    assert any("could not be measured" in line for line in found.lines())


@pytest.fixture(scope="module")
def published(shared) -> Path:
    return shared / "data" / "imagenet_squeezenet"


def npz_of_bgr(published, folder) -> Path:
    """Write the authors' weights, which take BGR, to an .npz that does not say so."""
    from src.conversion.deep_compression import read_net

    np.savez(folder / "bgr.npz", **read_net(published / "compressed_SqueezeNet.net").tensors)
    return folder / "bgr.npz"


def test_the_published_weights_are_turned_to_rgb_unless_they_take_it(published, tmp_path):
    told = {"from_format": "npz", "classifier_padding": 1, "ceil_mode": False}
    for path, turned in (
        (published / "squeezenet_v1.0_imagenet_rgb.npz", False),
        (npz_of_bgr(published, tmp_path), True),
    ):
        net, card, lines = imported(ConvertConfig(str(path), "net.ckpt", **told))
        assert card.preprocessing.mean == (CAFFE if turned else RGB).mean
        assert any(line.startswith("measured") for line in lines)
        with np.load(path) as arrays:
            kernel = arrays["conv1.weight"]
        expected = kernel[:, ::-1] if turned else kernel
        assert (weights_of(net)["features.0.conv.weight"].asnumpy() == expected).all()
