from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

from src import visualize
from src.checkpoint import load_network
from src.cli.errors import UserError
from src.config import DeviceConfig
from src.dataset import open_source
from src.inference.classify import infer, load
from src.inference.config import ExportConfig, InferConfig
from src.inference.evaluation import evaluate
from src.inference.export import export_checkpoint
from src.inference.exported_model import digest
from src.network.cam import heat

pytestmark = pytest.mark.usefixtures("no_pictures")

CPU = DeviceConfig(device_target="CPU")
IMAGE_GRID = visualize.image_grid  # Which no_pictures leaves out.


@pytest.fixture(scope="module")
def digits(tiny, tmp_path_factory):
    """Twelve test images as files, the models of the tiny run that classify them, and the evaluation of them all."""
    folder = tmp_path_factory.mktemp("digits")
    checkpoint, source = tiny.folder / "best.ckpt", open_source(tiny.config.data, "test")
    (folder / "images").mkdir()
    for i in range(12):
        Image.fromarray(source.image(i)).save(folder / "images" / f"{i:02}.png")
    models = {"ckpt": str(checkpoint)}
    for name, file_format, keys in (
        ("mindir", "MINDIR", {"dynamic_batch": True}),
        ("onnx", "ONNX", {"batch_size": 5}),
        ("pixels", "ONNX", {"uint8_input": True, "softmax": True, "dynamic_batch": True}),
    ):
        config = ExportConfig(str(checkpoint), file_format, str(folder / name), **keys)
        models[name] = export_checkpoint(config, CPU)["file"]
    net, card = load_network(checkpoint)
    evaluation = evaluate(net, source, card.preprocessing, 50, 1)
    return SimpleNamespace(images=folder / "images", models=models, evaluation=evaluation)


@pytest.fixture
def galleries(monkeypatch) -> dict:
    """The pictures that would have been written, by their paths."""
    drawn: dict = {}
    monkeypatch.setattr(visualize, "image_grid", IMAGE_GRID)
    monkeypatch.setattr(visualize, "save", lambda figure, path: drawn.update({path: figure}))
    return drawn


def classify(digits, output: Path, model: str = "ckpt", images=None, **keys) -> tuple:
    """Run inference and return predictions.json and the number of files skipped."""
    path = {"ckpt_path" if model == "ckpt" else "model_path": digits.models.get(model, model)}
    config = InferConfig([str(p) for p in images or [digits.images]], output_path=str(output), **path, **keys)
    results, skipped = infer(config, CPU)
    written = json.loads((output / "predictions.json").read_text())
    assert written == results
    return written, skipped


def probabilities_of(predictions: list) -> np.ndarray:
    """Return (images, classes) in the order of the classes."""
    by_index = [sorted(prediction["top_k"], key=lambda entry: entry["index"]) for prediction in predictions]
    return np.array([[entry["probability"] for entry in entries] for entries in by_index])


def test_predictions_have_exactly_the_documented_form(digits, tmp_path):
    predictions, skipped = classify(digits, tmp_path / "out", top_k=3)
    assert skipped == 0 and len(predictions) == 12
    assert [prediction["file"] for prediction in predictions] == [str(digits.images / f"{i:02}.png") for i in range(12)]
    for prediction in predictions:
        assert list(prediction) == ["file", "top_k"] and len(prediction["top_k"]) == 3
        for entry in prediction["top_k"]:
            assert list(entry) == ["index", "name", "probability"]
            assert isinstance(entry["index"], int) and entry["name"] == str(entry["index"])
            assert isinstance(entry["probability"], float) and 0 <= entry["probability"] <= 1
        chances = [entry["probability"] for entry in prediction["top_k"]]
        assert chances == sorted(chances, reverse=True)


def test_an_image_gets_the_class_and_probability_that_evaluation_gives_it(digits, tmp_path):
    predictions, _ = classify(digits, tmp_path / "out", top_k=1, batch_size=5)
    best = [prediction["top_k"][0] for prediction in predictions]
    assert [entry["index"] for entry in best] == digits.evaluation.predictions[:12].tolist()
    np.testing.assert_allclose([entry["probability"] for entry in best], digits.evaluation.confidences[:12], atol=1e-5)


@pytest.mark.parametrize("model", ["mindir", "onnx", "pixels"])
def test_exported_models_give_the_probabilities_of_the_checkpoint(digits, tmp_path, model):
    """`pixels` normalises in its graph, in float32, what the others get normalised by MindSpore's pipeline."""
    expected, _ = classify(digits, tmp_path / "ckpt", top_k=10)
    found, _ = classify(digits, tmp_path / model, model, top_k=10, batch_size=4)
    np.testing.assert_allclose(probabilities_of(found), probabilities_of(expected), atol=1e-5)
    assert np.ptp(probabilities_of(expected)) > 0.3


