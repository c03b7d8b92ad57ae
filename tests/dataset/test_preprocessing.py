import dataclasses
import json

import numpy as np
import pytest
from mindspore.dataset.vision import HWC2CHW, Inter, Resize
from PIL import Image

from src.config import DataConfig
from src.dataset import evaluation_pipeline, open_source, preprocessing_of, training_pipeline
from src.dataset.augmentation import DrawnPart
from src.dataset.preprocessing import FITS, NORMALIZATIONS, Preprocessing, applied, normalization, standardize
from src.dataset.sampling import Epochs
from src.dataset.source import ArraySource
from tests.made_data import read_all, write_image_folder

AS_IS = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
PIXELS = np.random.RandomState(0).randint(0, 256, (64, 64, 3)).astype(np.uint8)


def preprocessed(image, size, fit, normalize="dataset", normalization=AS_IS, resizer="mindspore"):
    return Preprocessing(size, fit, normalize, *normalization, resizer=resizer)(image)


def fitted(image, size, fit, resizer="mindspore"):
    """Return the pixels (H, W, 3) that an image is brought to."""
    return np.round(preprocessed(image, size, fit, resizer=resizer).transpose(1, 2, 0) * 255).astype(int)


def augmented(image, count, size, fit, augment, seed=1, normalization=AS_IS, **options):
    """Return `count` training inputs (3, size, size) made of one image."""
    source = ArraySource(np.repeat(image[None], count, axis=0), [0] * count, ["a"], *normalization)
    config = DataConfig(image_size=size, fit=fit, augment=augment, batch_size=count, **options)
    return read_all(training_pipeline(source, config, preprocessing_of(config, source), seed))[0]


def distinct(inputs):
    return {image.tobytes() for image in inputs}


def test_resize_brings_both_sides_to_the_size():
    half_white = np.zeros((20, 40, 3), np.uint8)
    half_white[:, 20:] = 255
    pixels = fitted(half_white, 32, "resize")
    assert pixels.shape == (32, 32, 3)
    assert (pixels[:, :15] == 0).all() and (pixels[:, 17:] == 255).all()


def test_resize_to_the_same_size_changes_nothing():
    np.testing.assert_array_equal(fitted(PIXELS, 64, "resize"), PIXELS)


def test_crop_takes_the_centre_of_a_larger_image():
    np.testing.assert_array_equal(fitted(PIXELS[:, :48], 32, "crop"), PIXELS[16:48, 8:40])


def test_crop_puts_zeros_around_a_smaller_image():
    expected = np.zeros((32, 32, 3), int)
    expected[8:24, 6:26] = PIXELS[:16, :20]
    np.testing.assert_array_equal(fitted(PIXELS[:16, :20], 32, "crop"), expected)


def test_crop_pads_and_crops_an_image_that_is_both():
    expected = np.zeros((32, 32, 3), int)
    expected[:, 8:24] = PIXELS[16:48, :16]
    np.testing.assert_array_equal(fitted(PIXELS[:, :16], 32, "crop"), expected)


def test_center_crop_leaves_seven_eighths_of_the_shorter_side():
    np.testing.assert_array_equal(fitted(PIXELS, 56, "center_crop"), PIXELS[4:60, 4:60])


@pytest.mark.parametrize("shape", [(300, 100), (100, 300), (256, 256), (7, 9), (1, 1)])
def test_center_crop_keeps_the_proportions_and_fills_the_size(shape):
    # A grey ramp over the longer side: resized in proportion, 8/7 * 224 = 256 pixels span the shorter side.
    longer = max(shape)
    ramp = np.broadcast_to(np.arange(longer, dtype=np.float32)[:, None], (longer, min(shape)))
    ramp = (ramp if shape[0] >= shape[1] else ramp.T) * (255 / longer)
    pixels = fitted(np.repeat(ramp.astype(np.uint8)[..., None], 3, -1), 224, "center_crop")
    assert pixels.shape == (224, 224, 3)
    if longer >= 100:
        along = pixels[:, 112, 0] if shape[0] >= shape[1] else pixels[112, :, 0]
        expected_span = 255 * 224 / (256 * longer / min(shape))
        assert along[-1] - along[0] == pytest.approx(expected_span, abs=4)


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (333, 227), (256, 256), (1024, 301), (86, 97), (40, 1)])
@pytest.mark.parametrize("size", [224, 227])
def test_pillow_gives_the_published_pixels_of_a_photograph(shape, size):
    pixels = np.random.RandomState(2).randint(0, 256, (*shape, 3)).astype(np.uint8)
    # The evaluation of the published weights: shorter side 256, longer side int(256 * long / short), then the centre.
    height, width = shape
    new = (256, int(256 * height / width)) if width < height else (int(256 * width / height), 256)
    x, y = (new[0] - size) // 2, (new[1] - size) // 2
    expected = Image.fromarray(pixels).resize(new, Image.BILINEAR).crop((x, y, x + size, y + size))
    np.testing.assert_array_equal(fitted(pixels, size, "center_crop", "pillow"), np.asarray(expected))


