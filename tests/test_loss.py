"""The loss against numpy, and its counters."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.loss import CrossEntropy

IMAGES, CLASSES = 12, 7
LABELS = np.arange(IMAGES) % CLASSES


@pytest.fixture(params=["graph", "pynative"])
def mode(request):
    before = ms.get_context("mode")
    ms.set_context(mode=ms.GRAPH_MODE if request.param == "graph" else ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=before)


def made_logits(scale: float = 3.0) -> np.ndarray:
    """Logits of which those of the first, third and every second image after favour its label."""
    noise = np.random.RandomState(0).standard_normal((IMAGES, CLASSES))
    favour = 3 * np.eye(CLASSES)[LABELS] * (np.arange(IMAGES) % 2 == 0)[:, None]
    return (scale * (noise + favour)).astype(np.float32)


def targets(label_smoothing: float) -> np.ndarray:
    return (1 - label_smoothing) * np.eye(CLASSES)[LABELS] + label_smoothing / CLASSES


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


@pytest.mark.parametrize("scale", [3.0, 300.0])  # exp(-300) is 0 in float32, and its logarithm infinite.
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.9])
def test_loss_is_the_mean_cross_entropy_with_smoothed_targets(mode, label_smoothing, scale):
    logits = made_logits(scale)
    loss = CrossEntropy(label_smoothing)(Tensor(logits), Tensor(LABELS, ms.int32))
    expected = -(targets(label_smoothing) * log_softmax(logits)).sum(1).mean()
    assert loss.shape == ()
    assert float(loss.asnumpy()) == pytest.approx(expected, rel=1e-5)  # float32


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_gradient_is_probability_minus_target_shared_by_the_images(mode, label_smoothing):
    logits = made_logits()
    loss = CrossEntropy(label_smoothing).set_train()
    gradient = ms.grad(loss)(Tensor(logits), Tensor(LABELS, ms.int32)).asnumpy()
    expected = (np.exp(log_softmax(logits)) - targets(label_smoothing)) / IMAGES
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-7)


def test_untrained_logits_cost_the_logarithm_of_the_classes():
    zeros = Tensor(np.zeros((IMAGES, CLASSES), np.float32))
    for label_smoothing in (0.0, 0.1):
        loss = CrossEntropy(label_smoothing)(zeros, Tensor(LABELS, ms.int32))
        assert float(loss.asnumpy()) == pytest.approx(np.log(CLASSES), rel=1e-6)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_images_seen_and_recognised_are_counted_in_training_only(mode, label_smoothing):
    logits = made_logits()
    right = logits.argmax(1) == LABELS
    assert 0 < right[:5].sum() < 5 and right.sum() != right[:5].sum(), "the example must tell right from wrong"
    loss = CrossEntropy(label_smoothing)

    def counts_after(training):
        loss.set_train(training)
        loss(Tensor(logits), Tensor(LABELS, ms.int32))
        loss(Tensor(logits[:5]), Tensor(LABELS[:5], ms.int32))
        return int(loss.correct.asnumpy()), int(loss.seen.asnumpy())

    everything = (right.sum() + right[:5].sum(), IMAGES + 5)
    assert counts_after(training=False) == (0, 0)
    assert counts_after(training=True) == everything
    assert counts_after(training=False) == everything


def mixed_labels(classes: int) -> np.ndarray:
    """Return the shares of the first classes in images that were mixed from two."""
    labels = np.minimum(LABELS, classes - 1)
    shares = np.linspace(0.05, 0.95, IMAGES)[:, None]
    one_hot = np.eye(classes)[labels]
    return (shares * one_hot + (1 - shares) * np.roll(one_hot, 1, axis=0)).astype(np.float32)


@pytest.mark.parametrize("classes", [CLASSES, CLASSES - 3])  # A network may have more classes than the data set.
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_labels_of_mixed_images_are_smoothed_and_counted_by_their_largest_share(mode, label_smoothing, classes):
    logits, labels = made_logits(), mixed_labels(classes)
    loss = CrossEntropy(label_smoothing).set_train()
    value = loss(Tensor(logits), Tensor(labels))
    shares = np.pad(labels.astype(np.float64), ((0, 0), (0, CLASSES - classes)))
    smoothed = (1 - label_smoothing) * shares + label_smoothing / CLASSES
    expected = -(smoothed * log_softmax(logits)).sum(1).mean()
    assert float(value.asnumpy()) == pytest.approx(expected, rel=1e-5)  # float32
    assert int(loss.correct.asnumpy()) == (logits.argmax(1) == labels.argmax(1)).sum()
    assert int(loss.seen.asnumpy()) == IMAGES
    gradient = ms.grad(loss)(Tensor(logits), Tensor(labels)).asnumpy()
    np.testing.assert_allclose(gradient, (np.exp(log_softmax(logits)) - smoothed) / IMAGES, rtol=1e-4, atol=1e-7)


def test_counters_are_no_weights_to_train():
    assert list(CrossEntropy().trainable_params()) == []
