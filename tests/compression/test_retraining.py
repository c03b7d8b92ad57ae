from __future__ import annotations

from types import SimpleNamespace

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.checkpoint import weights_of
from src.compression.config import RetrainConfig
from src.compression.distillation import Distilling
from src.compression.prune import prune
from src.compression.quantize import quantize
from src.compression.retraining import ConstrainedStep, GradualPruning, Retraining, average_entries
from src.compression.unfinished import FILE as UNFINISHED
from src.compression.unfinished import State, Unfinished
from src.config import DataConfig, OptimizerConfig
from src.dataset import open_source, preprocessing_of
from src.inference.fold import fold_batch_norm
from src.loss import CrossEntropy
from src.model_card import ModelCard
from src.training.model import make_optimizer
from tests.made_data import refusal

pytestmark = pytest.mark.usefixtures("graph_mode")

NAME = "weight"


def linear(weights: np.ndarray) -> nn.Cell:
    """Return a layer without bias and a loss: half the sum of squared outputs, whose gradient is w x x^T."""

    class Loss(nn.Cell):
        def __init__(self):
            super().__init__()
            self.weight = ms.Parameter(Tensor(weights), name=NAME)

        def construct(self, x):
            y = ms.ops.matmul(x, self.weight.T)
            return 0.5 * (y * y).sum()

    return Loss()


def step_of(weights, mask, indices=None, optimizer="momentum", rate=0.01, decay=0.1):
    net = linear(weights)
    rates = np.full(50, rate, np.float32)
    made = make_optimizer(net, OptimizerConfig(optimizer=optimizer, weight_decay=decay), rates)
    return net, ConstrainedStep(net, made, {NAME: mask}, indices and {NAME: indices[0]})


@pytest.fixture(scope="module")
def problem():
    random = np.random.RandomState(0)
    return random.standard_normal((4, 6)).astype(np.float32), random.standard_normal((5, 6)).astype(np.float32)


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "adam"])
def test_masked_weights_stay_zero_through_momentum_and_weight_decay(problem, optimizer):
    weights, inputs = problem
    mask = np.abs(weights) > 0.5
    net, step = step_of(weights, np.ones_like(mask), optimizer=optimizer)
    step(Tensor(inputs))  # A step without a mask gives every weight a momentum.
    step.masks[0].set_data(Tensor(mask.astype(np.float32)))
    for _ in range(3):
        step(Tensor(inputs))
        after = net.weight.asnumpy()
        np.testing.assert_array_equal(after == 0, ~mask)
    assert not np.allclose(after[mask], weights[mask])


def test_the_gradient_of_a_codebook_entry_is_the_sum_of_its_weights_gradients(problem):
    weights, inputs = problem
    weights = quantize(prune(weights, sparsity=0.25), 2)
    indices = np.unique(weights, return_inverse=True)[1].reshape(weights.shape)
    net, step = step_of(weights, weights != 0, [indices], optimizer="sgd", rate=0.01, decay=0.0)
    step(Tensor(inputs))
    gradient = weights @ inputs.T @ inputs
    expected = weights.copy()
    for index in np.unique(indices[weights != 0]):
        expected[indices == index] -= np.float32(0.01) * gradient[indices == index].sum()
    np.testing.assert_allclose(net.weight.asnumpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["nesterov", "adam"])
def test_weights_of_one_codebook_entry_stay_equal_and_pruned_ones_zero(problem, optimizer):
    weights, inputs = problem
    weights = quantize(prune(weights, sparsity=0.25), 2)
    indices = np.unique(weights, return_inverse=True)[1].reshape(weights.shape)
    net, step = step_of(weights, weights != 0, [indices], optimizer=optimizer, rate=0.001)
    for _ in range(4):
        step(Tensor(inputs))
    after = net.weight.asnumpy()
    np.testing.assert_array_equal(after == 0, weights == 0)
    assert all(np.ptp(after[indices == index]) < 1e-6 for index in np.unique(indices))
    assert not np.allclose(after, weights, atol=1e-4)
    settled = average_entries(after, indices, weights != 0)
    assert len(np.unique(settled)) == len(np.unique(weights))
    np.testing.assert_allclose(settled, after, atol=1e-6)


