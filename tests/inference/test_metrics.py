from __future__ import annotations

import numpy as np
import pytest
from mindspore import Tensor
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

from src.inference.metrics import METRICS, Classification, Evaluation, describe


def measure(logits: np.ndarray, labels, batch_size: int = 4) -> Evaluation:
    """Return the evaluation of logits, fed in batches of which the last may be smaller."""
    metric, labels = Classification(), np.asarray(labels, np.int32)
    for start in range(0, len(labels), batch_size):
        part = slice(start, start + batch_size)
        metric.update(Tensor(logits[part].astype(np.float32)), Tensor(labels[part]))
    return metric.eval()


@pytest.fixture
def outcome():
    random = np.random.RandomState(0)
    logits, labels = random.standard_normal((53, 8)) * 3, random.randint(0, 8, 53)
    return logits, labels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def test_top_1_loss_and_confusion_are_those_of_scikit_learn(outcome):
    logits, labels, probabilities = outcome
    found = measure(logits, labels)
    assert found.accuracy == pytest.approx(accuracy_score(labels, logits.argmax(1)))
    assert found.loss == pytest.approx(log_loss(labels, probabilities, labels=range(8)), rel=1e-5)
    assert np.array_equal(found.confusion(), confusion_matrix(labels, logits.argmax(1), labels=range(8)))
    assert found.summary()["images"] == 53


def test_top_5_counts_images_whose_class_is_among_the_five_largest_logits(outcome):
    logits, labels, _ = outcome
    five = np.argsort(-logits, axis=1)[:, :5]
    expected = [label in row for label, row in zip(labels, five)]
    found = measure(logits, labels)
    assert found.in_top_5.tolist() == expected and 0 < found.top_5_accuracy < 1
    assert found.top_5_accuracy == pytest.approx(np.mean(expected))


def test_confidences_are_the_probabilities_of_the_predicted_classes(outcome):
    logits, labels, probabilities = outcome
    np.testing.assert_allclose(measure(logits, labels).confidences, probabilities.max(1), rtol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 4, 7, 53, 100])
def test_the_batch_size_changes_nothing_since_every_image_weighs_the_same(outcome, batch_size):
    logits, labels, _ = outcome
    whole, parts = measure(logits, labels, 53), measure(logits, labels, batch_size)
    assert parts.summary() == pytest.approx(whole.summary(), rel=1e-6)
    assert np.array_equal(parts.confusion(), whole.confusion())


def test_a_small_last_batch_with_a_large_loss_weighs_as_its_images():
    logits = np.zeros((5, 2))
    logits[4, 0] = 10  # The one image of the last batch is taken for class 0 and is of class 1.
    assert measure(logits, [0, 0, 0, 0, 1]).loss == pytest.approx((4 * np.log(2) + 10) / 5, rel=1e-4)


def test_of_equal_logits_the_first_are_the_five_likeliest_as_in_argmax():
    found = measure(np.zeros((7, 7)), range(7))
    assert found.in_top_5.tolist() == [True] * 5 + [False] * 2
    assert found.predictions.tolist() == [0] * 7 and found.accuracy == pytest.approx(1 / 7)


def test_with_fewer_than_five_classes_every_image_is_in_the_top_5():
    found = measure(np.eye(3), [1, 2, 0])
    assert found.accuracy == 0 and found.top_5_accuracy == 1


def test_huge_logits_give_finite_losses():
    found = measure(np.array([[1e4, -1e4], [-1e4, 1e4]]), [0, 0])
    assert found.losses.tolist() == [0, 2e4] and found.confidences.tolist() == [1, 1]


def test_accuracy_per_class_is_the_share_of_its_images_and_none_without_any():
    logits = np.eye(4)[[0, 0, 1, 2]]
    assert measure(logits, [0, 0, 1, 1]).accuracy_per_class() == [1.0, 0.5, None, None]


def test_rows_of_the_confusion_matrix_are_true_classes_and_columns_predictions():
    confusion = measure(np.eye(3)[[2, 2]], [0, 0]).confusion()
    assert confusion.tolist() == [[0, 0, 2], [0, 0, 0], [0, 0, 0]]


def test_worst_mistakes_are_the_wrong_predictions_by_falling_loss():
    logits = np.zeros((6, 2))
    logits[:, 0] = [1, 5, 3, 9, 4, 3]
    found = measure(logits, [1, 1, 1, 0, 0, 1])
    assert found.worst_mistakes(10).tolist() == [1, 2, 5, 0]
    assert found.worst_mistakes(2).tolist() == [1, 2]


def test_clear_forgets_the_images_of_a_former_evaluation():
    metric = Classification()
    metric.update(Tensor(np.eye(2, dtype=np.float32)), Tensor(np.array([1, 0], np.int32)))
    metric.clear()
    metric.update(Tensor(np.eye(2, dtype=np.float32)[:1]), Tensor(np.array([0], np.int32)))
    assert metric.eval().summary()["images"] == 1 and metric.eval().accuracy == 1


def test_every_metric_is_in_the_summary_and_top_5_is_shown_only_where_it_can_be_wrong():
    evaluation = Evaluation(
        *(np.array(column) for column in ([0, 1], [0, 1], [0, 0], [0.9, 0.8], [0.1, 0.3], [1, 1])), 6
    )
    summary = evaluation.summary()
    assert summary == {"images": 2, "accuracy": 0.5, "top_5_accuracy": 1.0, "loss": pytest.approx(0.2)}
    assert set(METRICS) == summary.keys() - {"images"}
    assert describe(summary, 6) == "top-1 50.00%, top-5 100.00%, loss 0.2000"
    assert describe(summary, 5) == "top-1 50.00%, loss 0.2000"
