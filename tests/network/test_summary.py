"""The layer table: figures checked by hand, and by running the network."""

from __future__ import annotations

import sys

import mindspore as ms
import pytest
from mindspore import nn

from src import summary
from src.cli.errors import UserError
from src.network.summary import MAX_FEATURE_MAP, Row, check_image_size, summarize, table, totals
from src.squeezenet import BATCH_NORMS, BYPASSES, VERSIONS, SqueezeNet

# Pairwise: each version with each bypass and batch norm, and small stems, ceil_mode, padding and ReLU now and then.
MODELS = [
    {
        "version": version,
        "bypass": bypass,
        "batch_norm": BATCH_NORMS[(i + j) % 3],
        "stem": ("imagenet", "small")[(i + j) % 2],
        "ceil_mode": j == 1,
        "classifier_padding": int(j == 2),
        "final_relu": i % 2 == 0,
        "in_channels": 3 if j else 1,
        "num_classes": 7 + i,
    }
    for i, version in enumerate(VERSIONS)
    for j, bypass in enumerate(BYPASSES)
] + [{}, {"version": "1_1", "base_e": 8, "incr_e": 4}, {"version": "cifar_wide", "squeeze_ratio": 0.25}]


def true_rows(net: SqueezeNet, image_size: int) -> list[Row]:
    """The same table counted in a network through which an image runs, layer by layer."""
    counted: list[int] = []
    for _, cell in net.cells_and_names():
        if isinstance(cell, nn.Conv2d):
            cell.register_forward_hook(lambda cell, _, out: counted.append(cell.weight.size * out[0, 0].size))
    rows, x = [], ms.ops.zeros((1, net.features[0].conv.in_channels, image_size, image_size), ms.float32)
    for part in ("features", "classifier"):
        for name, layer in getattr(net.set_train(False), part).name_cells().items():
            counted.clear()
            x = layer(x)
            parameters = sum(parameter.size for parameter in layer.trainable_params())
            rows.append(Row(f"{part}.{name}", type(layer).__name__, tuple(x.shape[1:]), parameters, sum(counted)))
    return rows


@pytest.mark.parametrize("model", MODELS, ids=lambda model: "-".join(map(str, model.values())) or "default")
def test_every_row_is_that_of_an_image_running_through_the_network(model):
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    try:
        assert summarize(model, 37) == true_rows(SqueezeNet(**model), 37)
    finally:
        ms.set_context(mode=mode)


@pytest.fixture(scope="module")
def rows() -> dict:
    """The rows of v1.0 at 224 by name."""
    return {row.name: row for row in summarize({}, 224)}


def test_no_network_is_built_and_no_operator_runs(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("a cell was made")

    monkeypatch.setattr(nn.Cell, "__init__", fail)
    assert totals(summarize({"base_e": 65536}, 224))[0] > 10**9


def test_v1_0_at_224_has_740_554_parameters_and_704_million_multiply_adds(rows):
    # Sum over the table of the paper with maps of 109, 54, 26 and 12 pixels.
    assert totals(list(rows.values())) == (740_554, 704_230_432)


@pytest.mark.parametrize("version, billions", [("1_0", 0.82), ("1_1", 0.35)])
def test_multiply_adds_are_those_that_torchvision_publishes(version, billions):
    """At 224 with 1000 classes: the column GFLOPS of its table of weights, which has two digits."""
    rows = summarize({"num_classes": 1000, "version": version, "ceil_mode": True}, 224)
    assert round(totals(rows)[1] / 1e9, 2) == billions


@pytest.mark.parametrize(
    "version, expected",
    [("cifar", (146_570, 20_021_248)), ("cifar_wide", (746_090, 108_691_456))],
)
def test_the_nets_for_cifar_10_have_the_published_sizes_at_32(version, expected):
    """The table of docs/RESEARCH.md: pools count too, since they decide the multiply-adds."""
    assert totals(summarize({"version": version}, 32)) == expected


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
        totals(summarize({"version": "cifar", **arguments}, 32))
        for arguments in ({}, {"bypass": "complex"}, {"batch_norm": "all"})
    )
    # Around fire2, 64 to 128 channels at 16x16, and around fire4, 128 to 256 channels at 8x8.
    assert bypassed[1] - plain[1] == 16 * 16 * 64 * 128 + 8 * 8 * 128 * 256
    assert normalised[1] == plain[1]


def test_images_of_one_channel_are_summarised():
    grey, colour = (summarize({"version": "cifar", "in_channels": n}, 32) for n in (1, 3))
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
    with pytest.raises(UserError, match=f"^image_size: {smallest - 1} is too small .* takes {smallest} or more; "):
        check_image_size(arguments, smallest - 1)
    check_image_size(arguments, smallest)
    assert summarize(arguments, smallest)[-1].output == (10, 1, 1)


def test_the_program_prints_the_table_of_a_configuration(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["summary", "--version", "cifar", "--image_size", "32", "--squeeze_ratio", "0.25"])
    summary.main()
    assert "Fire" in (shown := capsys.readouterr().out)
    assert shown == table(summarize({"version": "cifar", "squeeze_ratio": 0.25}, 32)) + "\n"


def test_the_program_says_that_a_formula_replaces_a_versions_own_widths(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["summary", "--version", "cifar_wide", "--image_size", "32", "--base_e", "64"])
    summary.main()
    assert "warning: base_e: the Fire modules of version cifar_wide" in capsys.readouterr().err


def test_the_program_refuses_an_image_that_is_too_small(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["summary", "--image_size", "32"])
    with pytest.raises(UserError, match="image_size: 32 is too small"):
        summary.main()


@pytest.mark.parametrize("model, most", [({}, 3350), ({"version": "cifar"}, 2048)], ids=str)
def test_an_image_whose_first_feature_map_alone_would_fill_the_memory_is_refused(model, most):
    """4 bytes for each of 96 channels, at half the resolution; and of 64 channels at the whole."""
    check_image_size(model, most)
    with pytest.raises(UserError, match=rf"^image_size: {most + 1} is too large: .* 1.0 GB, and 1 GB is the most"):
        check_image_size(model, most + 1)
    assert MAX_FEATURE_MAP == 2**30


def test_the_program_refuses_a_huge_image(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["summary", "--image_size", "8192"])
    with pytest.raises(UserError, match="image_size: 8192 is too large: the first feature map of one image takes 6"):
        summary.main()