def test_pillow_resizes_both_sides_too_and_is_no_other_than_mindspore_for_a_crop():
    expected = np.asarray(Image.fromarray(PIXELS).resize((24, 24), Image.BILINEAR))
    np.testing.assert_array_equal(fitted(PIXELS, 24, "resize", "pillow"), expected)
    assert not np.array_equal(fitted(PIXELS, 24, "resize"), expected)
    np.testing.assert_array_equal(fitted(PIXELS, 24, "crop", "pillow"), fitted(PIXELS, 24, "crop"))


@pytest.mark.parametrize(("size", "shorter_side"), [(224, 256), (227, 256), (64, 73), (288, 329)])
def test_the_shorter_side_is_256_for_both_sizes_of_imagenet_networks(size, shorter_side):
    assert Preprocessing(size, "center_crop", "dataset", *AS_IS).shorter_side == shorter_side


@pytest.mark.parametrize("resizer", ["mindspore", "pillow"])
@pytest.mark.parametrize("fit", ["resize", "center_crop", "crop"])
def test_one_pixel_becomes_an_image_of_the_size(fit, resizer):
    pixels = fitted(np.full((1, 1, 3), 77, np.uint8), 9, fit, resizer)
    assert pixels.shape == (9, 9, 3) and pixels.max() == 77


def test_normalisation_subtracts_the_mean_and_divides_by_the_deviation_of_each_channel():
    inputs = preprocessed(PIXELS, 64, "resize", normalization=CIFAR10)
    expected = (PIXELS / 255 - np.array(CIFAR10[0])) / np.array(CIFAR10[1])
    np.testing.assert_allclose(inputs, expected.transpose(2, 0, 1), atol=1e-5)
    assert inputs.dtype == np.float32 and inputs.flags.c_contiguous


@pytest.mark.parametrize("shape", [(2, 2, 3), (8, 8, 3), (32, 20, 3)])
@pytest.mark.parametrize("contrast", [0, 1, 255])
def test_standardisation_is_tensorflows_also_for_an_image_without_contrast(shape, contrast):
    image = np.full(shape, 100, np.uint8)
    image[0, 0, 0] = (100 + contrast) % 256
    x = image.astype(np.float64)
    # tf.image.per_image_standardization: (x - mean) / max(std, 1 / sqrt(number of values)).
    expected = (x - x.mean()) / max(x.std(), 1 / np.sqrt(x.size))
    standardized = standardize(image)
    np.testing.assert_allclose(standardized, expected, atol=1e-4)
    assert standardized.dtype == np.float32
    if not contrast:
        assert not standardized.any()


def test_the_least_deviation_bounds_what_faint_noise_is_stretched_to():
    image = np.full((2, 2, 3), 100, np.uint8)
    image[0, 0, 0] = 101  # Deviation 0.276, below 1 / sqrt(12) = 0.289.
    assert standardize(image).max() == pytest.approx((1 - 1 / 12) * np.sqrt(12), rel=1e-5)


