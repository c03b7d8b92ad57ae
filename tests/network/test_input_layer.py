"""Pixels that become the network's input on the device: the numbers of the host's operators, but for their rounding."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from mindspore import Tensor
from mindspore.dataset import vision
from mindspore.dataset.vision import Inter

from src import visualize
from src.checkpoint import load_network
from src.config import DataConfig
from src.dataset import evaluation_pipeline, open_source, preprocessing_of, training_pipeline
from src.dataset.augmentation import pixel_changes
from src.dataset.preprocessing import FITS, NORMALIZATIONS, Preprocessing
from src.inference.classify import Classifier
from src.inference.config import ExportConfig
from src.inference.evaluation import evaluate
from src.inference.export import export_checkpoint
from src.inference.exported_model import open_model
from src.network.input_layer import InputLayer, with_input_layer
from src.training.plan import prepare
from src.training.run import train
from tests.made_data import write_image_folder
from tests.runs import BRIEF, CPU, configuration

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def made(image_size: int, fit: str = "resize", normalize: str = "dataset", native_size: int = 32) -> Preprocessing:
    return Preprocessing(image_size, fit, normalize, MEAN, STD, native_size, "device")


def noise(count: int, side: int) -> np.ndarray:
    return np.random.RandomState(0).randint(0, 256, (count, side, side, 3)).astype(np.uint8)


@pytest.mark.parametrize("native, size", [(32, 224), (32, 64), (32, 24), (32, 33), (17, 40), (8, 7), (1, 5)])
def test_the_matrices_resize_as_the_operator_does_float_images(native, size):
    matrix = made(size, native_size=native).resizing()
    image = noise(1, native)[0].astype(np.float32)
    expected = vision.Resize((size, size), Inter.LINEAR)(image)
    np.testing.assert_allclose(np.einsum("yh,hwc,xw->yxc", matrix, image, matrix), expected, rtol=0, atol=1e-3)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)


def test_on_uint8_images_the_operator_rounds_to_grey_levels():
    """By half a level, and more by its fixed-point weights: the difference that `preprocess` makes, here on noise."""
    image, preprocessing = noise(1, 32)[0], made(224)
    matrix = preprocessing.resizing()
    exact = np.einsum("yh,hwc,xw->yxc", matrix, image.astype(np.float32), matrix)
    rounded = vision.Resize((224, 224), Inter.LINEAR)(image).astype(np.float32)
    assert 0.5 < np.abs(exact - rounded).max() < 0.8


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [24, 32, 56])
def test_the_graph_gives_what_single_images_get(size, fit, normalize):
    preprocessing, images = made(size, fit, normalize), noise(3, 32)
    pixels = np.stack([preprocessing.pixels(image) for image in images])
    assert pixels.dtype == np.uint8 and pixels.shape[1:] == (preprocessing.side, preprocessing.side, 3)
    found = InputLayer(preprocessing)(Tensor(pixels)).asnumpy()
    assert found.shape == (3, 3, size, size)
    np.testing.assert_allclose(found, np.stack([preprocessing(image) for image in images]), rtol=0, atol=2e-4)
    on_host = preprocessing.on_host()
    host = np.stack([on_host(image) for image in images])
    deviation = 255 * min(STD) if normalize == "dataset" else min(on_host.fit_image(image).std() for image in images)
    levels = np.abs(found - host).max() * deviation
    assert levels < (0.01 if fit == "crop" else 0.8)


@pytest.mark.parametrize("augment", ["none", "crop_flip", ["crop_flip", "color_jitter"]])
def test_cropped_training_images_are_those_of_the_host(augment):
    batches = {}
    for preprocess in ("host", "device"):
        config = DataConfig("digits", image_size=12, fit="crop", augment=augment, batch_size=8, preprocess=preprocess)
        source = open_source(config, "train")
        preprocessing = preprocessing_of(config, source)
        pipeline = training_pipeline(source, config, preprocessing, seed=3)
        batches[preprocess] = next(pipeline.create_dict_iterator(num_epochs=1))
    assert batches["device"]["image"].asnumpy().dtype == np.uint8
    found = InputLayer(preprocessing)(batches["device"]["image"]).asnumpy()
    np.testing.assert_allclose(found, batches["host"]["image"].asnumpy(), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(batches["device"]["label"].asnumpy(), batches["host"]["label"].asnumpy())


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of images of several sizes: train/ and val/ with a few of each of three classes."""
    folder, random = tmp_path_factory.mktemp("photographs"), np.random.RandomState(1)
    shapes = [(30, 40), (25, 18), (16, 16), (50, 21)]

    def images(scale):
        return [(random.randint(0, 256, (*shape, 3)) * scale).astype(np.uint8) for shape in shapes]

    classes = {"a": 1, "b": 0.7, "c": 0.4}
    write_image_folder(folder, {s: {n: images(scale) for n, scale in classes.items()} for s in ("train", "val")})
    return folder


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    ("augment", "normalize", "resizer", "tolerance"),
    [
        ("none", "dataset", "pillow", 1e-5),
        (["crop_flip", "color_jitter"], "per_image", "mindspore", 1e-5),
        (["crop_flip", "cutmix"], "dataset", "pillow", 1e-5),
        ("cutout", "dataset", "mindspore", 0.01),  # The mean colour in whole grey levels.
    ],
)
def test_photographs_become_pixels_that_the_graph_normalises_as_the_host_does(
    photographs, fit, augment, normalize, resizer, tolerance
):
    keys = {"image_size": 16, "fit": fit, "augment": augment, "normalize": normalize, "resizer": resizer}
    found = {}
    for preprocess in ("host", "device"):
        config = DataConfig("image_folder", str(photographs), batch_size=4, preprocess=preprocess, **keys)
        source = open_source(config, "train")
        preprocessing = preprocessing_of(config, source)
        trained = training_pipeline(source, config, preprocessing, seed=3)
        evaluated = evaluation_pipeline(source, preprocessing, 4)
        batches = [next(p.create_tuple_iterator(num_epochs=1, output_numpy=True)) for p in (trained, evaluated)]
        if preprocess == "device":
            assert {(b[0].dtype, b[0].shape) for b in batches} == {(np.dtype(np.uint8), (4, 16, 16, 3))}
            alone = np.stack([preprocessing(source.image(i)) for i in range(4)])
            batches = [(InputLayer(preprocessing)(Tensor(images)).asnumpy(), labels) for images, labels in batches]
            np.testing.assert_allclose(batches[1][0], alone, rtol=0, atol=1e-5)
        found[preprocess] = batches
    for (images, labels), (expected, expected_labels) in zip(found["device"], found["host"]):
        np.testing.assert_array_equal(labels, expected_labels)
        np.testing.assert_allclose(images, expected, rtol=0, atol=tolerance)


