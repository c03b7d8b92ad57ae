from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

from src.checkpoint import load_network, save_checkpoint
from src.cli.errors import UserError
from src.config import DeviceConfig
from src.dataset import open_source
from src.inference.config import EvalConfig
from src.inference.evaluation import evaluate, evaluate_model
from src.squeezenet import SqueezeNet
from tests.made_data import write_cifar10, write_image_folder

CPU = DeviceConfig(device_target="CPU")


@pytest.fixture(scope="module")
def evaluated(tiny, tmp_path_factory):
    """The result of evaluating the tiny run's best checkpoint, and its folder."""
    folder = tmp_path_factory.mktemp("evaluation")
    config = EvalConfig(str(tiny.folder / "best.ckpt"), batch_size=50, output_path=str(folder / "eval"))
    return evaluate_model(config, CPU), folder / "eval"


def test_evaluation_agrees_with_the_checkpoints_own_preprocessing_and_numpy(tiny, evaluated):
    net, card = load_network(tiny.folder / "best.ckpt")
    source = open_source(tiny.config.data, "test")
    inputs = np.stack([card.preprocessing(source.image(i)) for i in range(len(source))])
    logits = net(Tensor(inputs)).asnumpy()
    result, _ = evaluated
    assert result["images"] == len(source) == 359
    assert result["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == source.labels))
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert result["loss"] == pytest.approx(-log_probabilities[range(359), source.labels].mean(), abs=1e-4)


def test_the_result_is_that_of_the_training_run(tiny, evaluated):
    for name in ("images", "accuracy", "top_5_accuracy"):
        assert evaluated[0][name] == tiny.result["test"][name]


def test_result_json_holds_what_was_evaluated_and_every_class(tiny, evaluated):
    result, folder = evaluated
    written = json.loads((folder / "result.json").read_text())
    assert {**written, "output_path": str(folder)} == result
    assert written["checkpoint"] == str(tiny.folder / "best.ckpt")
    assert (written["dataset"], written["split"], written["device"]) == ("digits", "test", "CPU")
    assert list(written["accuracy_per_class"]) == [str(i) for i in range(10)]


def test_the_folder_holds_result_confusion_matrix_and_mistakes(evaluated):
    names = sorted(file.name for file in evaluated[1].iterdir())
    assert names == ["confusion_matrix.csv", "confusion_matrix.png", "result.json", "worst_mistakes.png"]
    for name in ("confusion_matrix.png", "worst_mistakes.png"):
        with Image.open(evaluated[1] / name) as picture:
            assert picture.format == "PNG"


def test_the_confusion_table_sums_to_the_images_of_each_class_and_its_diagonal_to_the_accuracy(tiny, evaluated):
    result, folder = evaluated
    with open(folder / "confusion_matrix.csv", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == ["true \\ predicted", *(str(i) for i in range(10))]
    assert [row[0] for row in rows] == header[1:]
    counts = np.array([row[1:] for row in rows], int)
    labels = open_source(tiny.config.data, "test").labels
    assert counts.sum(1).tolist() == np.bincount(labels).tolist()
    assert np.trace(counts) / counts.sum() == pytest.approx(result["accuracy"])
    for c, name in enumerate(header[1:]):
        assert result["accuracy_per_class"][name] == pytest.approx(counts[c, c] / counts[c].sum())


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.thorough), 7, 359])
def test_every_image_counts_once_at_any_batch_size(tiny, evaluated, batch_size):
    net, card = load_network(tiny.folder / "best.ckpt")
    source = open_source(dataclasses.replace(tiny.config.data, train_images=None), "test")
    found = evaluate(net, source, card.preprocessing, batch_size, 1)
    assert len(found.labels) == 359 and np.array_equal(found.labels, source.labels)
    for name in ("accuracy", "top_5_accuracy", "loss"):
        assert found.summary()[name] == pytest.approx(evaluated[0][name], abs=1e-5)