@pytest.mark.parametrize("fit", ["resize", "crop", "center_crop"])
@pytest.mark.parametrize(
    ("normalize", "resizer"), [("dataset", "mindspore"), ("per_image", "mindspore"), ("dataset", "pillow")]
)
def test_one_image_alone_is_preprocessed_as_in_the_pipeline_bit_for_bit(fit, normalize, resizer):
    images = np.random.RandomState(1).randint(0, 256, (5, 33, 47, 3)).astype(np.uint8)
    preprocessing = Preprocessing(40, fit, normalize, *CIFAR10, resizer=resizer)
    pipeline = evaluation_pipeline(ArraySource(images, [0] * 5, ["a"], *CIFAR10), preprocessing, 2)
    inputs = read_all(pipeline)[0]
    assert inputs.shape == (5, 3, 40, 40) and inputs.dtype == np.float32
    np.testing.assert_array_equal(np.stack([preprocessing(image) for image in images]), inputs)


def test_undo_restores_the_pixels():
    inputs = preprocessed(PIXELS, 64, "resize", normalization=CIFAR10)[None]
    pixels = Preprocessing(64, "resize", "dataset", *CIFAR10).undo(inputs)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels[0].astype(int) - PIXELS).max() <= 1


def test_undo_clips_what_lies_outside_the_pixels_range():
    inputs = np.array([-9.0, 9.0], np.float32).repeat(6).reshape(1, 3, 2, 2)
    assert set(Preprocessing(2, "resize", "dataset", *CIFAR10).undo(inputs).ravel()) == {0, 255}


def test_undo_of_per_image_normalisation_stretches_each_image_to_the_full_range():
    preprocessing = Preprocessing(8, "crop", "per_image", *CIFAR10)
    faint = 100 + (np.arange(64).reshape(8, 8, 1) % 3 * 10).repeat(3, -1).astype(np.uint8)
    inputs = np.stack([preprocessing(image) for image in (PIXELS[:8, :8], faint, np.full_like(faint, 9))])
    full, faint_again, constant = preprocessing.undo(inputs)
    low, high = int(PIXELS[:8, :8].min()), int(PIXELS[:8, :8].max())
    expected = (PIXELS[:8, :8].astype(float) - low) / (high - low) * 255
    np.testing.assert_allclose(full, expected, atol=1)
    np.testing.assert_allclose(sorted(set(faint_again.ravel())), [0, 127.5, 255], atol=1)
    assert len(set(constant.ravel())) == 1


def test_preprocessing_survives_json():
    preprocessing = Preprocessing(32, "crop", "per_image", *CIFAR10, resizer="pillow")
    again = Preprocessing.from_json(json.loads(json.dumps(dataclasses.asdict(preprocessing))))
    assert again == preprocessing and isinstance(again.mean, tuple)


def test_preprocessing_without_a_resizer_is_of_the_time_before_there_was_a_choice():
    values = dataclasses.asdict(Preprocessing(32, "crop", "per_image", *CIFAR10))
    del values["resizer"]
    assert Preprocessing.from_json(values).resizer == "mindspore"
    with pytest.raises(ValueError, match="preprocessing"):
        Preprocessing.from_json({**values, "resizer": "opencv"})


@pytest.mark.parametrize("fit", ["resize", "crop", "center_crop"])
@pytest.mark.parametrize("normalize", ["dataset", "per_image"])
@pytest.mark.parametrize(("augment", "resizer"), [("none", "mindspore"), ([], "mindspore"), ("none", "pillow")])
def test_training_without_augmentation_sees_what_evaluation_sees(fit, normalize, augment, resizer):
    inputs = augmented(PIXELS, 4, 24, fit, augment, normalize=normalize, normalization=CIFAR10, resizer=resizer)
    expected = preprocessed(PIXELS, 24, fit, normalize, CIFAR10, resizer)
    for image in inputs:
        np.testing.assert_array_equal(image, expected)


def windows(image, padding):
    """Return every crop of the image's size out of the image with zeros around, and their mirror images, as bytes."""
    size = len(image)
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    crops = [padded[y : y + size, x : x + size] for y in range(2 * padding + 1) for x in range(2 * padding + 1)]
    return {np.ascontiguousarray(view).tobytes() for crop in crops for view in (crop, crop[:, ::-1])}


