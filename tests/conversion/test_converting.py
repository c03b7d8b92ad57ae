"""convert.py: what is recognised, recorded and asked for, and the way there and back."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from src.checkpoint import load_network, save_checkpoint, weights_of
from src.conversion.converting import FORMATS, convert, import_network
from src.conversion.deep_compression import read_published
from src.conversion.npz import write_npz
from src.conversion.safetensors_files import read_safetensors
from src.conversion.torch_files import write_torch
from src.dataset.preprocessing import Preprocessing
from src.model_card import ModelCard
from src.squeezenet import SqueezeNet
from tests.conversion.made_weights import ALL_TOLD, SMALL, TOLD, config, random_tensors
from tests.made_data import refusal


@pytest.fixture(scope="module")
def published(shared):
    return shared / "data" / "imagenet_squeezenet"


def savez(path, tensors):
    np.savez(path, **tensors)
    return path


def foreign_file(folder, file_format: str, tensors) -> Path:
    """Write a file of another system, without a model card, and return its path."""
    path = folder / f"net.{file_format}"
    if file_format == "torchvision":
        path.write_bytes(write_torch(tensors, None))
    elif file_format == "safetensors":
        path.write_bytes(safetensors.numpy.save(tensors))
    else:
        path = savez(folder / "net.npz", tensors)
    return path


def equal(first, second) -> bool:
    """Whether two networks have the same weights bit for bit."""
    one, other = ({n: p.asnumpy().tobytes() for n, p in weights_of(net).items()} for net in (first, second))
    return one == other


@pytest.mark.parametrize(
    "model",
    [
        {"num_classes": 10, "version": "cifar", "bypass": "complex", "batch_norm": "squeeze", "in_channels": 1},
        {"num_classes": 3, "version": "1_1", "squeeze_ratio": 0.5, "base_e": 16, "incr_e": 16, "ceil_mode": True},
        {"num_classes": 10, "version": "cifar", "bypass": "simple", "stem": "small", "final_relu": False},
    ],
)
def test_a_checkpoint_comes_back_bit_for_bit_from_every_format_that_is_written(tmp_path, model):
    channels = model.get("in_channels", 3)
    preprocessing = Preprocessing(32, "resize", "dataset", (0.5,) * channels, (0.25,) * channels)
    names = [f"class {i}" for i in range(model["num_classes"])]
    net, card = SqueezeNet(**model), ModelCard(model, names, preprocessing, "digits", 0.0)
    save_checkpoint(net, tmp_path / "net.ckpt", card)
    for file_format, form in FORMATS.items():
        if form.write is None:
            continue
        file = tmp_path / f"net.{file_format}"
        there = dataclasses.replace(
            config(file_format, file), ckpt_path=str(tmp_path / "net.ckpt"), from_format=None, to_format=file_format
        )
        said = convert(there)
        assert said.startswith(str(file))
        assert ("torchvision has no class for these weights" in said) == (file_format == "torchvision")
        back, read = import_network(config(file_format, file))
        assert equal(back, net) and read == card, file_format


def test_the_published_network_folded_is_the_shared_npz_bit_for_bit(published):
    """The .npz was made from the .net by others, with Caffe's input folded into the first convolution."""
    net, card = import_network(config("net", published / "compressed_SqueezeNet.net", fold_input=True))
    given = {"classifier_padding": 1, "ceil_mode": False}
    other, other_card = import_network(config("npz", published / "squeezenet_v1.0_imagenet_rgb.npz", **given))
    assert equal(net, other) and card.preprocessing == other_card.preprocessing
    assert {**card.model, **other_card.model} == card.model and card.model["version"] == "1_0"
    assert card.preprocessing.image_size == 227 and card.classes[999] == "toilet tissue"


def test_without_folding_the_published_weights_are_those_that_compress_reads(published):
    net, card = import_network(config("net", published / "compressed_SqueezeNet.net"))
    expected = read_published(published / "compressed_SqueezeNet.net")
    assert {n: p.asnumpy().tobytes() for n, p in weights_of(net).items()} == {
        name: array.tobytes() for name, array in expected.items()
    }
    assert card.preprocessing.mean == tuple(n / 255 for n in (123, 117, 104))


def test_what_weights_do_not_tell_is_asked_for_by_name(tmp_path):
    path = savez(tmp_path / "net.npz", random_tensors(SMALL, "caffe"))
    _, card = import_network(config("npz", path, **{**ALL_TOLD, "bypass": "simple", "final_relu": False}))
    told = {**TOLD, "bypass": "simple", "final_relu": False, "stem": "imagenet", "batch_norm": "none"}
    assert card.model == {**SMALL, **told} and card.classes == [str(i) for i in range(10)]
    assert card.preprocessing == Preprocessing(
        32, "resize", "dataset", (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), None, "pillow"
    )


