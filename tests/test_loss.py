"""The loss against numpy, and its counters."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.loss import LOSSES, BinaryCrossEntropy, ClassificationLoss, CrossEntropy, relative_weights

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


@pytest.mark.parametrize("name", LOSSES)
def test_images_seen_and_recognised_are_counted_in_training_only(mode, name):
    logits = made_logits()
    right = logits.argmax(1) == LABELS
    assert 0 < right[:5].sum() < 5 and right.sum() != right[:5].sum(), "the example must tell right from wrong"
    loss = LOSSES[name]()

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
    """Return soft labels of images that were mixed from two."""
    labels = np.minimum(LABELS, classes - 1)
    lam = np.linspace(0.05, 0.95, IMAGES)[:, None]
    one_hot = np.eye(classes)[labels]
    return (lam * one_hot + (1 - lam) * np.roll(one_hot, 1, axis=0)).astype(np.float32)


@pytest.mark.parametrize("classes", [CLASSES, CLASSES - 3])  # A network may have more classes than the data set.
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_soft_labels_are_smoothed_and_counted_by_their_largest(mode, label_smoothing, classes):
    logits, labels = made_logits(), mixed_labels(classes)
    loss = CrossEntropy(label_smoothing).set_train()
    value = loss(Tensor(logits), Tensor(labels))
    padded = np.pad(labels.astype(np.float64), ((0, 0), (0, CLASSES - classes)))
    smoothed = (1 - label_smoothing) * padded + label_smoothing / CLASSES
    expected = -(smoothed * log_softmax(logits)).sum(1).mean()
    assert float(value.asnumpy()) == pytest.approx(expected, rel=1e-5)  # float32
    assert int(loss.correct.asnumpy()) == (logits.argmax(1) == labels.argmax(1)).sum()
    assert int(loss.seen.asnumpy()) == IMAGES
    gradient = ms.grad(loss)(Tensor(logits), Tensor(labels)).asnumpy()
    np.testing.assert_allclose(gradient, (np.exp(log_softmax(logits)) - smoothed) / IMAGES, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("scale", [3.0, 300.0])  # exp(300) is infinite in float32.
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_binary_cross_entropy_is_that_of_torch(mode, label_smoothing, scale, soft):
    torch = pytest.importorskip("torch")
    logits, labels = made_logits(scale), mixed_labels(CLASSES)
    target = (1 - label_smoothing) * labels + label_smoothing / CLASSES if soft else targets(label_smoothing)
    theirs = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(theirs, torch.tensor(target, dtype=torch.float32))
    expected.backward()
    loss = BinaryCrossEntropy(label_smoothing).set_train()
    value, gradient = ms.value_and_grad(loss)(Tensor(logits), Tensor(labels if soft else LABELS.astype(np.int32)))
    assert float(value.asnumpy()) == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(gradient.asnumpy(), theirs.grad.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name, value", [("cross_entropy", np.log(CLASSES)), ("bce", np.log(2))])
def test_each_loss_of_the_registry_tells_what_untrained_logits_cost(name, value):
    zeros = Tensor(np.zeros((IMAGES, CLASSES), np.float32))
    assert float(LOSSES[name]()(zeros, Tensor(LABELS, ms.int32)).asnumpy()) == pytest.approx(value, rel=1e-6)
    assert LOSSES[name].untrained(CLASSES) == pytest.approx(value)


def test_a_new_loss_is_its_formula_alone(mode):
    class SquaredError(ClassificationLoss):
        def losses(self, logits, targets):
            return ((logits - targets) ** 2).mean(1)

    logits, loss = made_logits(), SquaredError().set_train()
    value = float(loss(Tensor(logits), Tensor(LABELS, ms.int32)).asnumpy())
    assert value == pytest.approx(((logits - targets(0.0)) ** 2).mean(), rel=1e-5)
    assert int(loss.seen.asnumpy()) == IMAGES and int(loss.correct.asnumpy()) == (logits.argmax(1) == LABELS).sum()


@pytest.mark.parametrize("classes, pads", [(CLASSES, False), (CLASSES - 3, True)])
def test_soft_labels_are_padded_only_where_the_network_has_more_classes(monkeypatch, classes, pads):
    padded, concat = [], ms.ops.concat
    monkeypatch.setattr(ms.ops, "concat", lambda *arguments: padded.append(arguments) or concat(*arguments))
    before = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        CrossEntropy()(Tensor(made_logits()), Tensor(mixed_labels(classes)))
    finally:
        ms.set_context(mode=before)
    assert bool(padded) == pads


@pytest.mark.parametrize("name", LOSSES)
def test_counters_are_no_weights_to_train(name):
    loss = LOSSES[name]()
    assert list(loss.trainable_params()) == []
    assert [parameter.name for parameter in loss.get_parameters()] == [
        "train_correct",
        "train_seen",
        "train_loss_sum",
    ]


WEIGHTS = np.array([0.25, 1, 3, 0, 0.5, 2, 1.5], np.float32)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_an_image_counts_as_much_as_the_classes_of_its_target(mode, label_smoothing, soft):
    logits, labels = made_logits(), mixed_labels(CLASSES)
    target = (1 - label_smoothing) * labels + label_smoothing / CLASSES if soft else targets(label_smoothing)
    weights = (target * WEIGHTS).sum(1)
    loss = CrossEntropy(label_smoothing, WEIGHTS).set_train()
    value, gradient = ms.value_and_grad(loss)(Tensor(logits), Tensor(labels if soft else LABELS.astype(np.int32)))
    assert float(value.asnumpy()) == pytest.approx((weights * -(target * log_softmax(logits)).sum(1)).mean(), rel=1e-5)
    expected = weights[:, None] * (np.exp(log_softmax(logits)) - target) / IMAGES
    np.testing.assert_allclose(gradient.asnumpy(), expected, rtol=1e-4, atol=1e-7)


def test_weights_are_those_of_torch_on_whole_images():
    torch = pytest.importorskip("torch")
    logits = made_logits()
    value = CrossEntropy(0.0, WEIGHTS)(Tensor(logits), Tensor(LABELS, ms.int32)).asnumpy()
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(LABELS), torch.tensor(WEIGHTS), reduction="sum"
    )
    assert float(value) == pytest.approx(theirs.item() / IMAGES, rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_of_one_change_nothing_and_are_no_parameters(name):
    logits, labels = Tensor(made_logits()), Tensor(LABELS, ms.int32)
    plain, weighted = LOSSES[name](0.1), LOSSES[name](0.1, np.ones(CLASSES, np.float32))
    assert float(weighted(logits, labels).asnumpy()) == pytest.approx(float(plain(logits, labels).asnumpy()), rel=1e-6)
    assert [p.name for p in weighted.get_parameters()] == [p.name for p in plain.get_parameters()]


@pytest.mark.parametrize(
    ("given", "counts", "expected"),
    [
        ("balanced", [90, 10], [100 / 180, 5]),
        ("balanced", [5, 5, 5], [1, 1, 1]),
        ([1, 9], [90, 10], [100 / 180, 5]),
        ([0, 2], [50, 50], [0, 2]),
    ],
)
def test_weights_have_a_mean_of_one_over_the_images(given, counts, expected):
    labels = np.repeat(np.arange(len(counts)), counts)
    weights = relative_weights(given, labels, len(counts))
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights[labels].mean() == pytest.approx(1) and weights.dtype == np.float32


def test_a_class_without_images_takes_no_part_in_the_balance():
    weights = relative_weights("balanced", np.array([0, 0, 0, 2]), 3)
    assert np.isfinite(weights).all() and weights[[0, 0, 0, 2]].mean() == pytest.approx(1)


@pytest.mark.parametrize("given", [[1.0], [1.0, 2.0, 3.0], [0.0, 0.0]])
def test_weights_that_do_not_fit_are_refused(given):
    with pytest.raises(ValueError, match=r"weight"):
        relative_weights(given, np.array([0, 1]), 2)
