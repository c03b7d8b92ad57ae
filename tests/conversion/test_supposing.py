"""What a file does not tell: assumed and said, given by flags, or asked for."""

from __future__ import annotations

import shlex

import numpy as np
import onnx
import pytest

from src.checkpoint import load_network
from src.conversion.config import parse_convert
from src.conversion.converting import FORMATS, export_weights, import_network, imported
from src.conversion.onnx_files import read_onnx
from src.conversion.origins import CAFFE, CAFFE2, RGB
from src.conversion.supposing import IMAGES, NETWORK
from src.conversion.torch_files import write_torch
from tests.conversion.made_weights import config, random_tensors
from tests.made_data import refusal
from tests.made_models import write_checkpoint
from tests.programs import one_line_error

PUBLISHED = {"num_classes": 3, "version": "1_1"}


def pth(folder, **model):
    path = folder / "net.pth"
    path.write_bytes(write_torch(random_tensors({**PUBLISHED, **model}, "torchvision"), None))
    return path


def test_all_that_is_supposed_is_printed_as_flags_that_give_the_same(tmp_path, program):
    path = pth(tmp_path)
    first = program("convert", "--from", "torchvision", path, "--ckpt_path", tmp_path / "a.ckpt")
    assert first.returncode == 0, first.stderr
    said = next(line for line in first.stdout.splitlines() if line.startswith("assumed"))
    flags = shlex.split(said.partition(": ")[2])
    assert {f"--{key}" for key in (*NETWORK, *IMAGES) if key != "normalize"} == {f for f in flags if f.startswith("--")}
    again = program("convert", "--from", "torchvision", path, "--ckpt_path", tmp_path / "b.ckpt", *flags)
    assert again.returncode == 0 and "\nassumed" not in again.stdout, again.stderr
    assert load_network(tmp_path / "a.ckpt")[1] == load_network(tmp_path / "b.ckpt")[1]
    assert "class names: numbers; --classes FILE gives others" in again.stdout


def test_preprocessing_given_by_flags_is_what_the_card_has(tmp_path):
    flags = "--fit crop --resize 40 --image_size 36 --resizer mindspore --mean 127.5 102 51 --std 51 51 25.5"
    given = parse_convert(["--from", "torchvision", str(pth(tmp_path)), "--ckpt_path", "a.ckpt", *flags.split()], "")
    made = import_network(given)[1].preprocessing
    assert (made.image_size, made.fit, made.native_size, made.resizer) == (36, "crop", 40, "mindspore")
    assert made.mean == pytest.approx((0.5, 0.4, 0.2)) and made.std == pytest.approx((0.2, 0.2, 0.1))
    cut = import_network(config("torchvision", pth(tmp_path), image_size=96, resize=120))[1].preprocessing
    assert (cut.fit, cut.shorter_side) == ("center_crop", 120)


@pytest.mark.parametrize(
    "flags, message",
    [
        ("--mean 0.5 0.5 0.5", "mean and std belong together"),
        ("--mean 0.5 0.5 --std 0.2 0.2", "three values each"),
        ("--mean 0.5 0.5 0.5 --std 0.2", "three values each"),
        ("--mean 0.5 0.5 0.5 --std 0 1 1", "std above 0"),
        ("--mean 300 0 0 --std 1 1 1", "from 0 to 255"),
        ("--mean red --std blue", "mean: 'red' is not allowed"),
        ("--mean 0.5 --std 0.2", "takes 3 channels"),
        ("--fit resize --resize 256", "resize: is for"),
        ("--image_size 96 --resize 64", "resize: 64 is less than image_size 96"),
    ],
)
def test_flags_that_do_not_go_together_are_one_line(tmp_path, program, flags, message):
    done = program(
        "convert", "--from", "torchvision", pth(tmp_path), "--ckpt_path", tmp_path / "a.ckpt", *flags.split()
    )
    assert message in one_line_error(done) and not (tmp_path / "a.ckpt").exists()


def test_flags_change_a_cards_preprocessing_and_not_its_network(tmp_path):
    there = parse_convert(["--to", "torchvision", "x", "--ckpt_path", str(write_checkpoint(tmp_path))], "")
    (tmp_path / "net.pth").write_bytes(export_weights(there)[0])
    card = load_network(tmp_path / "net.ckpt")[1]
    path = tmp_path / "net.pth"
    read = import_network(config("torchvision", path, mean=[0.1, 0.2, 0.3], std=[0.5, 0.5, 0.5]))[1]
    assert read.preprocessing.mean == (0.1, 0.2, 0.3) and read.model == card.model and read.classes == card.classes
    said = refusal(import_network, config("torchvision", path, mean=[0.5], std=[0.5]))
    assert "takes 3 channels" in said
    assert "final_relu: True contradicts" in refusal(import_network, config("torchvision", path, final_relu=True))
    assert "input: bgr contradicts" in refusal(import_network, config("torchvision", path, input="bgr"))


def test_caffe2s_export_is_known_by_its_name_or_that_of_its_input(small_onnx, tmp_path):
    def origin(edit):
        model = onnx.load(small_onnx.onnx)
        edit(model)
        onnx.save(model, tmp_path / "net.onnx")
        return read_onnx(tmp_path / "net.onnx").origin

    def rename_input(model):
        for node in model.graph.node:
            node.input[:] = ["data_0" if name == model.graph.input[0].name else name for name in node.input]
        model.graph.input[0].name = "data_0"

    assert origin(lambda model: None) is None
    assert origin(lambda model: setattr(model, "producer_name", "onnx-caffe2")) is CAFFE2
    assert origin(rename_input) is CAFFE2


def test_what_is_known_to_take_bgr_is_turned_to_rgb(tmp_path, monkeypatch):
    path = pth(tmp_path)
    plain, _ = import_network(config("torchvision", path, input="rgb"))
    form = FORMATS["torchvision"]
    caffe2 = CAFFE2._replace(model=form.origin.model)
    monkeypatch.setitem(FORMATS, "torchvision", form._replace(origin=caffe2))
    net, card, lines = imported(config("torchvision", path))
    turned, kernel = (n.features[0].conv.weight.asnumpy() for n in (net, plain))
    assert (turned == kernel[:, ::-1]).all() and card.preprocessing.mean == CAFFE.mean
    assert any("--input bgr" in line and "Caffe2" in line for line in lines)
    assert import_network(config("torchvision", path, input="rgb"))[1].preprocessing.mean == RGB.mean


@pytest.mark.parametrize("channels", [2, 4])
def test_a_network_of_images_that_do_not_exist_is_refused(tmp_path, channels):
    path = pth(tmp_path, in_channels=channels)
    said = refusal(import_network, config("torchvision", path, mean=[0.5], std=[0.5]))
    assert said == f"{path}: its first convolution takes {channels} channels; images have 3, or 1 if grey"


def test_of_a_network_of_grey_images_mean_and_std_are_asked_for(tmp_path):
    path = pth(tmp_path, in_channels=1)
    assert "give also --mean and --std" in refusal(import_network, config("torchvision", path))
    _, card = import_network(config("torchvision", path, mean=[0.5], std=[0.25]))
    assert card.preprocessing.mean == (0.5,) and card.model["in_channels"] == 1
    assert np.asarray(card.preprocessing(np.zeros((300, 300, 3), np.uint8))).shape == (1, 224, 224)