@pytest.mark.thorough
def test_a_training_on_photographs_normalised_in_the_graph_gives_a_checkpoint_that_the_host_evaluates_alike(
    photographs, tmp_path
):
    data = {"dataset": "image_folder", "data_path": str(photographs), "train_images": None, "val_split": 0.0}
    keys = {"fit": "center_crop", "augment": "crop_flip", "batch_size": 4}
    config = configuration(
        **{**BRIEF, **data, **keys, "epochs": 2}, preprocess="device", output_path=str(tmp_path / "run")
    )
    config.check()
    result = train(config)
    net, card = load_network(tmp_path / "run" / "best.ckpt")
    source = open_source(config.data, "val")
    assert (card.preprocessing.resizer, card.preprocessing.normalizer) == ("mindspore", "device")
    in_graph = evaluate(net, source, card.preprocessing, 5, 1)
    on_host = evaluate(net, source, card.preprocessing.on_host(), 5, 1)
    assert in_graph.accuracy == on_host.accuracy == result["validation"]["accuracy"]
    assert in_graph.loss == pytest.approx(on_host.loss, rel=1e-5)
    classifier = Classifier.from_checkpoint(str(tmp_path / "run" / "best.ckpt"))
    classified = classifier([classifier.prepare(source.image(i)) for i in range(len(source))]).probabilities
    np.testing.assert_allclose(classified.max(1), in_graph.confidences, atol=1e-5)