def test_probabilities_of_all_classes_sum_to_one_also_when_more_are_asked_for(digits, tmp_path):
    predictions, _ = classify(digits, tmp_path / "out", top_k=99)
    assert all(len(prediction["top_k"]) == 10 for prediction in predictions)
    np.testing.assert_allclose(probabilities_of(predictions).sum(1), 1, atol=1e-5)


def test_files_and_folders_mix_in_the_order_given_and_other_files_in_folders_are_passed_over(digits, tmp_path):
    nested = tmp_path / "folder" / "nested"
    nested.mkdir(parents=True)
    Image.new("RGB", (20, 10)).save(nested / "b.JPG", format="JPEG")
    Image.new("L", (1, 1)).save(tmp_path / "folder" / "a.png")
    (tmp_path / "folder" / "notes.txt").write_text("no image")
    Image.new("CMYK", (9, 9)).save(tmp_path / "no_suffix", format="TIFF")
    paths = [digits.images / "03.png", tmp_path / "folder", tmp_path / "no_suffix"]
    predictions, skipped = classify(digits, tmp_path / "out", images=paths)
    files = [str(paths[0]), str(tmp_path / "folder" / "a.png"), str(nested / "b.JPG"), str(tmp_path / "no_suffix")]
    assert [prediction["file"] for prediction in predictions] == files and skipped == 0


def test_the_gallery_shows_each_image_with_its_likeliest_class(digits, tmp_path, galleries, monkeypatch):
    monkeypatch.setattr("src.inference.classify.GALLERY_IMAGES", 9)
    predictions, _ = classify(digits, tmp_path / "out", batch_size=5)
    figure = galleries[tmp_path / "out" / "predictions.png"]
    assert len(figure.axes) == 9
    best = [prediction["top_k"][0] for prediction in predictions]
    assert figure.axes[7].get_title() == f"{best[7]['name']} ({best[7]['probability']:.0%})"
    assert figure.axes[7].get_xlabel() == "07.png"
    assert np.array_equal(figure.axes[7].images[0].get_array(), np.asarray(Image.open(digits.images / "07.png")))
    assert figure.get_suptitle() == f"Predictions of {Path(digits.models['ckpt']).name}: 9 of 12 images"


@pytest.mark.parametrize("kind", ["ckpt", "onnx"])
def test_a_loaded_model_predicts_a_file_or_an_array_as_the_program_does(digits, tmp_path, kind):
    predictions, _ = classify(digits, tmp_path / "out", kind, images=[digits.images / "07.png"], top_k=3)
    model, file = load(digits.models[kind], CPU), digits.images / "07.png"
    for image in (file, str(file), np.asarray(Image.open(file))):
        found = model.predict(image, top_k=3)
        assert [entry["name"] for entry in found] == [entry["name"] for entry in predictions[0]["top_k"]]
        np.testing.assert_allclose(probabilities_of([{"top_k": found}]), probabilities_of(predictions), atol=1e-5)


def test_features_are_the_mean_of_the_last_feature_map_of_each_file(digits, tmp_path):
    predictions, _ = classify(digits, tmp_path / "out", batch_size=5, top_k=99, features=True)
    written = np.load(tmp_path / "out" / "features.npz")
    features = written["features"]
    assert written["files"].tolist() == [prediction["file"] for prediction in predictions]
    assert features.dtype == np.float32 and features.shape == (12, 256)
    net, card = load_network(digits.models["ckpt"])
    inputs = card.preprocessing(np.asarray(Image.open(digits.images / "07.png")))
    np.testing.assert_allclose(features[7], net.features(Tensor(inputs[None])).asnumpy().mean((0, 2, 3)), atol=1e-5)
    classify(digits, tmp_path / "plain")
    assert not (tmp_path / "plain" / "features.npz").exists()


def test_the_gallery_shows_on_request_where_the_class_was_seen(digits, tmp_path, galleries):
    predictions, _ = classify(digits, tmp_path / "out", batch_size=5, cam=True)
    pictures = [axes.images[0].get_array() for axes in galleries[tmp_path / "out" / "predictions.png"].axes]
    images, overlays = pictures[::2], pictures[1::2]
    assert len(images) == len(overlays) == 12
    net, card = load_network(digits.models["ckpt"])
    for i in (0, 7):
        inputs, predicted = card.preprocessing(images[i])[None], predictions[i]["top_k"][0]["index"]
        map_of_class = net.classifier(net.features(Tensor(inputs))).asnumpy()[0, predicted]
        expected = visualize.overlay(card.preprocessing.undo(inputs)[0], heat(net, map_of_class, 16))
        np.testing.assert_allclose(overlays[i].astype(int), expected, atol=1)