def test_of_a_published_network_in_npz_only_padding_and_rounding_are_asked(tmp_path):
    path = savez(tmp_path / "net.npz", random_tensors({"num_classes": 3, "version": "1_1"}, "caffe"))
    said = refusal(import_network, config("npz", path))
    assert "do not determine the whole network; give also --classifier_padding and --ceil_mode" in said


@pytest.mark.parametrize("file_format", ["torchvision", "safetensors", "npz"])
@pytest.mark.parametrize("model", [SMALL, {"num_classes": 2, "version": "1_1", "batch_norm": "all", "in_channels": 3}])
def test_nothing_is_supposed_of_a_network_that_is_not_a_published_one(tmp_path, file_format, model):
    path = foreign_file(tmp_path, file_format, random_tensors(model, "torchvision"))
    said = refusal(import_network, config(file_format, path))
    assert said.startswith(f"{path}: ") and all(f"--{key}" in said for key in ALL_TOLD)
    for left_out in ("mean", "bypass"):
        told = {key: value for key, value in ALL_TOLD.items() if key != left_out and (left_out, key) != ("mean", "std")}
        assert f"--{left_out}" in refusal(import_network, config(file_format, path, **told))
    import_network(config(file_format, path, **ALL_TOLD))


@pytest.mark.parametrize("naming", ["caffe", "deep_compression", "torchvision"])
def test_each_naming_is_recognised_whatever_the_format(tmp_path, naming):
    tensors = random_tensors({**SMALL, "num_classes": 7, "bypass": "complex"}, naming)
    told = {**ALL_TOLD, "bypass": "complex"}
    net, card = import_network(config("npz", savez(tmp_path / "net.npz", tensors), **told))
    assert (card.model["num_classes"], card.model["bypass"], card.model["version"]) == (7, "complex", "cifar")
    first, *_, last, _ = tensors
    assert (weights_of(net)["features.0.conv.weight"].asnumpy() == tensors[first]).all()
    assert (weights_of(net)["classifier.1.weight"].asnumpy() == tensors[last]).all()


def change(tensors, **changes):
    return {name: array for name, array in {**tensors, **changes}.items() if array is not None}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"conv1.bias": None}, "conv1.bias is missing"),
        ({"fc.weight": np.ones((2, 2), np.float32)}, "fc.weight is not in the network"),
        ({"conv1.bias": np.ones(65, np.float32)}, "conv1.bias is (65,) in the file and (64,) in the network"),
        ({"conv1.bias": np.ones(64, np.int32)}, "conv1.bias is int32, as in a quantised network"),
        ({"conv1.bias": np.array([None] * 64)}, "holds objects"),
        ({"conv1.bias": np.full(64, np.inf, np.float32)}, "features.0.conv.bias holds values that are not finite"),
    ],
)
def test_every_tensor_is_accounted_for(tmp_path, changes, message):
    path = savez(tmp_path / "net.npz", change(random_tensors(SMALL, "caffe"), **changes))
    assert message in refusal(import_network, config("npz", path, **ALL_TOLD))


@pytest.mark.parametrize(
    "dtype, stored",
    [
        ("F64", lambda array: array.astype(np.float64)),
        ("F16", lambda array: array.astype(np.float16)),
        ("BF16", lambda array: (array.view(np.uint32) >> 16).astype(np.uint16)),
    ],
)
def test_safetensors_of_a_training_in_any_precision_are_read(tmp_path, dtype, stored):
    tensors = random_tensors(SMALL, "torchvision")
    arrays = {f"model.module.{name}": stored(array) for name, array in tensors.items()}
    header, content = {}, b""
    for name, array in arrays.items():
        span = [len(content), len(content) + array.nbytes]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": span}
        content += array.tobytes()
    header["model.step"] = {"dtype": "I64", "shape": [], "data_offsets": [len(content), len(content) + 8]}
    text = json.dumps(header).encode()
    path = tmp_path / "net.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + content + bytes(8))
    found = read_safetensors(path).tensors
    assert found.keys() == tensors.keys()
    for name, array in found.items():
        assert array.dtype == np.float32 and np.abs(array - tensors[name]).max() <= 2**-7 * np.abs(array).max()


def test_a_header_of_numpy_that_asks_for_more_than_is_there_is_refused(tmp_path):
    import zipfile

    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(tmp_path / "net.npz", "w") as archive:
        archive.writestr("conv1.weight.npy", stream.getvalue())
    assert "cannot reshape" in refusal(import_network, config("npz", tmp_path / "net.npz", **ALL_TOLD))