def test_images_that_are_resized_are_cropped_before():
    changes = pixel_changes(made(224), ["crop_flip"], None, seed=1)
    image = noise(1, 32)[0]
    changed = [changes[0](image, np.int64(draw))[0] for draw in range(64)]
    assert {c.shape for c in changed} == {(32, 32, 3)}
    # Zeros come in from the sides, up to an eighth.
    top = [int((c == 0).all(axis=(1, 2)).argmin()) for c in changed]
    assert set(top) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_cutout_is_of_the_mean_colour(normalize):
    preprocessing, image = made(32, "crop", normalize), noise(1, 32)[0]
    (change,) = pixel_changes(preprocessing, ["cutout"], None, seed=1)
    cut = change(image, np.int64(0))[0]
    places = (cut != image).any(axis=-1)
    assert 0 < places.sum() <= 64
    expected = np.round(np.multiply(MEAN, 255)) if normalize == "dataset" else round(image.mean())
    assert (cut[places] == expected).all()


@pytest.mark.thorough
def test_evaluation_sees_the_same_images_and_the_same_accuracy(tiny_device_run):
    folder, config, result = tiny_device_run
    net, card = load_network(folder / "best.ckpt")
    assert card.preprocessing.on_device and card.preprocessing.side == 8
    source = open_source(config.data, "val")
    again = evaluate(net, source, card.preprocessing, 16, 1)
    assert again.accuracy == result["validation"]["accuracy"]
    host = evaluate(net, source, card.preprocessing.on_host(), 16, 1)
    assert abs(host.accuracy - again.accuracy) <= 0.02
    batch = next(
        evaluation_pipeline(source, card.preprocessing, 4).create_dict_iterator(num_epochs=1, output_numpy=True)
    )
    logits = with_input_layer(net, card.preprocessing)(Tensor(batch["image"])).asnumpy()
    prepared = np.stack([card.preprocessing(source.image(i)) for i in range(4)])
    np.testing.assert_allclose(net(Tensor(prepared)).asnumpy(), logits, rtol=1e-3, atol=1e-3)


def test_a_centre_crop_of_images_that_already_have_the_size_before_it_is_still_cropped():
    image, cropping = noise(1, 32)[0], made(28, "center_crop")
    assert cropping.shorter_side == cropping.side == 32
    expected = InputLayer(cropping)(Tensor(image[None])).asnumpy()[0]
    assert expected.shape == (3, 28, 28)
    np.testing.assert_allclose(cropping(image), expected, atol=1e-5)


@pytest.mark.parametrize("file_format", ["MINDIR", "ONNX"])
def test_the_exported_graph_resizes_too(tiny_device_run, tmp_path, file_format):
    folder, config, _ = tiny_device_run
    checkpoint = str(folder / "best.ckpt")
    options = {"dynamic_batch": True, "uint8_input": True, "file_name": str(tmp_path / "net")}
    spec = export_checkpoint(ExportConfig(checkpoint, file_format, **options), CPU)
    assert spec["input"]["shape"] == [None, 8, 8, 3] and spec["largest_difference"] < 1e-4
    source = open_source(config.data, "val")
    images = [source.image(i) for i in range(5)]
    by_checkpoint = Classifier.from_checkpoint(checkpoint)
    by_file = Classifier.from_exported(open_model(spec["file"], None, CPU))
    expected, found = (c([c.prepare(image) for image in images]).probabilities for c in (by_checkpoint, by_file))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    # Photographs of other sizes are brought to the pixels' size first.
    assert by_file.prepare(noise(1, 50)[0][:30]).shape == (8, 8, 3)


@pytest.mark.parametrize("unsound", [{"native_size": None}, {"normalizer": "graph"}])
def test_unsound_preprocessing_is_refused(unsound):
    with pytest.raises(ValueError):
        Preprocessing.from_json(dataclasses.asdict(made(32)) | unsound)


@pytest.fixture(scope="module")
def tiny_device_run(tmp_path_factory):
    """A short training on the digits, 8x8 pixels that the graph resizes to 16x16: its folder, configuration, result."""
    folder = tmp_path_factory.mktemp("device") / "run"
    brief = {**BRIEF, "train_images": 240, "val_split": 0.2, "epochs": 2, "batch_norm": "all", "lr_max": 0.02}
    config = configuration(**brief, preprocess="device", augment="crop_flip", output_path=str(folder))
    config.check()
    original, visualize.save = visualize.save, lambda figure, path: None
    try:
        assert prepare(config).card.preprocessing.on_device
        return folder, config, train(config)
    finally:
        visualize.save = original