@pytest.mark.parametrize(("fit", "size", "padding"), [("resize", 8, None), ("crop", 8, None), ("crop", 8, 2)])
def test_crop_flip_takes_every_padded_crop_and_its_mirror_image_and_nothing_else(fit, size, padding):
    image = PIXELS[:size, :size]
    inputs = augmented(image, 600, size, fit, "crop_flip", crop_padding=padding)
    pixels = np.round(inputs.transpose(0, 2, 3, 1) * 255).astype(np.uint8)
    # An eighth of the size by default: 1 here. 600 draws miss one of 18 or 50 windows with a chance below 0.0003.
    assert distinct(pixels) == windows(image, 1 if padding is None else padding)


def test_crop_flip_without_padding_crops_from_a_larger_image():
    inputs = augmented(PIXELS[:9, :9], 300, 8, "crop", "crop_flip", crop_padding=0)
    assert len(distinct(inputs)) == 8


def test_crop_flip_pads_an_image_smaller_than_the_input():
    inputs = augmented(PIXELS[:3, :5], 50, 8, "crop", "crop_flip", crop_padding=0)
    assert inputs.shape == (50, 3, 8, 8)
    assert set(np.round(inputs * 255).ravel()) <= {0, *PIXELS[:3, :5].ravel()}


def test_crop_flip_of_photographs_takes_parts_of_many_sizes():
    # A ramp from left to right: its slope in the input tells the size of the part, its sign the flip.
    ramp = np.broadcast_to(np.arange(128, dtype=np.uint8)[None, :, None], (128, 128, 3)).copy()
    inputs = augmented(ramp, 200, 32, "center_crop", "crop_flip")
    spans = (inputs[:, 0, 16, -1] - inputs[:, 0, 16, 0]) * 255
    shares = np.abs(spans) / 127
    assert shares.max() > 0.85 and shares.min() < 0.45 and shares.std() > 0.1
    assert 70 < (spans > 0).sum() < 130


def test_crop_flip_of_photographs_is_a_part_of_the_whole_image_resized(tmp_path):
    random = np.random.RandomState(0)
    shapes = [(90, 70), (40, 60), (33, 200), (64, 64)]
    write_image_folder(tmp_path, {"train": {"a": [random.randint(0, 256, (*s, 3)).astype(np.uint8) for s in shapes]}})
    config = DataConfig(
        "image_folder", str(tmp_path), image_size=32, fit="center_crop", augment="crop_flip", batch_size=4
    )
    source = open_source(config, "train")
    preprocessing, rest = preprocessing_of(config, source), Resize((32, 32), Inter.LINEAR)
    order, mirrored = Epochs(4, 4, 1, 0, seed=5), set()
    for epoch in range(2):
        inputs, _ = read_all(training_pipeline(source, config, preprocessing, seed=5, epoch=epoch).take(1))
        for draw, found in zip(order.draws(epoch)[0], inputs):
            image = source.image(draw % 4)
            top, left, height, width, flipped = DrawnPart(5)(draw, *image.shape[:2])
            part = image[top : top + height, left : left + width][:, :: -1 if flipped else 1]
            expected = applied([rest, *normalization(preprocessing), HWC2CHW()], np.ascontiguousarray(part))
            np.testing.assert_array_equal(found, expected)
            mirrored.add(flipped)
    assert mirrored == {False, True}


def test_color_jitter_changes_colours_each_time_and_moves_nothing():
    image = np.zeros((16, 16, 3), np.uint8)
    image[:8], image[8:] = (200, 100, 50), (20, 60, 180)
    inputs = augmented(image, 40, 16, "resize", "color_jitter")
    assert len(distinct(inputs)) >= 38
    assert image.transpose(2, 0, 1).astype(np.float32).tobytes() not in distinct(np.round(inputs * 255))
    top, bottom = inputs[:, :, :8], inputs[:, :, 8:]
    assert not np.ptp(top, axis=(2, 3)).any() and not np.ptp(bottom, axis=(2, 3)).any()
    assert (np.abs(top[..., 0, 0] - bottom[..., 0, 0]).max(1) > 0.1).all()


def cut(image):
    """Return the rows and the columns of the pixels of an input (3, H, W) that are cut out."""
    zeros = (image == 0).all(0)
    rows, columns = np.flatnonzero(zeros.any(1)), np.flatnonzero(zeros.any(0))
    assert zeros.sum() == len(rows) * len(columns)
    return rows, columns


