from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from src.network.dropout import Dropout

pytestmark = pytest.mark.usefixtures("graph_mode")


def masks(dropout: Dropout, count: int, shape=(64, 64)) -> np.ndarray:
    """Return which of ones (shape) are kept in each of `count` steps."""
    ones = Tensor(np.ones(shape, np.float32))
    return np.stack([dropout(ones).asnumpy() != 0 for _ in range(count)])


def training_dropout(p=0.3, seed=7, shard=0) -> Dropout:
    return Dropout(p).seeded(seed, shard).set_train()


def test_a_share_p_is_dropped_evenly_over_places_and_steps():
    kept = masks(training_dropout(), 200).reshape(200, -1).astype(float)
    # Standard deviations of a mean of n independent draws: sqrt(0.3 * 0.7 / n).
    assert kept.mean() == pytest.approx(0.7, abs=5 * np.sqrt(0.21 / kept.size))
    assert kept.mean(0).std() == pytest.approx(np.sqrt(0.21 / 200), rel=0.1)
    assert kept.mean(1).std() == pytest.approx(np.sqrt(0.21 / 4096), rel=0.2)


@pytest.mark.parametrize("over", ["steps", "places"])
def test_masks_of_different_steps_and_places_are_not_correlated(over):
    kept = masks(training_dropout(), 200).reshape(200, -1).astype(float)
    rows = kept if over == "steps" else kept[:, :300].T
    correlations = np.corrcoef(rows) - np.eye(len(rows))
    assert np.abs(correlations).max() < 5.5 / np.sqrt(rows.shape[1])


def test_what_is_kept_is_divided_by_its_share():
    kept = training_dropout(0.75)(Tensor(np.full((50, 50), 2, np.float32))).asnumpy()
    assert set(np.unique(kept)) == {0, 8}


def test_the_gradient_passes_where_the_value_did():
    dropout = training_dropout(0.5)
    x = Tensor(np.random.RandomState(0).rand(4, 5).astype(np.float32) + 1)

    def tripled(x):  # A lambda's source is not always parsed.
        return (dropout(x) * 3).sum()

    y, gradient = ms.value_and_grad(tripled)(x)
    gradient = gradient.asnumpy()
    assert set(np.unique(gradient)) == {0, 6}
    assert float(y) == pytest.approx((gradient * x.asnumpy()).sum(), rel=1e-5)


def test_masks_follow_from_seed_and_step_and_nothing_else():
    first = masks(training_dropout(), 6)
    np.testing.assert_array_equal(masks(training_dropout(), 6), first)
    resumed = training_dropout()
    resumed.step.set_data(Tensor(4, ms.int32))
    np.testing.assert_array_equal(masks(resumed, 2), first[4:])
    assert not np.array_equal(masks(training_dropout(seed=8), 1), first[:1])
    assert np.mean(first[0] == first[1]) < 0.65  # 0.58 agree by chance.


def test_a_seed_may_be_any_number_that_the_configuration_takes():
    assert masks(training_dropout(seed=2**31 - 1), 1).mean() == pytest.approx(0.7, abs=0.05)


def test_devices_have_together_the_mask_of_one_with_the_whole_batch():
    halves = [masks(training_dropout(shard=i), 3, (8, 5, 3, 3)) for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves, 1), masks(training_dropout(), 3, (16, 5, 3, 3)))


def test_evaluation_and_p_0_drop_nothing_and_count_no_step():
    x = Tensor(np.random.RandomState(0).rand(9, 9).astype(np.float32))
    for dropout in (Dropout(0.5).set_train(False), Dropout(0.0).set_train()):
        np.testing.assert_array_equal(dropout(x).asnumpy(), x.asnumpy())
        assert int(dropout.step) == 0


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16])
def test_a_network_of_any_precision_keeps_it(dtype):
    class Net(nn.Cell):
        def __init__(self):
            super().__init__()
            self.dropout = Dropout(0.5)

        def construct(self, x):
            return ops.relu(self.dropout(x))

    assert Net().set_train()(Tensor(np.ones((4, 4)), dtype)).dtype == dtype


def test_pynative_mode_draws_the_masks_of_graph_mode():
    expected = masks(training_dropout(), 3)
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        np.testing.assert_array_equal(masks(training_dropout(), 3), expected)
    finally:
        ms.set_context(mode=ms.GRAPH_MODE)
