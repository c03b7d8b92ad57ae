import zlib
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from src.dataset.digits import MEAN, STD, open_digits


@pytest.fixture(scope="module")
def splits():
    return {split: open_digits(Path("unused"), split) for split in ("train", "test")}


def test_the_two_splits_together_are_all_1797_images(splits):
    assert {split: len(source) for split, source in splits.items()} == {"train": 1438, "test": 359}
    split_pixels = np.concatenate([source.images[..., 0].reshape(-1, 64) for source in splits.values()])
    all_pixels = np.round(load_digits().data * 255 / 16).astype(np.uint8)
    np.testing.assert_array_equal(sorted(map(tuple, split_pixels)), sorted(map(tuple, all_pixels)))


def test_no_image_is_in_both_splits(splits):
    # All 1,797 images differ, so that equal pixels would be the same image.
    pixels = {split: {image.tobytes() for image in source.images} for split, source in splits.items()}
    assert len(pixels["train"] | pixels["test"]) == 1797
    assert not pixels["train"] & pixels["test"]


def test_the_test_images_are_a_fifth_of_every_class_and_always_the_same(splits):
    counts = {split: np.bincount(source.labels) for split, source in splits.items()}
    total = counts["train"] + counts["test"]
    np.testing.assert_array_equal(counts["test"], np.round(total / 5))
    np.random.seed(7)
    np.testing.assert_array_equal(open_digits(Path(), "test").images, splits["test"].images)
    # Of the split as first published: accuracies stay comparable between versions.
    assert zlib.crc32(splits["test"].images.tobytes()) == 2843917018


def test_labels_are_those_of_scikit_learn(splits):
    digits = load_digits()
    label_of = {
        np.round(pixels * 255 / 16).astype(np.uint8).tobytes(): label
        for pixels, label in zip(digits.data, digits.target)
    }
    for source in splits.values():
        assert source.classes == [str(digit) for digit in range(10)]
        expected = [label_of[image[..., 0].tobytes()] for image in source.images]
        np.testing.assert_array_equal(source.labels, expected)


def test_images_are_grey_on_three_channels_over_the_full_range(splits):
    images = splits["train"].images
    assert images.shape[1:] == (8, 8, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(images[..., 0], images[..., 2])
    assert (images.min(), images.max()) == (0, 255)


def test_mean_and_std_are_those_of_the_training_images(splits):
    scaled = splits["train"].images / 255
    np.testing.assert_allclose(MEAN, scaled.mean((0, 1, 2)), atol=5e-5)
    np.testing.assert_allclose(STD, scaled.std((0, 1, 2)), atol=5e-5)
    assert (splits["train"].mean, splits["train"].std) == (MEAN, STD)
