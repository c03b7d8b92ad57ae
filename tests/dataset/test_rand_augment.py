"""RandAugment: its transforms, and where its random numbers come from."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from PIL import Image, ImageOps

from src.dataset.rand_augment import TRANSFORMS, rand_augment

IMAGE = np.random.RandomState(0).randint(30, 200, (4, 4, 3)).astype(np.uint8).repeat(6, 0).repeat(6, 1)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_keeps_the_shape_and_changes_the_image(name):
    found = [TRANSFORMS[name](sign)(IMAGE) for sign in (1, -1)]
    assert all(image.shape == IMAGE.shape and image.dtype == np.uint8 for image in found)
    assert np.array_equal(found[0], IMAGE) == (name == "identity")
    unsigned = ("identity", "posterize", "solarize", "auto_contrast", "equalize")
    assert np.array_equal(*found) == (name in unsigned)


def test_transforms_of_pixels_are_those_of_pillow():
    pillow = Image.fromarray(IMAGE)
    for name, expected in (
        ("posterize", ImageOps.posterize(pillow, 7)),
        ("solarize", ImageOps.solarize(pillow, 179)),
        ("auto_contrast", ImageOps.autocontrast(pillow)),
    ):
        assert np.abs(TRANSFORMS[name](1)(IMAGE).astype(int) - np.asarray(expected)).max() <= 1, name


def test_translations_are_of_a_seventh_of_the_image():
    """150 of 331 pixels at the full magnitude, as in the paper's ImageNet images, and 9 of 30 of that: 3 of 24."""
    assert np.array_equal(TRANSFORMS["translate_x"](1)(IMAGE)[:, 3:], IMAGE[:, :-3])
    assert np.array_equal(TRANSFORMS["translate_y"](-1)(IMAGE)[:-3], IMAGE[3:])


def test_an_image_follows_from_its_random_numbers_alone():
    first, again = ([rand_augment(IMAGE, Random(seed)) for seed in range(30)] for _ in range(2))
    assert all(map(np.array_equal, first, again))
    assert len({image.tobytes() for image in first}) > 20
