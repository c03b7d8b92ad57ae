from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest

from src.compression.curvature import curvatures
from src.compression.synthetic import dead_leaves
from src.squeezenet import SqueezeNet

pytestmark = pytest.mark.usefixtures("graph_mode")


@pytest.fixture(scope="module")
def net():
    ms.set_seed(1)
    return SqueezeNet(10, "cifar", base_e=8, incr_e=8, final_relu=False).set_train(False)


@pytest.fixture(scope="module")
def image():
    return np.random.RandomState(0).standard_normal((3, 16, 16)).astype(np.float32)


def test_of_the_last_convolution_it_is_the_outer_product_of_its_mean_inputs(net, image):
    found = curvatures(net, [image] * 4, seed=1)
    names = [name for name, p in net.parameters_and_names() if name.endswith("weight")]
    assert list(found) == names
    features = net.features(ms.Tensor(image[None])).asnumpy().mean((2, 3))[0]
    with_bias = np.append(features, 1)
    expected = np.outer(with_bias, with_bias) / (with_bias @ with_bias)
    np.testing.assert_allclose(found["classifier.1.weight"].inputs, expected, rtol=1e-3, atol=1e-6)


def test_it_is_a_fisher_matrix_and_follows_from_the_seed(net, image):
    images = [image * scale for scale in (0.5, 1, 2, 3, 4)]  # The fifth fills no batch.
    first, again, other = (curvatures(net, images, seed) for seed in (1, 1, 2))
    for name, curvature in first.items():
        assert np.trace(curvature.inputs) == pytest.approx(1)
        assert np.linalg.eigvalsh(curvature.inputs).min() > -1e-9 and (curvature.rows >= 0).all()
        np.testing.assert_array_equal(curvature.rows, again[name].rows)
    assert any((first[name].rows != other[name].rows).any() for name in first)


def test_synthetic_images_follow_from_the_seed_and_have_the_spectrum_of_photographs():
    images = [dead_leaves(64, np.random.RandomState(seed)) for seed in (3, 3, 4)]
    assert images[0].shape == (64, 64, 3) and images[0].dtype == np.uint8
    np.testing.assert_array_equal(images[0], images[1])
    assert (images[0] != images[2]).any()
    grey = images[0].mean(2)
    power = np.abs(np.fft.rfft2(grey - grey.mean())) ** 2
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64))
    # Noise has as much everywhere; photographs lose about a hundredfold from a 32nd to a quarter.
    low, high = (power[(frequency > f / 1.4) & (frequency < f * 1.4)].mean() for f in (1 / 32, 1 / 4))
    assert 20 < low / high < 5000