def test_the_resizer_is_the_checkpoints_own_unless_another_is_asked_for(tiny, tmp_path, no_pictures):
    net, card = load_network(tiny.folder / "best.ckpt")
    preprocessing = dataclasses.replace(card.preprocessing, fit="center_crop")  # The two enlarge by 18/8 differently.
    save_checkpoint(net, tmp_path / "net.ckpt", dataclasses.replace(card, preprocessing=preprocessing))
    source, losses = open_source(tiny.config.data, "test"), {}
    for asked, resizer in ((None, "mindspore"), ("pillow", "pillow"), ("device", "device")):
        result = evaluate_model(EvalConfig(str(tmp_path / "net.ckpt"), batch_size=50, resizer=asked), CPU)
        expected = evaluate(net, source, dataclasses.replace(preprocessing, resizer=resizer), 50, 1).loss
        assert (result["resizer"], result["loss"]) == (resizer, pytest.approx(expected, rel=1e-6))
        losses[resizer] = expected
    assert losses["mindspore"] != pytest.approx(losses["pillow"], rel=1e-5)
    assert losses["mindspore"] != losses["device"] == pytest.approx(losses["mindspore"], rel=1e-2)


def test_a_checkpoint_for_images_of_any_size_cannot_have_them_resized_on_the_device(tiny, tmp_path):
    net, card = load_network(tiny.folder / "best.ckpt")
    preprocessing = dataclasses.replace(card.preprocessing, native_size=None)
    save_checkpoint(net, tmp_path / "net.ckpt", dataclasses.replace(card, preprocessing=preprocessing))
    config = EvalConfig(str(tmp_path / "net.ckpt"), resizer="device", output_path=str(tmp_path / "e"))
    with pytest.raises(UserError, match="resizer: device takes images that all have one size"):
        evaluate_model(config, CPU)
    assert not (tmp_path / "e").exists()


