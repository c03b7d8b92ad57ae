"""The authors' compressed SqueezeNet: read, coded again without loss, and quantized to fewer bits."""

from __future__ import annotations

import csv
import hashlib

import numpy as np
import pytest

from src.cli.errors import UserError
from src.compression.config import MeasureConfig
from src.compression.evaluator import Evaluator
from src.compression.quantize import quantize
from src.compression.reading import read_weights
from src.conversion.deep_compression import LAYERS, decode_published, published_card, read_published
from src.squeezenet import SqueezeNet
from src.sqz.fileformat import decode, encode

# Of the decoded arrays, from the FORMAT.md that lies beside the file.
DECODED_SHA256 = "5efc0b4f48b60e0c690190afdd5c18e641159506f1a36a3e84eb8baeec9f488a"


@pytest.fixture(scope="module")
def folder(shared):
    return shared / "data" / "imagenet_squeezenet"


@pytest.fixture(scope="module")
def parameters(folder):
    return read_published(folder / "compressed_SqueezeNet.net")


def caffe_names() -> dict[str, str]:
    """Return the names in the authors' network of the tensors in ours."""
    names, fire = {}, 1
    for layer in LAYERS:
        part = layer.layer.split(".")[-2]
        fire += part == "squeeze"
        known = {"0": "conv1", "classifier": "conv10", "squeeze": f"fire{fire}/squeeze1x1"}
        for kind in ("weight", "bias"):
            names[f"{layer.layer}.{kind}"] = f"{known.get(part, f'fire{fire}/{part}')}.{kind}"
    return names


def sha256(parameters) -> str:
    renamed = {caffe: parameters[name] for name, caffe in caffe_names().items()}
    renamed["conv1.weight"] = np.ascontiguousarray(renamed["conv1.weight"][:, ::-1])
    digest = hashlib.sha256()
    for name in sorted(renamed):
        array = renamed[name]
        digest.update(name.encode() + b"\0" + np.array(array.shape, "<i8").tobytes() + array.astype("<f4").tobytes())
    return digest.hexdigest()


def test_names_and_shapes_are_those_of_the_network(parameters):
    net = SqueezeNet(**published_card().model)
    own = {name: tuple(p.shape) for name, p in net.parameters_and_names() if p.asnumpy().dtype == np.float32}
    assert {name: array.shape for name, array in parameters.items()} == own


def test_the_arrays_are_the_documented_ones_before_and_after_coding(parameters):
    assert sha256(parameters) == DECODED_SHA256
    data = encode(parameters, published_card().to_json())
    assert len(data) <= 540_000
    decoded, _ = decode(data)
    assert sha256(decoded) == DECODED_SHA256
    assert all(decoded[name].tobytes() == array.tobytes() for name, array in parameters.items())


@pytest.mark.parametrize("bits, most", [(6, 470_000), (5, 380_000)])
def test_fewer_bits_make_it_smaller_and_come_back_exactly(parameters, bits, most):
    fewer = {name: quantize(array, bits) if array.ndim == 4 else array for name, array in parameters.items()}
    data = encode(fewer, published_card().to_json())
    assert len(data) <= most
    assert all(decode(data)[0][name].tobytes() == array.tobytes() for name, array in fewer.items())


def test_the_first_photographs_get_the_golden_classes(folder, tmp_path):
    parameters, card = read_weights(str(folder / "compressed_SqueezeNet.net"))
    with open(folder / "expected_top5.csv", newline="") as stream:
        golden = [row for _, row in zip(range(12), csv.DictReader(stream))]
    (tmp_path / "images").mkdir()
    for row in golden:
        (tmp_path / "images" / row["file"]).symlink_to(folder / "images" / row["file"])
    lines = ["image,label", *(f"{row['file']},{row['top1']}" for row in golden)]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    measure = Evaluator(MeasureConfig(images=str(tmp_path / "images"), labels=str(tmp_path / "labels.csv")), card)
    figures = measure(parameters, card)
    assert (figures["images"], figures["accuracy"], figures["agreement"]) == (12, 1.0, 1.0)


def made_file() -> bytes:
    """Return a file of the authors' layout with one entry a layer: code 1, worth 0.5, behind three zeros."""
    blocks = [np.ones(26, "<u4").tobytes()]
    for layer in LAYERS:
        codebook = np.zeros(256, "<f4")
        codebook[1] = 0.5
        blocks += [codebook.tobytes(), np.full(layer.shape[0], 2, "<f4").tobytes(), b"\x01", b"\x03"]
    return b"".join(blocks)


def test_a_made_file_is_read():
    parameters = decode_published(made_file(), "made.net")
    for layer in LAYERS:
        weights = parameters[f"{layer.layer}.weight"]
        assert weights.shape == layer.shape and weights.ravel()[3] == 0.5 and np.count_nonzero(weights) == 1
        assert (parameters[f"{layer.layer}.bias"] == 2).all()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda data: b"", "0 bytes are too few"),
        (lambda data: data[:50], "50 bytes are too few"),
        (lambda data: data[:-1], "cut off"),
        (lambda data: data + b"\0", "its header asks for"),
        (lambda data: b"\xff\xff\xff\xff" + data[4:], "entries in features.0.conv are too many"),
        (lambda data: data[:104] + np.float32(1).tobytes() + data[108:], "invalid values in features.0.conv"),
        (lambda data: data[:108] + np.float32(np.nan).tobytes() + data[112:], "invalid values in features.0.conv"),
    ],
)
def test_a_damaged_file_is_named_in_one_line(tmp_path, change, message):
    path = tmp_path / "made.net"
    path.write_bytes(change(made_file()))
    with pytest.raises(UserError, match=message) as caught:
        read_published(path)
    assert str(path) in str(caught.value)


def test_an_entry_outside_its_layer_is_refused():
    data = bytearray(made_file())
    count = 40_000 // 16  # Entries with the largest gap, more than features.0.conv has room for.
    data[:4] = np.uint32(count).tobytes()
    codes = 104 + 1024 + 4 * 96
    data[codes : codes + 2] = b"\x01" * count + b"\xff" * (count // 2)
    with pytest.raises(UserError, match="lies outside"):
        decode_published(bytes(data), "made.net")
