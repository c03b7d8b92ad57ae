import numpy as np
import pytest
from scipy import stats

from src.config import DataConfig
from src.dataset import training_pipeline
from src.dataset.mixing import Mixing
from src.dataset.preprocessing import Preprocessing
from src.dataset.source import ArraySource
from tests.made_data import read_all

IMAGES, CLASSES, SIDE = 400, 10, 16
LABELS = np.arange(IMAGES, dtype=np.int32) % CLASSES
DRAWS = np.arange(IMAGES)


def flat_images(channels, dtype=np.float32):
    """Return images of one value each, which tells which it is, as the pipeline has them."""
    shape = (SIDE, SIDE, 3) if channels == 2 else (3, SIDE, SIDE)
    values = (np.arange(IMAGES) % 250).astype(dtype)
    return np.broadcast_to(values[:, None, None, None], (IMAGES, *shape)).copy()


def other(array):
    return np.roll(array, 1, axis=0)


def own_shares(targets):
    """Return the share of its own class that each image has; it always differs from that of the other."""
    assert (other(LABELS) != LABELS).all()
    own = targets[np.arange(IMAGES), LABELS]
    np.testing.assert_allclose(own + targets[np.arange(IMAGES), other(LABELS)], 1, rtol=1e-6)
    return own


@pytest.mark.parametrize("channels", [0, 2])
def test_mixup_is_the_weighted_mean_of_an_image_and_the_one_before_and_so_are_the_labels(channels):
    images = flat_images(channels)
    mixed, targets = Mixing({"mixup": 1.0}, CLASSES, 1, channels)(images, LABELS, DRAWS)
    own = own_shares(targets)[:, None, None, None]
    np.testing.assert_allclose(mixed, own * images + (1 - own) * other(images), rtol=1e-5, atol=1e-4)
    assert (mixed.dtype, targets.dtype) == (np.float32, np.float32)


def test_mixup_of_pixels_rounds_to_the_nearest():
    images = flat_images(2, np.uint8)
    mixed, targets = Mixing({"mixup": 1.0}, CLASSES, 1, 2)(images, LABELS, DRAWS)
    own = own_shares(targets)[:, None, None, None]
    assert mixed.dtype == np.uint8
    assert np.abs(mixed - (own * images + (1 - own) * other(images))).max() < 0.501


@pytest.mark.parametrize("channels", [0, 2])
def test_cutmix_puts_a_rectangle_of_the_image_before_in_and_the_labels_have_its_area(channels):
    images = flat_images(channels)
    mixed, targets = Mixing({"cutmix": 1.0}, CLASSES, 1, channels)(images, LABELS, DRAWS)
    maps = np.moveaxis(mixed, channels + 1, 3)
    assert (maps == maps[..., :1]).all(), "all channels are cut alike"
    from_other = maps[..., 0] == other(images).reshape(IMAGES, -1)[:, 0, None, None]
    assert (from_other | (maps[..., 0] == images.reshape(IMAGES, -1)[:, 0, None, None])).all()
    for inside in from_other:
        rows, columns = inside.any(1), inside.any(0)
        np.testing.assert_array_equal(inside, rows[:, None] & columns)  # A rectangle, and in one piece:
        assert all(np.abs(np.diff(np.pad(line.astype(int), 1))).sum() in (0, 2) for line in (rows, columns))
    np.testing.assert_allclose(own_shares(targets), 1 - from_other.mean((1, 2)), atol=1e-6)
    assert 0.2 < from_other.mean() < 0.5  # Half the area on average, less what lies outside.


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_shares_are_drawn_from_the_beta_distribution(alpha):
    _, targets = Mixing({"mixup": alpha}, CLASSES, 1, 2)(flat_images(2), LABELS, DRAWS)
    assert stats.kstest(own_shares(targets), stats.beta(alpha, alpha).cdf).pvalue > 0.01


def test_of_two_methods_each_image_draws_one():
    mixed, _ = Mixing({"mixup": 1.0, "cutmix": 1.0}, CLASSES, 1, 2)(flat_images(2), LABELS, DRAWS)
    pure = ((mixed == flat_images(2)) | (mixed == other(flat_images(2)))).all((1, 2, 3))
    assert 0.4 < pure.mean() < 0.6


def test_the_same_seed_and_draws_mix_alike_and_others_do_not():
    def mixed(seed, draws):
        return Mixing({"cutmix": 1.0}, CLASSES, seed, 2)(flat_images(2), LABELS, draws)[1]

    np.testing.assert_array_equal(mixed(1, DRAWS), mixed(1, DRAWS))
    assert (mixed(1, DRAWS) != mixed(2, DRAWS)).any() and (mixed(1, DRAWS) != mixed(1, DRAWS + IMAGES)).any()


@pytest.mark.parametrize("augment", [["mixup"], ["crop_flip", "cutmix", "mixup"]])
@pytest.mark.parametrize("resizer", ["mindspore", "device"])
def test_the_training_pipeline_gives_mixed_batches_wherever_it_starts(augment, resizer):
    images = np.random.RandomState(0).randint(0, 256, (40, SIDE, SIDE, 3)).astype(np.uint8)
    source = ArraySource(images, LABELS[:40], list("abcdefghij"), (0.5,) * 3, (0.25,) * 3)
    preprocessing = Preprocessing(SIDE, "crop", "dataset", source.mean, source.std, SIDE, resizer)

    def batches(step=0, **keys):
        config = DataConfig(batch_size=8, **keys)
        return read_all(training_pipeline(source, config, preprocessing, 3, epoch=1, step=step))

    plain, labels = batches(augment=[name for name in augment if name == "crop_flip"] or "none")
    mixed, targets = batches(augment=augment)
    assert (mixed.shape, mixed.dtype) == (plain.shape, plain.dtype)
    assert (targets.shape, targets.dtype) == ((40, CLASSES), np.float32)
    np.testing.assert_allclose(targets.sum(1), 1, rtol=1e-6)
    pure = targets[np.arange(40), labels] > 0.999  # Where nothing, or the same class, was mixed in.
    assert pure.sum() < 20 and (mixed != plain).any((1, 2, 3)).sum() >= 20
    assert (targets[~pure].max(1) < 0.999).all() and ((targets > 0).sum(1) <= 2).all()
    later, later_targets = batches(step=2, augment=augment)
    np.testing.assert_array_equal(later, mixed[16:])
    np.testing.assert_array_equal(later_targets, targets[16:])