def test_flips_are_the_mean_over_an_image_and_its_mirror_image(tiny, evaluated, tmp_path, no_pictures):
    net, card = load_network(tiny.folder / "best.ckpt")
    source = open_source(tiny.config.data, "test")
    inputs = np.stack([card.preprocessing(source.image(i)) for i in range(len(source))])
    mirrored = np.ascontiguousarray(inputs[:, :, :, ::-1])
    logits = (net(Tensor(inputs)).asnumpy() + net(Tensor(mirrored)).asnumpy()) / 2
    config = EvalConfig(str(tiny.folder / "best.ckpt"), batch_size=50, tta="flip", output_path=str(tmp_path / "flip"))
    result = evaluate_model(config, CPU)
    assert (evaluated[0]["tta"], result["tta"]) == ("none", "flip")
    assert result["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == source.labels))
    log_probabilities = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert result["loss"] == pytest.approx(-log_probabilities[range(359), source.labels].mean(), abs=1e-4)
    assert result["loss"] != pytest.approx(evaluated[0]["loss"], abs=1e-3)


def test_val_is_the_slice_that_the_run_set_aside(tiny, tmp_path, no_pictures):
    config = EvalConfig(str(tiny.folder / "best.ckpt"), split="val", batch_size=50, output_path=str(tmp_path / "val"))
    result = evaluate_model(config, CPU)
    assert result["images"] == 143
    assert result["accuracy"] == tiny.result["validation"]["accuracy"]


def test_results_lie_beside_the_checkpoint_unless_a_folder_is_given(tiny, tmp_path, no_pictures):
    net, card = load_network(tiny.folder / "best.ckpt")
    save_checkpoint(net, tmp_path / "mine.ckpt", card)
    result = evaluate_model(EvalConfig(str(tmp_path / "mine.ckpt"), batch_size=50), CPU)
    assert result["output_path"] == str(tmp_path / "eval_mine_test")
    assert (tmp_path / "eval_mine_test" / "result.json").is_file()


def test_a_data_set_of_other_classes_is_refused_with_both_lists_before_a_folder_is_made(tiny, tmp_path, made_images):
    train, test = ((split.images, split.labels) for split in (made_images.train, made_images.test))
    write_cifar10(tmp_path, train, test)
    config = EvalConfig(
        str(tiny.folder / "best.ckpt"), dataset="cifar10", data_path=str(tmp_path), output_path=str(tmp_path / "eval")
    )
    with pytest.raises(UserError, match=r"10 classes 0, 1, 2, 3, \.\.\.; cifar10 has the 10 classes airplane"):
        evaluate_model(config, CPU)
    assert not (tmp_path / "eval").exists()


def test_a_data_set_with_more_classes_than_the_network_is_refused(tiny, tmp_path):
    images = {str(i): np.zeros((1, 8, 8, 3), np.uint8) for i in (*range(10), "more")}
    write_image_folder(tmp_path, {"train": images, "val": images})
    with pytest.raises(UserError, match=r"was trained on the 10 classes.*has the 11 classes"):
        evaluate_model(EvalConfig(str(tiny.folder / "best.ckpt"), dataset="image_folder", data_path=str(tmp_path)), CPU)


def test_a_split_that_the_data_set_lacks_is_refused(tiny, tmp_path):
    images = {str(i): np.zeros((1, 8, 8, 3), np.uint8) for i in range(10)}
    write_image_folder(tmp_path, {"train": images, "val": images})
    config = EvalConfig(str(tiny.folder / "best.ckpt"), dataset="image_folder", data_path=str(tmp_path), split="test")
    with pytest.raises(UserError, match="no such folder"):
        evaluate_model(config, CPU)


@pytest.fixture
def two_classes(tiny, tmp_path):
    """A data set of six black images of one class and none of the other, and a net that takes all for class 0."""
    black = np.zeros((6, 8, 8, 3), np.uint8)
    write_image_folder(tmp_path, {"train": {"a, b": black, "c": black}, "val": {"a, b": black, "c": black[:0]}})
    net = SqueezeNet(2, "cifar", base_e=8, incr_e=8, final_relu=False)
    net.classifier[1].bias.set_data(Tensor(np.array([50, 0], np.float32)))
    card = load_network(tiny.folder / "best.ckpt")[1]
    model = {"num_classes": 2, "version": "cifar", "base_e": 8, "incr_e": 8, "final_relu": False}
    card = dataclasses.replace(card, model=model, classes=["a, b", "c"], dataset="image_folder", val_split=0.0)
    save_checkpoint(net, tmp_path / "net.ckpt", card)
    return EvalConfig(str(tmp_path / "net.ckpt"), data_path=str(tmp_path), output_path=str(tmp_path / "eval"))


def test_a_class_without_images_has_no_accuracy_and_names_with_commas_are_quoted(two_classes, tmp_path):
    result = evaluate_model(two_classes, CPU)
    assert result["accuracy_per_class"] == {"a, b": 1.0, "c": None}
    assert json.loads((tmp_path / "eval" / "result.json").read_text())["accuracy_per_class"]["c"] is None
    with open(tmp_path / "eval" / "confusion_matrix.csv", newline="") as stream:
        assert list(csv.reader(stream)) == [["true \\ predicted", "a, b", "c"], ["a, b", "6", "0"], ["c", "0", "0"]]


def test_without_mistakes_a_former_gallery_of_mistakes_goes(two_classes, tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "worst_mistakes.png").write_bytes(b"of a worse network")
    assert evaluate_model(two_classes, CPU)["accuracy"] == 1
    assert not (tmp_path / "eval" / "worst_mistakes.png").exists()


def test_the_gallery_shows_the_worst_mistakes_first(tiny, tmp_path, monkeypatch):
    shown = {}
    monkeypatch.setattr("src.visualize.save", lambda figure, path: shown.update({path.name: figure}))
    config = EvalConfig(str(tiny.folder / "best.ckpt"), batch_size=50, output_path=str(tmp_path / "eval"))
    evaluate_model(config, CPU)
    net, card = load_network(tiny.folder / "best.ckpt")
    source = open_source(tiny.config.data, "test")
    inputs = np.stack([card.preprocessing(source.image(i)) for i in range(len(source))])
    logits = net(Tensor(inputs)).asnumpy()
    wrong = np.flatnonzero(logits.argmax(1) != source.labels)
    own = np.exp(logits)[np.arange(len(source)), source.labels] / np.exp(logits).sum(1)
    worst = wrong[np.argmin(own[wrong])]
    gallery = shown["worst_mistakes.png"]
    assert len(gallery.axes) == min(32, len(wrong))
    assert np.array_equal(gallery.axes[0].images[0].get_array(), source.image(int(worst)))
    first, second = gallery.axes[0].get_title().splitlines()
    assert first.startswith(f"{logits[worst].argmax()} (")
    assert second == f"true: {source.labels[worst]} ({own[worst]:.{1 if own[worst] < 0.01 else 0}%})"
    assert gallery.get_suptitle().endswith(f"{len(wrong)} wrong among {len(source)} images")
    assert "best.ckpt on digits test" in shown["confusion_matrix.png"].axes[0].get_title()


@pytest.mark.parametrize("name", ["file", "file/inside"])
def test_a_folder_that_cannot_be_made_is_refused(tiny, tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"this is a file|cannot write here"):
        evaluate_model(EvalConfig(str(tiny.folder / "best.ckpt"), output_path=str(tmp_path / name)), CPU)
    assert (tmp_path / "file").read_text() == "mine"