def test_cutout_leaves_one_square_of_zeros_after_normalisation():
    image = np.full((32, 32, 3), 250, np.uint8)
    inputs = augmented(image, 200, 32, "resize", "cutout", normalization=CIFAR10)
    background = preprocessed(image, 32, "resize", normalization=CIFAR10)[:, 0, 0]
    whole = set()
    for cut_image in inputs:
        rows, columns = cut(cut_image)
        kept = cut_image[:, (cut_image != 0).any(0)].T
        np.testing.assert_array_equal(kept, np.broadcast_to(background, kept.shape))
        assert max(len(rows), len(columns)) <= 8  # A quarter of the size, or the part of it within the image.
        if len(rows) == len(columns) == 8:
            whole.add((rows[0], columns[0]))
    assert len(whole) > 25  # Of 100 draws: two workers share theirs, and some squares overhang the border.


def test_cutout_of_per_image_normalisation_is_zeros_too():
    inputs = augmented(PIXELS, 100, 64, "resize", ["cutout"], normalize="per_image")
    sizes = [tuple(map(len, cut(image))) for image in inputs]
    assert sizes.count((16, 16)) > 20 and max(map(max, sizes)) == 16


def test_augmentations_combine():
    inputs = augmented(PIXELS, 100, 64, "resize", ["crop_flip", "color_jitter", "cutout"], normalization=CIFAR10)
    assert len(distinct(inputs)) == 100
    assert sum(tuple(map(len, cut(image))) == (16, 16) for image in inputs) > 20


@pytest.mark.parametrize("augment", ["crop_flip", "color_jitter", "randaugment", "cutout"])
def test_augmentation_repeats_with_the_seed_and_differs_with_another(augment):
    options = {"image": PIXELS, "count": 20, "size": 32, "fit": "crop", "augment": augment, "num_workers": 1}
    first, again, other = (augmented(**options, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_photograph_is_shrunk_to_the_data_sets_scale_before_it_is_cropped():
    photograph = np.zeros((300, 400, 3), np.uint8)
    photograph[:, 200:] = 240
    preprocessing = Preprocessing(24, "crop", "dataset", (0.0,) * 3, (1.0,) * 3, native_size=32)
    pixels = preprocessing.fit_image(photograph)
    assert pixels.shape == (24, 24, 3)
    # 300x400 becomes 32x43: the step from black to grey stays in the middle, one pixel wide.
    assert (pixels[:, :10] == 0).all() and (pixels[:, 14:] == 240).all()
    small = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
    np.testing.assert_array_equal(preprocessing.fit_image(small), small[4:28, 4:28])


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("fit", FITS)
def test_a_network_of_one_channel_gets_pillows_grey_image(fit, normalize):
    native = 40 if fit == "crop" else None
    of_grey = Preprocessing(32, fit, normalize, (0.4,), (0.2,), native, "pillow")
    of_color = Preprocessing(32, fit, normalize, (0.4,) * 3, (0.2,) * 3, native, "pillow")
    grey = np.asarray(Image.fromarray(PIXELS).convert("L").convert("RGB"))
    found = of_grey(PIXELS)
    assert found.shape == (1, 32, 32)
    np.testing.assert_allclose(found, of_color(grey)[:1], atol=1e-6)
    pixels = np.repeat(np.asarray(Image.fromarray(of_grey.fit_image(PIXELS)).convert("L"))[..., None], 3, -1)
    np.testing.assert_array_equal(of_grey.fit_image(PIXELS), pixels)
    if normalize == "dataset":
        np.testing.assert_array_equal(of_grey.undo(found[None])[0], pixels)
    assert of_grey == Preprocessing.from_json(json.loads(json.dumps(dataclasses.asdict(of_grey))))


def test_the_shorter_side_before_the_crop_can_be_another_and_is_never_less_than_the_crop():
    made = Preprocessing(32, "center_crop", "dataset", *AS_IS, resizer="pillow", resize=64)
    np.testing.assert_array_equal(made.fit_image(PIXELS), PIXELS[16:48, 16:48])
    assert dataclasses.replace(made, image_size=96)(PIXELS).shape == (3, 96, 96)
