"""The layer table: figures checked by hand, and a network left as it was."""

from __future__ import annotations

import sys

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from src.cli.errors import UserError
from src.network import summary
from src.network.summary import check_image_size, summarize, table, totals
from src.squeezenet import SqueezeNet


@pytest.fixture(autouse=True)
def mode_restored():
    mode = ms.get_context("mode")
    yield
    ms.set_context(mode=mode)


@pytest.fixture(scope="module")
def rows() -> dict:
    """The rows of v1.0 at 224 by name."""
    return {row.name: row for row in summarize(SqueezeNet(), 224)}


def test_v1_0_at_224_has_740_554_parameters_and_704_million_multiply_adds(rows):
    # Sum over the table of the paper with maps of 109, 54, 26 and 12 pixels.
    assert totals(list(rows.values())) == (740_554, 704_230_432)


@pytest.mark.parametrize("version, billions", [("1_0", 0.82), ("1_1", 0.35)])
def test_multiply_adds_are_those_that_torchvision_publishes(version, billions):
    """At 224 with 1000 classes: the column GFLOPS of its table of weights, which has two digits."""
    rows = summarize(SqueezeNet(1000, version, ceil_mode=True), 224)
    assert round(totals(rows)[1] / 1e9, 2) == billions


def test_a_fire_module_is_one_row_with_all_its_convolutions(rows):
    fire2 = rows["features.2"]
    assert (fire2.kind, fire2.output) == ("Fire", (128, 54, 54))
    # Squeeze 96 to 16, then 64 of 1x1 and 64 of 3x3 from it, at every one of 54 x 54 places; a bias each.
    assert fire2.multiply_adds == 54 * 54 * (96 * 16 + 16 * 64 + 9 * 16 * 64) == 34_338_816
    assert fire2.parameters == 96 * 16 + 16 * 64 + 9 * 16 * 64 + 16 + 64 + 64


def test_layers_stand_in_order_with_output_parameters_and_multiply_adds(rows):
    names = [f"features.{i}" for i in range(12)] + [f"classifier.{i}" for i in range(3)]
    assert list(rows) == names
    assert rows["features.0"][1:] == ("ConvUnit", (96, 109, 109), 14_208, 109 * 109 * 96 * 3 * 49)
    assert rows["features.1"][1:] == ("MaxPool2d", (96, 54, 54), 0, 0)
    assert rows["classifier.1"][1:] == ("Conv2d", (10, 12, 12), 5_130, 12 * 12 * 512 * 10)


def test_convolutions_of_complex_bypasses_count_and_batch_norm_does_not():
    plain, bypassed, normalised = (
        totals(summarize(SqueezeNet(10, "cifar", **arguments), 32))
        for arguments in ({}, {"bypass": "complex"}, {"batch_norm": "all"})
    )
    # Around fire2, 64 to 128 channels at 16x16, and around fire4, 128 to 256 channels at 8x8.
    assert bypassed[1] - plain[1] == 16 * 16 * 64 * 128 + 8 * 8 * 128 * 256
    assert normalised[1] == plain[1]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def test_mode_and_training_are_left_as_they_were(mode, training):
    net = SqueezeNet(10, "cifar").set_train(training)
    ms.set_context(mode=mode)
    summarize(net, 32)
    assert ms.get_context("mode") == mode
    assert {cell.training for _, cell in net.cells_and_names()} == {training}


def test_mode_and_training_are_left_as_they_were_when_the_image_is_too_small():
    net = SqueezeNet(10).set_train()
    ms.set_context(mode=ms.GRAPH_MODE)
    with pytest.raises(ValueError):
        summarize(net, 5)
    assert ms.get_context("mode") == ms.GRAPH_MODE
    assert net.training


def test_weights_statistics_and_graph_of_a_summarised_net_are_unchanged():
    ms.set_context(mode=ms.GRAPH_MODE)
    net = SqueezeNet(10, "cifar", batch_norm="all").set_train(False)
    images = Tensor(np.random.RandomState(0).standard_normal((1, 3, 32, 32)).astype(np.float32))
    before = [parameter.asnumpy().copy() for parameter in net.get_parameters()]
    logits = net(images).asnumpy()
    net.set_train()
    summarize(net, 32)
    for parameter, values in zip(net.get_parameters(), before):
        np.testing.assert_array_equal(parameter.asnumpy(), values, err_msg=parameter.name)
    np.testing.assert_array_equal(net.set_train(False)(images).asnumpy(), logits)


def test_a_second_summary_counts_the_same():
    net = SqueezeNet(10, "cifar")
    assert summarize(net, 32) == summarize(net, 32)


def test_images_of_one_channel_are_summarised():
    grey, colour = (summarize(SqueezeNet(10, "cifar", in_channels=n), 32) for n in (1, 3))
    assert colour[0].multiply_adds == 3 * grey[0].multiply_adds


def test_the_table_has_a_line_a_layer_and_ends_with_the_totals(rows):
    lines = table(list(rows.values())).splitlines()
    assert len(lines) == 1 + 15 + 1
    assert lines[0].split() == ["layer", "kind", "output", "parameters", "multiply-adds"]
    assert lines[3].split() == ["features.2", "Fire", "128x54x54", "11,920", "34,338,816"]
    assert lines[-1].split() == ["total", "740,554", "704,230,432"]
    assert len({len(line) for line in lines}) == 1


@pytest.mark.parametrize(
    "smallest, arguments",
    [
        (35, {"version": "1_0"}),  # 15, 7, 3 and 1 pixels.
        (31, {"version": "1_1"}),
        (4, {"version": "cifar"}),
        (15, {"version": "1_0", "stem": "small"}),
        (21, {"version": "1_0", "ceil_mode": True}),
    ],
)
def test_an_image_too_small_is_refused_with_the_smallest_that_runs(smallest, arguments):
    net = SqueezeNet(10, **arguments)
    with pytest.raises(UserError, match=f"^image_size: {smallest - 1} is too small .* takes {smallest} or more; "):
        check_image_size(net, smallest - 1)
    check_image_size(net, smallest)
    assert summarize(net, smallest)[-1].output == (10, 1, 1)


def test_the_program_prints_the_table_of_a_configuration(monkeypatch, capsys):
    monkeypatch.setattr(ms, "set_device", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["summary", "--version", "cifar", "--image_size", "32", "--squeeze_ratio", "0.25"])
    summary.main()
    assert "Fire" in (shown := capsys.readouterr().out)
    net = SqueezeNet(10, "cifar", squeeze_ratio=0.25)
    assert shown == table(summarize(net, 32)) + "\n"


def test_the_program_refuses_an_image_that_is_too_small(monkeypatch):
    monkeypatch.setattr(ms, "set_device", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["summary", "--image_size", "32"])
    with pytest.raises(UserError, match="image_size: 32 is too small"):
        summary.main()