def card_of(preprocessing, **model) -> ModelCard:
    arguments = {"num_classes": 10, "version": "cifar", "base_e": 16, "incr_e": 16, **model}
    return ModelCard(arguments, [str(i) for i in range(10)], preprocessing, "digits", 0.0)


@pytest.fixture(scope="module")
def retraining(tmp_path_factory):
    config = RetrainConfig(train_epochs=2, centroid_epochs=1, lr_max=0.005)
    data = DataConfig(dataset="digits", image_size=16, batch_size=64, train_images=320)
    source = open_source(data, "train")
    said: list[str] = []
    preprocessing = preprocessing_of(data, source)
    card = card_of(preprocessing)
    unfinished = Unfinished(tmp_path_factory.mktemp("retraining") / UNFINISHED, {}, resume=False)
    trainer = Retraining(config, data, source, 1, (arrays(card), card), unfinished, said.append)
    return trainer, preprocessing, said


def state(phase: str, sparsities: dict[str, float] | None = None) -> State:
    return State(phase, 0, sparsities or {}, [], {})


def arrays(card: ModelCard) -> dict[str, np.ndarray]:
    ms.set_seed(1)
    return {name: p.asnumpy().copy() for name, p in weights_of(card.build()).items()}


def test_pruning_reaches_the_sparsities_and_training_codebooks_keeps_positions_and_indices(retraining):
    trainer, preprocessing, said = retraining
    card = card_of(preprocessing, batch_norm="all")
    original = arrays(card)
    names = [name for name, array in original.items() if array.ndim == 4]
    sparsities = {name: 0.0 if name.startswith("features.0.") else 0.7 for name in names}
    found = trainer.prune(original, card, state("pruning", sparsities))
    assert found.keys() == original.keys()
    for name in names:
        assert np.sum(found[name] == 0) == round(sparsities[name] * found[name].size), name
        assert not np.allclose(found[name][found[name] != 0], original[name][found[name] != 0])
    assert said[1].startswith("pruning, epoch 2/2: loss ")
    folded, folded_card = fold_batch_norm(found, card)
    given = {name: quantize(a, 3) if a.ndim == 4 else a for name, a in folded.items()}
    trained = trainer.train_centroids(given, folded_card, state("codebooks"))
    for name in names:
        np.testing.assert_array_equal(trained[name] == 0, given[name] == 0)
        pairs = np.unique(np.stack([given[name].ravel(), trained[name].ravel()]), axis=1)
        assert pairs.shape[1] == len(np.unique(given[name])), f"{name}: a value has become two"
        assert not np.array_equal(trained[name], given[name])
    assert not np.array_equal(trained["classifier.1.bias"], given["classifier.1.bias"])


def test_batch_norm_statistics_are_those_of_the_training_images_after_a_few_pruning_steps(retraining):
    trainer, preprocessing, _ = retraining
    card = card_of(preprocessing, batch_norm="all", dropout=0.0)
    original = arrays(card)
    sparsities = {name: 0.7 for name, array in original.items() if array.ndim == 4}
    found = trainer.prune(original, card, state("pruning", sparsities))
    net = card.build()
    for name, parameter in weights_of(net).items():
        parameter.set_data(Tensor(found[name]))
    images = Tensor(np.stack([preprocessing.on_host()(trainer.source.image(i)) for i in range(320)]))
    evaluated = net.set_train(False)(images).asnumpy()
    by_batch = net.set_train()(images).asnumpy()  # Normalized by the statistics of these images.
    assert np.abs(evaluated - by_batch).max() < 0.1 * np.abs(by_batch).max()


