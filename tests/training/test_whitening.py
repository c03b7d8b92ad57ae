from __future__ import annotations

import numpy as np
import pytest

from src.checkpoint import load_network
from src.config import with_keys
from src.squeezenet import SqueezeNet
from src.training.plan import prepare
from src.training.run import train
from src.training.whitening import NOISE, whitened
from tests.made_data import refusal
from tests.runs import BRIEF, configuration


def photographs(count: int = 40, side: int = 24) -> np.ndarray:
    """Images whose neighbouring pixels and channels are alike, as those of photographs are: sums of smooth waves."""
    random = np.random.RandomState(0)
    y, x = np.mgrid[:side, :side] / side
    waves = np.stack([np.cos(2 * np.pi * (a * x + b * y)) for a in range(3) for b in range(3)])
    mixed = np.einsum("ncw,whv->nchv", random.standard_normal((count, 3, len(waves))), waves)
    return (mixed + 0.1 * random.standard_normal(mixed.shape)).astype(np.float32)


def responses(filters: np.ndarray, images: np.ndarray) -> np.ndarray:
    """What filters (O, C, k, k) give at every place without padding, written out: (places, O)."""
    side = filters.shape[-1]
    windows = np.lib.stride_tricks.sliding_window_view(images, (side, side), (2, 3))
    return np.einsum("nchwij,ocij->nhwo", windows, filters).reshape(-1, len(filters))


def test_the_responses_are_uncorrelated_and_of_equal_variance():
    images = photographs()
    net = SqueezeNet(10, "cifar_deep")
    whitened(net, images)
    filters = net.features[0].conv.weight.asnumpy()
    found = responses(filters[:27], images)
    moments = found.T @ found / len(found)
    variances = np.diag(moments)
    assert np.abs(moments - np.diag(variances)).max() < 0.05
    strong = variances > 0.9  # Directions well above the noise have a variance of 1, and the others less.
    assert strong[:3].all() and (np.diff(variances) < 0.05).all() and variances.max() < 1.1
    length = np.linalg.norm(filters[:27].reshape(27, -1), axis=1)
    assert length.max() <= NOISE**-0.5 + 1e-4


def test_each_direction_has_both_signs_and_filters_to_spare_stay_random():
    net = SqueezeNet(10, "cifar_deep")
    before = net.features[0].conv.weight.asnumpy().copy()
    whitened(net, photographs())
    after = net.features[0].conv.weight.asnumpy()
    np.testing.assert_array_equal(after[27:54], -after[:27])
    np.testing.assert_array_equal(after[54:], before[54:])
    assert not np.isclose(after[:54], before[:54]).all(axis=(1, 2, 3)).any()


def test_a_stem_with_fewer_filters_than_directions_takes_the_strongest():
    """v1.0 has 96 filters of 7x7x3 = 147 values: the 48 strongest directions, each with both signs."""
    images = photographs()
    net = SqueezeNet(10, "1_0")
    whitened(net, images)
    filters = net.features[0].conv.weight.asnumpy()
    np.testing.assert_array_equal(filters[48:], -filters[:48])
    found = responses(filters[:48], images).var(0)
    assert found[0] == pytest.approx(1, abs=0.2) and found[0] > found[-1]


def test_images_smaller_than_the_filters_are_refused():
    assert "whiten_stem: images of 5 pixels" in refusal(whitened, SqueezeNet(10, "1_0"), photographs(4, 5))


def test_a_run_starts_with_it_keeps_it_when_frozen_and_goes_on_with_it(tmp_path, no_pictures):
    brief = {**BRIEF, "batch_norm": "squeeze", "output_path": str(tmp_path / "run")}
    config = configuration(**brief, whiten_stem=True, freeze=["features.0"])
    config.check()
    started = prepare(config).net.features[0].conv.weight.asnumpy()
    random = prepare(configuration(**brief)).net.features[0].conv.weight.asnumpy()
    assert np.abs(started - random).max() > 0.1
    for again in (config, with_keys(config, epochs=2, resume=True)):
        train(again)
        net, _ = load_network(tmp_path / "run" / "squeezenet.ckpt")
        np.testing.assert_array_equal(net.features[0].conv.weight.asnumpy(), started)


def test_pretrained_weights_beside_it_are_a_mistake():
    config = configuration(**BRIEF, whiten_stem=True, pretrained="net.ckpt")
    assert refusal(config.check).startswith("whiten_stem: cannot be combined with pretrained")
