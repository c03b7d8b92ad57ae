"""docs/DEPLOYMENT.md: its programs, which know a model's file and the .json next to it and nothing of this project."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from src.config import DeviceConfig
from src.dataset.preprocessing import FITS, NORMALIZATIONS, RESIZERS, Preprocessing
from src.dataset.source import load_image
from src.inference.classify import infer
from src.inference.config import ExportConfig, InferConfig
from src.inference.export import export_checkpoint
from src.sqz.fileformat import encode
from tests.made_models import write_checkpoint
from tests.programs import ROOT

CPU = DeviceConfig(device_target="CPU", mode="pynative")
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "DEPLOYMENT.md").read_text(), re.DOTALL)
CLASSIFY, PREPARE, DECODE = BLOCKS
# Of photographs: larger than the net's images and smaller, upright and wide, even and odd.
SIZES = [(40, 57), (61, 33), (150, 100), (20, 31), (9, 20), (11, 7), (24, 24)]
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of smooth pictures with some noise, in several sizes; one is turned by its EXIF entry, one is grey."""
    folder, random = tmp_path_factory.mktemp("photographs"), np.random.RandomState(0)
    for i, (height, width) in enumerate(SIZES):
        small = Image.fromarray(random.randint(0, 256, (5, 5, 3)).astype(np.uint8)).resize((width, height))
        pixels = np.asarray(small, int) + random.randint(-20, 21, (height, width, 3))
        picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6 if i == 0 else 1
        (picture.convert("L") if i == 1 else picture).save(folder / f"{i}.png", exif=exif)
    return folder


def preprocessing(fit: str, resizer: str, normalize: str = "dataset") -> Preprocessing:
    native = 20 if resizer == "device" or fit == "crop" else None
    return Preprocessing(16, fit, normalize, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), native, resizer)


def of_grey(fit: str, resizer: str, normalize: str = "dataset") -> Preprocessing:
    made = preprocessing(fit, resizer, normalize)
    return dataclasses.replace(made, mean=(0.4,), std=(0.2,))


def program(text: str) -> dict:
    names: dict = {}
    exec(compile(text, "docs/DEPLOYMENT.md", "exec"), names)
    return names


@pytest.mark.parametrize("pixels", [False, True], ids=["float32", "uint8"])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("resizer, normalize", [*zip(RESIZERS, [*NORMALIZATIONS, "dataset"]), ("device", "per_image")])
def test_the_steps_followed_literally_give_the_networks_input(photographs, fit, resizer, normalize, pixels):
    by_project = preprocessing(fit, resizer, normalize)
    steps = json.loads(json.dumps(by_project.steps(pixels)))
    prepare = program(PREPARE)["prepare"]
    for file in sorted(photographs.iterdir()):
        expected = (by_project.fit_image if pixels else by_project)(load_image(file))
        found = prepare(file, steps)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        # MindSpore's fast operator rounds a few sums to the other side.
        grey_level = 1 if pixels else 1.01 / (255 * 0.2)
        difference = np.abs(found.astype(float) - expected)
        if normalize == "per_image" and not pixels:
            assert difference.max() < 0.05
        elif resizer == "mindspore" and fit != "crop":
            assert difference.max() <= grey_level and difference.mean() < grey_level / 3
        else:
            assert difference.max() < 1e-4


@pytest.mark.parametrize("pixels", [False, True], ids=["float32", "uint8"])
@pytest.mark.parametrize("fit, normalize", [*zip(FITS, [*NORMALIZATIONS, "dataset"])])
def test_the_steps_give_the_input_of_a_network_of_grey_images(photographs, fit, normalize, pixels):
    by_project = of_grey(fit, "pillow", normalize)
    prepare = program(PREPARE)["prepare"]
    for file in sorted(photographs.iterdir()):
        expected = (by_project.fit_image if pixels else by_project)(load_image(file))
        found = prepare(file, json.loads(json.dumps(by_project.steps(pixels))))
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        assert np.abs(found.astype(float) - expected).max() < 1e-4


