from __future__ import annotations

import pytest

from src.checkpoint import weights_of
from src.conversion.converting import import_network
from tests.conversion.made_caffemodel import MODEL, caffemodel, content, varint
from tests.conversion.made_weights import config, random_tensors
from tests.made_data import refusal


@pytest.mark.parametrize(
    "options, told",
    [
        ({}, {"bypass": "none", "classifier_padding": 0, "ceil_mode": True, "final_relu": True}),
        ({"bypass": True, "pad": 1, "old": True}, {"bypass": "simple", "classifier_padding": 1}),
        ({"final_relu": False, "floor": True}, {"final_relu": False, "ceil_mode": False}),
    ],
)
def test_weights_and_what_the_layers_tell_are_read(tmp_path, options, told):
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(**options))
    net, card = import_network(config("caffemodel", tmp_path / "net.caffemodel"))
    assert {**card.model, **MODEL, **told} == card.model and card.preprocessing.image_size == 227
    tensors, own = random_tensors(MODEL, "caffe"), weights_of(net)
    assert (own["features.0.conv.weight"].asnumpy() == tensors["conv1.weight"][:, ::-1]).all()  # RGB
    assert (own["features.2.expand3x3.conv.bias"].asnumpy() == tensors["fire2/expand3x3.bias"]).all()
    assert card.preprocessing.std == (1 / 255,) * 3


@pytest.mark.parametrize("options", [{"first_pool": False}, {"stride": 1}])
def test_layers_in_another_order_are_refused(tmp_path, options):
    (tmp_path / "net.caffemodel").write_bytes(caffemodel(**options))
    assert "not in SqueezeNet's order" in refusal(import_network, config("caffemodel", tmp_path / "net.caffemodel"))


def test_hostile_and_damaged_files_are_refused(tmp_path):
    whole, path = caffemodel(), tmp_path / "net.caffemodel"
    nested = b""
    for _ in range(500):
        nested = content(100, nested)
    shape = content(7, content(1, varint(1 << 40))) + content(5, bytes(4))
    bomb = content(1, b"conv1") + content(2, b"Convolution") + content(7, shape)
    damaged = {
        "a shape of 2**40": content(100, bomb),
        "a length of 2**62": varint(100 << 3 | 2) + varint(1 << 62),
        "nested messages": nested,
        "no layers": content(1, b"SqueezeNet"),
        "layers of before 2015": content(2, content(4, b"conv1")),
        **{f"cut at {size}": whole[:size] for size in (1, 10, 1000, len(whole) // 2, len(whole) - 1)},
    }
    for what, data in damaged.items():
        path.write_bytes(data)
        assert refusal(import_network, config("caffemodel", path)).startswith(str(path)), what