def test_pruning_follows_the_cubic_schedule_to_three_fifths_and_then_stops():
    """The fraction of zeros at progress t is s (1 - (1 - t)^3): Zhu and Gupta 2017, equation 1."""
    net, weights = nn.Conv2d(10, 20, 3), np.random.RandomState(0).standard_normal((20, 10, 3, 3)).astype(np.float32)
    net.weight.set_data(Tensor(weights))
    name, size = net.weight.name, weights.size
    rates = np.full(100, 0.01, np.float32)
    step = ConstrainedStep(net, make_optimizer(net, OptimizerConfig(), rates), {name: np.ones_like(weights)})
    pruning, fractions = GradualPruning(step, {name: 0.8}, steps=100, every=10), []
    for number in range(1, 101):
        pruning.on_train_step_begin(SimpleNamespace(original_args=lambda n=number: SimpleNamespace(cur_step_num=n)))
        fractions.append(np.mean(step.masks[0].asnumpy() == 0))
    due = [0.8 * (1 - (1 - min(done // 10 * 10, 60) / 60) ** 3) for done in range(100)]
    np.testing.assert_allclose(fractions, due, atol=1 / size)
    zero = net.weight.asnumpy() == 0
    assert np.abs(weights[zero]).max() < np.abs(weights[~zero]).min()


def test_distillation_is_the_cross_entropy_with_the_teachers_probabilities_beside_that_with_the_labels(retraining):
    share, smoothing, random = 0.7, 0.1, np.random.RandomState(0)
    net, teacher = (card_of(retraining[1], dropout=0.0).build() for _ in range(2))
    for parameter in teacher.get_parameters():
        parameter.set_data(Tensor(random.normal(0, 0.1, parameter.shape), parameter.dtype))
    images, labels = random.standard_normal((4, 3, 16, 16)).astype(np.float32), np.array([0, 3, 3, 9], np.int32)
    logits = [cell.set_train(False)(Tensor(images)).asnumpy().astype(np.float64) for cell in (net, teacher)]
    probabilities = [np.exp(each) / np.exp(each).sum(1, keepdims=True) for each in logits]
    smoothed = (1 - smoothing) * np.eye(10)[labels] + smoothing / 10
    targets = (1 - share) * smoothed + share * probabilities[1]
    expected = -(targets * np.log(probabilities[0])).sum(1).mean()
    before = {p.name: p.asnumpy().copy() for p in teacher.get_parameters()}
    loss = CrossEntropy(smoothing)
    distilling = Distilling(net, loss, teacher, share)
    optimizer = make_optimizer(net, OptimizerConfig(weight_decay=0.0), np.full(2, 0.1, np.float32))
    step = ConstrainedStep(distilling, optimizer, {}).set_train()
    np.testing.assert_allclose(step(Tensor(images), Tensor(labels)).asnumpy(), expected, rtol=1e-5)
    assert int(loss.seen.asnumpy()) == 4
    for name, array in before.items():
        np.testing.assert_array_equal({p.name: p for p in teacher.get_parameters()}[f"teacher.{name}"].asnumpy(), array)
    assert net.features[0].conv.weight.name == "features.0.conv.weight"


@pytest.mark.parametrize(
    "model",
    [
        {"batch_norm": "all", "bypass": "complex"},
        {"batch_norm": "squeeze", "bypass": "simple", "version": "cifar_wide"},
    ],
    ids=str,
)
def test_folding_batch_norm_changes_nothing_but_the_rounding(retraining, model):
    _, preprocessing, _ = retraining
    card = card_of(preprocessing, **model)
    random, original = np.random.RandomState(0), arrays(card)
    kinds = (".gamma", ".beta", ".moving_mean", ".moving_variance")
    for name, array in original.items():
        if name.endswith(kinds):
            original[name] = random.uniform(0.5, 1.5, array.shape).astype(np.float32)
    folded, folded_card = fold_batch_norm(original, card)
    assert folded_card.model["batch_norm"] == "none" and not any(name.endswith(kinds) for name in folded)
    inputs = Tensor(random.standard_normal((2, 3, 16, 16)).astype(np.float32))
    outputs = []
    for parameters, its_card in ((original, card), (folded, folded_card)):
        net = its_card.build().set_train(False)
        assert weights_of(net).keys() == parameters.keys()
        for name, parameter in weights_of(net).items():
            parameter.set_data(Tensor(parameters[name]))
        outputs.append(net(inputs).asnumpy())
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-4)


def test_batch_norm_before_a_padded_convolution_is_not_folded(retraining):
    card = card_of(retraining[1], batch_norm="squeeze", version="cifar_wide", classifier_padding=1)
    assert refusal(fold_batch_norm, arrays(card), card).startswith("classifier_padding: ")