@pytest.mark.parametrize("fit", FITS)
def test_the_pages_program_gives_the_answers_of_infer(photographs, tmp_path, fit):
    made = preprocessing(fit, "mindspore")
    checkpoint = write_checkpoint(tmp_path, preprocessing=made)
    file = export_checkpoint(ExportConfig(str(checkpoint), "ONNX", softmax=True), CPU)["file"]
    answers, _ = infer(InferConfig([str(photographs)], model_path=file, output_path=str(tmp_path / "out")), CPU)
    steps, prepare = json.loads((tmp_path / "net.onnx.json").read_text())["steps"], program(PREPARE)["prepare"]
    model = onnxruntime.InferenceSession(file)
    for answer in answers:
        (probabilities,) = model.run(None, {"image": prepare(answer["file"], steps)[None]})[0]
        best = answer["top_k"][0]
        assert probabilities.argmax() == best["index"]
        assert probabilities.max() == pytest.approx(best["probability"], abs=0.01)


@pytest.mark.parametrize("file_format, keys", [("ONNX", {"uint8_input": True}), ("ONNX", {}), ("MINDIR", {})])
def test_a_network_of_grey_images_predicts_the_same_once_exported(photographs, tmp_path, file_format, keys):
    checkpoint = write_checkpoint(tmp_path, preprocessing=of_grey("center_crop", "pillow"), in_channels=1)
    out, images = str(tmp_path / "out"), [str(photographs)]
    answers, _ = infer(InferConfig(images, ckpt_path=str(checkpoint), output_path=out, cam=True), CPU)
    file = export_checkpoint(ExportConfig(str(checkpoint), file_format, **keys), CPU)["file"]
    again, _ = infer(InferConfig(images, model_path=file, output_path=out + "2"), CPU)
    for one, other in zip(answers, again):
        assert one["top_k"][0]["index"] == other["top_k"][0]["index"]
        assert one["top_k"][0]["probability"] == pytest.approx(other["top_k"][0]["probability"], abs=1e-4)


def test_the_pages_short_program_prints_the_class_that_infer_gives(photographs, tmp_path, monkeypatch, capsys):
    checkpoint = write_checkpoint(tmp_path, preprocessing=preprocessing("crop", "mindspore"))
    keys = {"uint8_input": True, "softmax": True, "file_name": str(tmp_path / "best")}
    file = export_checkpoint(ExportConfig(str(checkpoint), "ONNX", **keys), CPU)["file"]
    answers, _ = infer(InferConfig([str(photographs)], model_path=file, output_path=str(tmp_path / "out")), CPU)
    monkeypatch.chdir(tmp_path)
    assert len(CLASSIFY.strip().splitlines()) <= 20
    for answer in answers:
        shutil.copy(answer["file"], tmp_path / "photo.jpg")
        capsys.readouterr()
        program(CLASSIFY)
        best = answer["top_k"][0]
        assert capsys.readouterr().out == f"{best['name']} {best['probability']:.1%}\n"


def test_the_page_decodes_a_compressed_file(tmp_path, monkeypatch, capsys):
    parameters = {"features.0.weight": np.random.RandomState(0).standard_normal((4, 3, 3, 3)).astype(np.float32)}
    (tmp_path / "best.sqz").write_bytes(encode(parameters, {"classes": ["a", "b"]}))
    monkeypatch.chdir(tmp_path)
    decoded = program(DECODE)["parameters"]
    assert np.array_equal(decoded["features.0.weight"], parameters["features.0.weight"])
    assert capsys.readouterr().out.splitlines() == ["['a', 'b']", "features.0.weight (4, 3, 3, 3)"]


def test_the_page_explains_every_key_and_step(tmp_path):
    page = (ROOT / "docs" / "DEPLOYMENT.md").read_text()
    export_checkpoint(ExportConfig(str(write_checkpoint(tmp_path)), "ONNX"), CPU)
    for key in json.loads((tmp_path / "net.onnx.json").read_text()):
        assert f"`{key}" in page, key
    made = [preprocessing(fit, resizer, n) for fit in FITS for resizer in RESIZERS for n in NORMALIZATIONS]
    for step in (step for one in made for step in one.steps(pixels=False)):
        assert all(
            f"`{word}`" in page for word in (step["step"], *step) if word not in ("step", "mode", "upright", "to")
        )
