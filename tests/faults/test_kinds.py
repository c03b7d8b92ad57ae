"""Files of other kinds than a program reads: the message names the kind, and what to do with such a file."""

from __future__ import annotations

import io
import zipfile

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

from src.checkpoint import load_network
from src.compression.reading import read_weights
from src.conversion.converting import FORMATS
from src.files.kinds import KINDS, kind_of
from src.sqz.fileformat import encode
from tests.conversion.made_caffemodel import caffemodel
from tests.conversion.made_weights import SMALL, random_tensors
from tests.programs import one_line_error


def zipped(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, b"content")
    return stream.getvalue()


@pytest.fixture(scope="module")
def contents(models, tmp_path_factory) -> dict[str, list[bytes]]:
    """Files of each kind."""
    _, card = load_network(models.ckpt)
    written = {
        kind: form.write(random_tensors(SMALL, form.naming), card) for kind, form in FORMATS.items() if form.write
    }
    zoo = tmp_path_factory.mktemp("kinds") / "zoo.ckpt"
    ms.save_checkpoint([{"name": "conv1.weight", "data": ms.Tensor(np.zeros((4, 3, 3, 3), np.float32))}], str(zoo))
    return {
        "lfs": [b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4956208\n"],
        "page": [
            b"<!DOCTYPE html><html>",
            b"\n <HTML lang='en'>",
            b"\xef\xbb\xbf<!doctype html>",
            b"<?xml version='1.0'?>",
        ],
        "sqz": [encode(read_weights(str(models.ckpt))[0], card.to_json())],
        "checkpoint": [models.ckpt.read_bytes()],
        "mindspore": [zoo.read_bytes()],
        "mindir": [models.mindir.read_bytes()],
        "onnx": [models.onnx.read_bytes()],
        "torchvision": [
            *(written["torchvision"], zipped("net/data.pkl"), zipped("module/code/__torch__.py")),
            b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.",
        ],
        "safetensors": [written["safetensors"]],
        "npz": [written["npz"]],
        "caffemodel": [caffemodel()],
        "prototxt": [b'name: "SqueezeNet"\nlayer {', b"# as published\nlayers {\n  type: DATA"],
        "hdf5": [b"\x89HDF\r\n\x1a\n" + bytes(100)],
        "tflite": [b"\x1c\0\0\0TFL3" + bytes(100)],
        "archive": [zipped("squeezenet.pth"), b"\x1f\x8b\x08" + bytes(100)],
    }


def test_each_kind_is_known_by_its_first_bytes(contents, tmp_path):
    assert contents.keys() == KINDS.keys()
    for kind, files in contents.items():
        for content in files:
            (tmp_path / "file").write_bytes(content)
            assert kind_of(tmp_path / "file") == kind, content[:40]


@pytest.mark.parametrize("content", [b"", b"\x08", b"text\n", b"\x0a" * 50, b"\x08\x01\x12", bytes(100), b"\xff" * 100])
def test_other_contents_have_no_kind(tmp_path, content):
    (tmp_path / "file").write_bytes(content)
    assert kind_of(tmp_path / "file") is None and kind_of(tmp_path) is None


CPU = ("--device_target", "CPU")
IMAGES = ("--images", "1.png", "--output_path", "out", *CPU)
DIGITS = ("--dataset", "digits", "--output_path", "out", *CPU)
# Program, its flags with a file, and the kinds that it reads.
READERS = {
    "infer, checkpoint": (("infer", *IMAGES, "--ckpt_path"), ".ckpt", ("checkpoint", "mindspore")),
    "infer, .pth": (("infer", *IMAGES, "--ckpt_path"), ".pth", ()),
    "infer, positional .pth": (("infer", *IMAGES), ".pth", ()),
    "infer, .sqz": (("infer", *IMAGES, "--ckpt_path"), ".sqz", ("sqz",)),
    "infer, .onnx": (("infer", *IMAGES, "--model_path"), ".onnx", ("onnx",)),
    "eval, checkpoint": (("eval", *DIGITS, "--ckpt_path"), ".ckpt", ("checkpoint", "mindspore")),
    "eval, .pt as exported model": (("eval", *DIGITS, "--model_path"), ".pt", ("onnx", "mindir")),
    "eval, .mindir": (("eval", *DIGITS, "--model_path"), ".mindir", ("mindir",)),
    "export": (("export", *CPU, "--ckpt_path"), ".pth", ()),
    "compress": (("compress", "--output_path", "out", "--ckpt_path"), ".pth", ()),
    "compress, .net": (("compress", "--output_path", "out", "--ckpt_path"), ".net", ()),
    "compress --decompress": (("compress", "--output_path", "out", "--decompress"), ".sqz", ("sqz",)),
    "train": (("train", "--version", "cifar", *DIGITS, "--pretrained"), ".pth", ()),
    "convert --to": (("convert", "--to", "npz", "out.npz", "--ckpt_path"), ".ckpt", ("checkpoint", "mindspore")),
    **{
        f"convert --from {form}": (("convert", "--ckpt_path", "out.ckpt", "--from", form), ".pth", (form,))
        for form in FORMATS
    },
}


@pytest.mark.parametrize("reader", READERS)
def test_a_file_of_another_kind_is_named_with_what_to_do(faults, program, contents, tmp_path, monkeypatch, reader):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (16, 16)).save("1.png")
    arguments, suffix, own = READERS[reader]
    file = f"net{suffix}"
    with faults(f"files of another kind, {reader}", "named, with what to do") as inject:
        for kind, (content, *_) in contents.items():
            if kind in own:
                continue
            (tmp_path / file).write_bytes(content)
            with inject.fault(kind):
                line = one_line_error(program(*arguments, file))
                assert line.startswith(f"error: {file}: is {KINDS[kind].what}; "), line
                if "{command}" in KINDS[kind].advice:
                    name = "net_converted" if suffix == ".ckpt" else "net"
                    assert f"python convert.py --from {kind} {file} --ckpt_path {name}.ckpt" in line
                assert {path.name for path in tmp_path.iterdir()} == {"1.png", file}


def test_an_onnx_model_of_another_program_is_to_be_converted(program, contents, tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "1.png")
    (tmp_path / "net.onnx").write_bytes(contents["onnx"][0])
    line = one_line_error(program("infer", *IMAGES, "--model_path", "net.onnx", cwd=tmp_path))
    assert line.startswith("error: net.onnx.json: not found; ")
    assert line.endswith("python convert.py --from onnx net.onnx --ckpt_path net.ckpt")