def test_damaged_safetensors_and_huge_headers_are_refused(tmp_path):
    from src.conversion.safetensors_files import write_safetensors

    card = ModelCard(SMALL, ["a"] * 10, Preprocessing(32, "resize", "dataset", (0.5,) * 3, (0.5,) * 3), "digits", 0.0)
    whole, path = write_safetensors(random_tensors(SMALL, "torchvision"), card), tmp_path / "net.safetensors"
    path.write_bytes(whole)
    assert read_safetensors(path).card == card
    long = {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    header = json.dumps(long).encode()
    damaged = {
        "nothing": b"",
        "a header of 2**63 bytes": b"\xff" * 7 + b"\x7f" + whole[8:],
        "a header of 99 MB": (99 << 20).to_bytes(8, "little") + whole[8:],
        "a tensor of 4 TiB": len(header).to_bytes(8, "little") + header,
        "no JSON": (4).to_bytes(8, "little") + b"\xff" * 400,
        "a card that is none": whole.replace(b'\\"num_classes\\": 10', b'\\"num_classes\\": 99'),
        "an unknown version": whole.replace(b'\\"cifar\\"', b'\\"cifax\\"'),
        **{f"cut at {size}": whole[:size] for size in (1, 8, 100, 5000, len(whole) - 1)},
    }
    for what, content in damaged.items():
        path.write_bytes(content)
        assert refusal(import_network, config("safetensors", path)).startswith(str(path)), what


@pytest.mark.parametrize("file_format", FORMATS)
def test_another_formats_file_or_none_is_one_line(tmp_path, file_format):
    path = tmp_path / "net.ckpt"
    assert re.search("cannot be read|there is no such", refusal(import_network, config(file_format, path)))
    for content in (b"", b"\0" * 1000, np.random.RandomState(0).bytes(100_000), b"PK\x03\x04" + b"\0" * 100, b"text"):
        path.write_bytes(content)
        assert refusal(import_network, config(file_format, path)).startswith(str(path))


def test_folding_is_refused_where_it_is_not_exact_or_not_needed(tmp_path):
    path = savez(tmp_path / "net.npz", random_tensors(SMALL, "caffe"))
    told = {key: value for key, value in ALL_TOLD.items() if key not in ("mean", "std")}
    assert "has nothing to fold" in refusal(import_network, config("npz", path, **told, fold_input=True, input="rgb"))
    assert "first convolution with zero padding" in refusal(
        import_network, config("npz", path, **told, fold_input=True, input="bgr")
    )


def test_the_program_writes_a_checkpoint_and_no_more_than_that(tmp_path, script, program):
    savez(tmp_path / "net.npz", random_tensors({"num_classes": 3, "version": "1_1"}, "caffe"))
    read = ("--from", "npz", "net.npz", "--ckpt_path", "made/net.ckpt")
    refused = program("convert", *read, cwd=tmp_path)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and not (tmp_path / "made").exists()
    done = script("convert.py", *read, "--ceil_mode", "false", "--classifier_padding", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "version 1_1" in done.stdout and [p.name for p in (tmp_path / "made").iterdir()] == ["net.ckpt"]
    assert load_network(tmp_path / "made" / "net.ckpt")[1].model["classifier_padding"] == 1


def test_arguments_that_do_not_fit_are_one_line(tmp_path):
    from src.conversion.config import parse_convert

    assert "give either --from FORMAT FILE" in refusal(parse_convert, ["--file", "a", "--ckpt_path", "b"], "")
    message = refusal(parse_convert, ["--from", "keras", "a"], "")
    assert message.startswith("--from: 'keras' is not allowed; it takes one of torchvision, ") and "null" not in message
    there = parse_convert(["--to", "npz", "a.npz", "--ckpt_path", "b.ckpt"], "")
    assert (there.to_format, there.file, there.ckpt_path) == ("npz", "a.npz", "b.ckpt")
    (tmp_path / "net.ckpt").write_bytes(b"")
    existing = dataclasses.replace(config("npz", tmp_path / "net.npz"), ckpt_path=str(tmp_path / "net.ckpt"))
    assert "already exists" in refusal(convert, existing)


def test_cards_in_npz_files_are_read(tmp_path):
    card = ModelCard(SMALL, ["a"] * 10, Preprocessing(32, "resize", "dataset", (0.5,) * 3, (0.5,) * 3), "digits", 0.0)
    (tmp_path / "net.npz").write_bytes(write_npz(random_tensors(SMALL, "caffe"), card))
    assert import_network(config("npz", tmp_path / "net.npz"))[1] == card