@pytest.mark.parametrize("key", ["features", "cam"])
def test_what_an_exported_model_does_not_give_is_refused_before_anything_is_written(digits, tmp_path, key):
    with pytest.raises(UserError, match=f"^{key}: .*give the checkpoint with --ckpt_path$"):
        classify(digits, tmp_path / "out", "onnx", **{key: True})
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_image_is_named_and_left_out(digits, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no image")
    whole = (digits.images / "00.png").read_bytes()
    (tmp_path / "short.png").write_bytes(whole[: len(whole) // 2])
    paths = [tmp_path / "broken.png", digits.images / "00.png", tmp_path / "short.png"]
    predictions, skipped = classify(digits, tmp_path / "out", images=paths)
    assert [prediction["file"] for prediction in predictions] == [str(digits.images / "00.png")] and skipped == 2
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2 and "broken.png: not an image" in warnings[0] and "short.png: cannot read" in warnings[1]


def test_when_no_file_is_an_image_nothing_is_written(digits, tmp_path, capsys):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"broken.png: not an image"):
        classify(digits, tmp_path / "out", images=[tmp_path / "broken.png"])
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="none of the 2 files is a readable image"):
        classify(digits, tmp_path / "out", images=[tmp_path / "broken.png"] * 2)
    assert len(capsys.readouterr().err.splitlines()) == 2
    assert not (tmp_path / "out" / "predictions.json").exists()


def test_a_path_that_is_not_there_is_named_and_left_out_when_there_are_others(digits, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    paths = ["nowhere.png", digits.images / "00.png", tmp_path / "empty"]
    predictions, skipped = classify(digits, tmp_path / "out", images=paths)
    assert [prediction["file"] for prediction in predictions] == [str(digits.images / "00.png")] and skipped == 2
    first, second = capsys.readouterr().err.splitlines()
    assert first == "warning: skipped: nowhere.png: there is no such file or folder"
    assert second == f"warning: skipped: {tmp_path / 'empty'}: no images in this folder"


def test_large_images_are_shown_small(digits, tmp_path, galleries):
    Image.new("RGB", (2000, 1000), (9, 99, 199)).save(tmp_path / "large.png")
    classify(digits, tmp_path / "out", images=[tmp_path / "large.png"])
    (gallery,) = galleries.values()
    shown = gallery.axes[0].images[0].get_array()
    assert shown.shape == (128, 256, 3) and (shown == (9, 99, 199)).all()


def test_a_model_with_another_sum_than_its_specification_gives_is_refused(digits, exported, tmp_path):
    specification = Path(f"{exported}.json")
    values = json.loads(specification.read_text())
    specification.write_text(json.dumps({**values, "sha256": digest(exported)}))
    classify(digits, tmp_path / "out", images=[digits.images / "00.png"], model=str(exported))
    specification.write_text(json.dumps({**values, "sha256": "0" * 64}))
    message = f"{exported}: damaged, or not the model that {specification} describes"
    refused(message, tmp_path / "none", images=[str(digits.images)], model_path=str(exported))


def refused(message: str, output: Path, device: DeviceConfig = CPU, **keys) -> None:
    """Check that inference ends with this message and makes no folder."""
    with pytest.raises(UserError, match=message) as caught:
        infer(InferConfig(output_path=str(output), **keys), device)
    assert "\n" not in str(caught.value) and not output.exists()


def test_a_path_that_is_not_there_and_a_folder_without_images_are_refused(digits, tmp_path):
    model = {"ckpt_path": digits.models["ckpt"]}
    refused("nowhere.png: there is no such file or folder", tmp_path / "out", images=["nowhere.png"], **model)
    (tmp_path / "empty").mkdir()
    refused("empty: no images in this folder", tmp_path / "out", images=[str(tmp_path / "empty")], **model)


def test_exactly_one_model_has_to_be_given(digits, tmp_path):
    both = {"ckpt_path": digits.models["ckpt"], "model_path": digits.models["onnx"]}
    for keys in ({}, both):
        refused("give either --ckpt_path", tmp_path / "out", images=[str(digits.images)], **keys)


@pytest.fixture(params=["mindir", "onnx"])
def exported(request, digits, tmp_path):
    """A copy of an exported model and of the specification beside it."""
    original = Path(digits.models[request.param])
    for suffix in ("", ".json"):
        (tmp_path / (original.name + suffix)).write_bytes((original.parent / (original.name + suffix)).read_bytes())
    return tmp_path / original.name


@pytest.mark.parametrize("content", [b"", os.urandom(3000)], ids=["empty", "random"])
def test_a_damaged_model_is_refused_by_name(digits, exported, tmp_path, content):
    exported.write_bytes(content)
    message = f"{exported}: damaged, or not the model that "
    refused(message, tmp_path / "out", images=[str(digits.images)], model_path=str(exported))


def test_a_model_that_is_not_there_is_called_missing(digits, exported, tmp_path):
    exported.unlink()
    refused("there is no such model", tmp_path / "out", images=[str(digits.images)], model_path=str(exported))


def test_a_model_without_its_specification_is_refused_with_what_to_do(digits, exported, tmp_path):
    specification = Path(f"{exported}.json")
    specification.unlink()
    message = f"{specification}: not found; keep next to the model"
    refused(message, tmp_path / "out", images=[str(digits.images)], model_path=str(exported))


def foreign_specifications() -> dict:
    whole = {
        "input": {"shape": [1, 3, 16, 16], "dtype": "float32"},
        "output": {"what": "logits"},
        "classes": ["a", "b"],
        "preprocessing": {"image_size": 16, "fit": "resize", "normalize": "dataset", "mean": [0.5], "std": [0.5]},
    }
    return {
        "no JSON": "model: squeezenet",
        "list": "[1]",
        "empty": "{}",
        "other preprocessing": json.dumps({**whole, "preprocessing": {"resize": 224}}),
        "text preprocessing": json.dumps({**whole, "preprocessing": "none"}),
        "no dtype": json.dumps({**whole, "input": {"shape": [1, 3, 16, 16]}}),
    }


@pytest.mark.parametrize("kind", foreign_specifications())
def test_a_specification_of_another_making_is_refused(digits, tmp_path, kind):
    (tmp_path / "net.onnx").write_bytes(Path(digits.models["onnx"]).read_bytes())
    (tmp_path / "net.onnx.json").write_text(foreign_specifications()[kind])
    message = "net.onnx.json: not the specification that export.py writes"
    refused(message, tmp_path / "out", images=[str(digits.images)], model_path=str(tmp_path / "net.onnx"))


def test_a_model_of_a_kind_that_does_not_run_here_is_refused(digits, exported, tmp_path):
    for suffix in ("", ".json"):
        Path(f"{exported}{suffix}").rename(tmp_path / f"net.air{suffix}")
    message = "net.air: not a kind of model that runs here: .mindir or .onnx"
    refused(message, tmp_path / "out", images=[str(digits.images)], model_path=str(tmp_path / "net.air"))


def test_an_output_path_that_is_a_file_is_refused(digits, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="this is a file, not a folder"):
        classify(digits, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_an_onnx_model_needs_no_device(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("src.inference.classify.select_device", lambda config: pytest.fail("asked for a device"))
    predictions, _ = classify(digits, tmp_path / "out", "onnx")
    assert len(predictions) == 12


def test_a_classifier_takes_the_size_and_fit_of_its_card_not_of_the_image(digits, tmp_path):
    """The same picture, four times as large without interpolation, is the same to a net that resizes."""
    small = Image.open(digits.images / "05.png")
    small.resize((32, 32), Image.Resampling.NEAREST).resize((8, 8), Image.Resampling.NEAREST).save(
        tmp_path / "same.png"
    )
    small.convert("RGBA").save(tmp_path / "alpha.png")
    predictions, _ = classify(
        digits,
        tmp_path / "out",
        images=[digits.images / "05.png", tmp_path / "same.png", tmp_path / "alpha.png"],
        top_k=10,
    )
    first, *others = probabilities_of(predictions)
    for other in others:
        np.testing.assert_allclose(other, first, atol=1e-6)


def test_a_checkpoint_that_is_missing_is_refused_before_a_folder_is_made(digits, tmp_path):
    refused("no such checkpoint", tmp_path / "out", images=[str(digits.images)], ckpt_path="nowhere.ckpt")
    strict = dataclasses.replace(CPU, strict_device=True)
    refused("no such checkpoint", tmp_path / "out", strict, images=[str(digits.images)], ckpt_path="nowhere.ckpt")
