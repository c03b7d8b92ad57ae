"""The SqueezeNet family: sizes, shapes, sums, gradients and initialisation."""

from __future__ import annotations

import itertools

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.squeezenet import (
    BATCH_NORMS,
    BYPASSES,
    STEMS,
    VERSIONS,
    CeilMaxPool2d,
    ConvUnit,
    Fire,
    SqueezeNet,
    Widths,
    fires_from_metaparameters,
)

# Every listed variant: one that is added to the tables of src/squeezenet.py is tested from then on.
VARIANTS = list(itertools.product(VERSIONS, BYPASSES, BATCH_NORMS))

# Squeeze, 1x1 and 3x3 filters as printed: the paper's table 1 (v1.1 kept them), and the small CIFAR net.
PAPER_FIRES = [
    *[(16, 64, 64)] * 2,
    *[(32, 128, 128)] * 2,
    *[(48, 192, 192)] * 2,
    *[(64, 256, 256)] * 2,
]
CIFAR_FIRES = [*[(32, 64, 64)] * 2, *[(32, 128, 128)] * 2]
DEEP_FIRES = [*[(32, 64, 64)] * 3, *[(64, 128, 128)] * 6]
WIDE_FIRES = [(32, 16, 64), *[(64, 24, 160)] * 2, *[(128, 64, 192)] * 2]
# Channels and side of the first convolution, and the Fire modules.
PRINTED = {
    "1_0": (96, 7, PAPER_FIRES),
    "1_1": (64, 3, PAPER_FIRES),
    "cifar": (64, 3, CIFAR_FIRES),
    "cifar_deep": (64, 3, DEEP_FIRES),
    "cifar_wide": (64, 3, WIDE_FIRES),
}


@pytest.fixture(autouse=True)
def pynative():
    """Run cell by cell, where a test does not ask for a graph."""
    mode = ms.get_context("mode")
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=mode)


@pytest.fixture(scope="module")
def imagenet_net() -> SqueezeNet:
    ms.set_seed(1)
    return SqueezeNet(num_classes=1000).set_train(False)


def noise(*shape: int) -> Tensor:
    return Tensor(np.random.RandomState(0).standard_normal(shape).astype(np.float32))


def parameter_count(net: nn.Cell) -> int:
    return sum(parameter.size for parameter in net.trainable_params())


def fires_of(net: SqueezeNet) -> dict[int, Fire]:
    """The Fire modules by the paper's numbers: fire2 is the first layer after the stem."""
    return dict(enumerate((cell for cell in net.features if isinstance(cell, Fire)), 2))


def convolved(x: np.ndarray, conv: nn.Conv2d) -> np.ndarray:
    """A convolution of odd size and stride 1 with zeros around the input, written out in numpy."""
    weight, side = conv.weight.asnumpy(), conv.weight.shape[2]
    padded = np.pad(x, ((0, 0), (0, 0), (side // 2,) * 2, (side // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), (2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight) + conv.bias.asnumpy()[:, None, None]


def expanded(x: np.ndarray, fire: Fire) -> np.ndarray:
    """The output of a Fire module without batch norm and without shortcut, written out in numpy."""
    squeezed = np.maximum(convolved(x, fire.squeeze.conv), 0)
    branches = [np.maximum(convolved(squeezed, branch.conv), 0) for branch in (fire.expand1x1, fire.expand3x3)]
    return np.concatenate(branches, 1)


# torchvision's squeezenet1_0 and squeezenet1_1 (1000 classes), the model zoo's (10 classes); the others were counted
# by hand from the paper's figure 2 and from the small CIFAR net.
@pytest.mark.parametrize(
    "count, arguments",
    [
        (1_248_424, {"num_classes": 1000}),
        (740_554, {"num_classes": 10}),
        (1_248_424, {"num_classes": 1000, "bypass": "simple"}),
        (1_589_672, {"num_classes": 1000, "bypass": "complex"}),
        (1_235_496, {"num_classes": 1000, "version": "1_1"}),
        (727_626, {"num_classes": 10, "version": "1_1"}),
        (146_570, {"num_classes": 10, "version": "cifar"}),
        (732_010, {"num_classes": 10, "stem": "small", "bypass": "simple", "batch_norm": "all"}),
    ],
)
def test_published_parameter_counts(count, arguments):
    assert parameter_count(SqueezeNet(**arguments)) == count


def test_fire_with_6_5_and_4_filters_on_96_channels_has_822_weights():
    """96*6 + 6*5 + 9*6*4, against 7,776 of a plain 3x3 convolution to 9 channels (torchvision tutorial)."""
    weights = [parameter for parameter in Fire(96, 6, 5, 4).trainable_params() if parameter.name.endswith("weight")]
    assert sum(weight.size for weight in weights) == 822


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("version, bypass, batch_norm", VARIANTS)
def test_parameter_count_is_that_of_the_printed_tables(version, bypass, batch_norm, stem):
    def conv(inputs, outputs, side, normalised):
        return inputs * outputs * side**2 + (2 * outputs if normalised else outputs)

    everywhere, in_squeeze = batch_norm == "all", batch_norm != "none"
    channels, side, fires = PRINTED[version]
    expected = conv(3, channels, 3 if stem == "small" else side, everywhere)
    for squeeze, expand1x1, expand3x3 in fires:
        expected += conv(channels, squeeze, 1, in_squeeze)
        expected += conv(squeeze, expand1x1, 1, everywhere) + conv(squeeze, expand3x3, 3, everywhere)
        if bypass == "complex" and channels != expand1x1 + expand3x3:
            expected += conv(channels, expand1x1 + expand3x3, 1, everywhere)
        channels = expand1x1 + expand3x3
    if version in ("cifar_deep", "cifar_wide") and in_squeeze:
        expected += 2 * channels
    expected += conv(channels, 10, 1, False)
    assert parameter_count(SqueezeNet(10, version, bypass, batch_norm, stem)) == expected


@pytest.mark.parametrize(
    "size, arguments",
    [
        (32, {"version": "cifar"}),
        (32, {"version": "1_0", "stem": "small"}),
        (32, {"version": "1_1", "stem": "small"}),
        (32, {"version": "1_0", "ceil_mode": True}),
        (32, {"version": "1_1"}),
        (32, {"version": "cifar_deep"}),
        (24, {"version": "cifar_deep"}),
        (31, {"version": "cifar_deep"}),
        (32, {"version": "cifar_wide"}),
        (32, {"version": "cifar", "in_channels": 1}),
        (224, {"version": "1_0"}),
        (224, {"version": "1_0", "ceil_mode": True, "classifier_padding": 1}),
        (224, {"version": "1_1", "bypass": "complex"}),
        (227, {"version": "1_0", "bypass": "simple"}),
        (227, {"version": "1_1"}),
    ],
)
def test_logits_are_float32_of_images_by_classes(size, arguments):
    logits = SqueezeNet(7, **arguments).set_train(False)(noise(2, arguments.get("in_channels", 3), size, size))
    assert logits.shape == (2, 7)
    assert logits.dtype == ms.float32
    assert np.isfinite(logits.asnumpy()).all()


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("version", VERSIONS)
def test_feature_size_is_the_side_of_the_true_feature_map(version, stem, ceil_mode):
    net = SqueezeNet(2, version, stem=stem, ceil_mode=ceil_mode, base_e=4, incr_e=0)
    smallest = next(size for size in range(1, 100) if net.feature_size(size) >= 1)
    keeps_resolution = net.stem.stride == 1
    for size in (smallest, *range(35, 38), *(() if keeps_resolution else (227,))):
        side = net.feature_size(size)
        assert net.features(noise(1, 3, size, size)).shape[2:] == (side, side), size
    if smallest > 1:
        with pytest.raises(ValueError, match="must be"):
            net.features(noise(1, 3, smallest - 1, smallest - 1))


def test_feature_sizes_of_v1_0_are_the_published_ones():
    """13x13 at 227 (the paper's Caffe net) whichever way sizes are rounded; 13x13 at 224 in torchvision, 12x12 here."""
    floor, ceil = SqueezeNet(2), SqueezeNet(2, ceil_mode=True)
    assert [floor.feature_size(227), ceil.feature_size(227), ceil.feature_size(224)] == [13, 13, 13]
    assert floor.feature_size(224) == 12


@pytest.mark.parametrize("version, bypass, batch_norm", VARIANTS)
def test_gradients_reach_every_parameter(version, bypass, batch_norm):
    for seed in range(5):
        ms.set_seed(seed)
        net = SqueezeNet(10, version, bypass, batch_norm, stem="small", dropout=0.0).set_train()
        loss = nn.CrossEntropyLoss()

        def forward(x, y, net=net, loss=loss):  # MindSpore cannot always parse a lambda.
            return loss(net(x), y)

        backward = ms.value_and_grad(forward, None, net.trainable_params())
        value, gradients = backward(noise(2, 3, 20, 20), Tensor([1, 2], ms.int32))
        if not np.isclose(float(value), np.log(10), atol=1e-7):  # The final ReLU can be dead from the start.
            break
    unreached = [
        parameter.name
        for parameter, gradient in zip(net.trainable_params(), gradients)
        if not np.abs(gradient.asnumpy()).max() > 0
    ]
    assert unreached == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"version": "1_0", "stem": "small", "bypass": "complex", "batch_norm": "all", "final_relu": False},
        {"version": "1_1", "bypass": "simple", "batch_norm": "squeeze", "ceil_mode": True, "classifier_padding": 1},
        {"version": "cifar"},
    ],
)
def test_graph_and_pynative_mode_give_the_same_logits(arguments):
    ms.set_seed(1)
    net, images = SqueezeNet(10, **arguments).set_train(False), noise(2, 3, 32, 32)
    logits = {}
    for mode in (ms.PYNATIVE_MODE, ms.GRAPH_MODE):
        ms.set_context(mode=mode)
        logits[mode] = net(images).asnumpy()
    assert np.abs(logits[ms.PYNATIVE_MODE]).max() > 0
    # The order of additions may differ between the two.
    np.testing.assert_allclose(logits[ms.GRAPH_MODE], logits[ms.PYNATIVE_MODE], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel_size", [2, 3])
@pytest.mark.parametrize("size", range(3, 9))
def test_ceil_pooling_equals_mindspores_for_odd_and_even_sizes(size, kernel_size):
    images = noise(2, 3, size, size) - 10  # All negative: zeros that crept in would win.
    expected = nn.MaxPool2d(kernel_size, 2, pad_mode="pad", padding=0, ceil_mode=True)(images).asnumpy()
    pooled = CeilMaxPool2d(kernel_size, 2)(images).asnumpy()
    assert pooled.max() < 0
    np.testing.assert_array_equal(pooled, expected)


@pytest.mark.parametrize("shortcut", ["none", "identity", "convolution"])
def test_fire_is_squeeze_then_both_expands_side_by_side_plus_its_shortcut(shortcut):
    around = {"none": None, "identity": nn.Identity(), "convolution": ConvUnit(11, 11, 1, relu=False)}[shortcut]
    fire, x = Fire(11, 3, 5, 6, shortcut=around), noise(2, 11, 6, 7)
    for i, parameter in enumerate(fire.get_parameters()):
        values = np.random.RandomState(i).standard_normal(parameter.shape)
        parameter.set_data(Tensor(values.astype(np.float32)))
    expected = expanded(x.asnumpy(), fire)
    if shortcut != "none":
        expected += x.asnumpy() if shortcut == "identity" else convolved(x.asnumpy(), around.conv)
    # float32 sums of up to 30 products, in another order.
    np.testing.assert_allclose(fire(x).asnumpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "version, with_identity, with_convolution",
    [("1_0", [3, 5, 7, 9], [2, 4, 6, 8]), ("1_1", [3, 5, 7, 9], [2, 4, 6, 8]), ("cifar", [3, 5], [2, 4])],
)
@pytest.mark.parametrize("bypass", BYPASSES)
def test_bypasses_add_what_the_papers_figure_2_shows(version, with_identity, with_convolution, bypass):
    for number, fire in fires_of(SqueezeNet(10, version, bypass)).items():
        x = noise(1, fire.squeeze.conv.in_channels, 3, 3)
        added = fire(x).asnumpy() - expanded(x.asnumpy(), fire)
        if bypass != "none" and number in with_identity:
            expected = x.asnumpy()
        elif bypass == "complex" and number in with_convolution:
            expected = convolved(x.asnumpy(), fire.shortcut.conv)
            assert expected.min() < 0, "no ReLU on the way around"
        else:
            expected = np.zeros_like(added)
        np.testing.assert_allclose(added, expected, rtol=0, atol=1e-4, err_msg=f"fire{number}")


def test_weights_start_he_uniform_but_those_of_the_last_convolution(imagenet_net):
    for cell in imagenet_net.features.cells_and_names():
        if isinstance(cell[1], nn.Conv2d):
            weight = cell[1].weight.asnumpy()
            bound = np.sqrt(6 / weight[0].size)  # He et al. 2015 for ReLU, uniform, fan-in.
            assert np.abs(weight).max() <= bound, cell[0]
            assert np.abs(weight).max() > 0.98 * bound, cell[0]
            assert weight.std() == pytest.approx(bound / np.sqrt(3), rel=0.05), cell[0]
    last = imagenet_net.classifier[1].weight.asnumpy()
    # 512,000 draws: standard deviation 0.01 to 0.1%, four times that allowed.
    assert last.std() == pytest.approx(0.01, rel=4e-3)
    assert abs(last.mean()) < 1e-4
    assert np.abs(last).max() > 0.04, "normal, not uniform"


def test_biases_start_at_zero(imagenet_net):
    biases = [parameter for parameter in imagenet_net.trainable_params() if parameter.name.endswith("bias")]
    assert len(biases) == 26  # One for each convolution of v1.0: the stem, 8 times 3, the last.
    assert all(not bias.asnumpy().any() for bias in biases)


@pytest.mark.parametrize("version, residuals", [("1_0", 4), ("cifar_deep", 7), ("cifar_wide", 2)])
def test_what_residual_fires_add_starts_small_where_nothing_normalises_their_sum(version, residuals):
    """Weights of variance 2/inputs, over the number of residual modules."""
    for batch_norm, divisor in (("none", 1), ("squeeze", residuals), ("all", 1)):
        ms.set_seed(1)
        fires = fires_of(SqueezeNet(10, version, "simple", batch_norm)).values()
        shortened = [fire for fire in fires if fire.shortcut is not None]
        assert len(shortened) == residuals
        for fire in fires:
            for conv in (fire.expand1x1.conv, fire.expand3x3.conv):
                expected = 2 / conv.weight[0].size / (divisor if fire in shortened else 1)
                assert conv.weight.asnumpy().var() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(
    "batch_norm, with_bias", [("none", {"stem", "squeeze", "expand"}), ("squeeze", {"stem", "expand"}), ("all", set())]
)
def test_batch_norm_takes_the_place_of_the_bias(batch_norm, with_bias):
    def place(name):
        return "squeeze" if ".squeeze." in name else "expand" if ".expand" in name else "stem"

    names = [p.name for p in SqueezeNet(10, "cifar", batch_norm=batch_norm).trainable_params()]
    features = [name for name in names if name.startswith("features.")]
    assert {place(name) for name in features if name.endswith("conv.bias")} == with_bias
    assert {place(name) for name in features if name.endswith("norm.gamma")} == {
        "stem",
        "squeeze",
        "expand",
    } - with_bias
    assert "classifier.1.bias" in names


def test_final_relu_alone_keeps_logits_from_being_negative():
    logits = {}
    for final_relu in (True, False):
        ms.set_seed(1)
        net = SqueezeNet(10, "cifar", final_relu=final_relu).set_train(False)
        logits[final_relu] = net(noise(4, 3, 32, 32)).asnumpy()
    assert logits[True].min() >= 0
    assert logits[False].min() < 0


def test_classifier_padding_averages_over_a_border_of_zeros_too():
    """With zero biases the border adds nothing, so 1x1 maps of 32 pixels become means over 3x3: a ninth."""
    logits = {}
    for padding in (0, 1):
        ms.set_seed(1)
        net = SqueezeNet(10, "1_1", classifier_padding=padding).set_train(False)
        logits[padding] = net(noise(2, 3, 32, 32)).asnumpy()
    assert np.abs(logits[0]).max() > 0
    np.testing.assert_allclose(logits[1], logits[0] / 9, rtol=1e-5)


def test_dropout_zeroes_its_share_in_training_and_nothing_in_evaluation():
    dropout = SqueezeNet(10, "cifar", dropout=0.2).classifier[0]
    ones = Tensor(np.ones((4, 512, 7, 7), np.float32))
    dropped = dropout.set_train(True)(ones).asnumpy() == 0
    # 100,352 draws: a standard error of 0.0013.
    assert dropped.mean() == pytest.approx(0.2, abs=0.01)
    np.testing.assert_array_equal(dropout.set_train(False)(ones).asnumpy(), ones.asnumpy())


@pytest.mark.parametrize(
    "name, value, supported",
    [
        ("version", "2_0", VERSIONS),
        ("version", "1.0", VERSIONS),
        ("bypass", "residual", BYPASSES),
        ("batch_norm", True, BATCH_NORMS),
        ("stem", "large", STEMS),
    ],
)
def test_an_unsupported_value_is_refused_with_those_supported(name, value, supported):
    with pytest.raises(ValueError, match=name) as refusal:
        SqueezeNet(**{name: value})
    assert repr(value) in str(refusal.value)
    assert all(choice in str(refusal.value) for choice in supported)


def test_default_metaparameters_give_the_fires_of_the_papers_table_1():
    assert fires_from_metaparameters(8) == [Widths(*fire) for fire in PAPER_FIRES]
    shapes = [
        [(p.name, p.shape) for p in SqueezeNet(10, **arguments).get_parameters()]
        for arguments in ({}, {"base_e": 128}, {"base_e": None, "squeeze_ratio": None})
    ]
    assert shapes[0] == shapes[1] == shapes[2]


def test_metaparameters_follow_the_formula_of_section_5_1():
    fires = fires_from_metaparameters(5, base_e=100, incr_e=40, freq=2, pct_3x3=0.25, squeeze_ratio=0.3)
    assert fires == [(30, 75, 25), (30, 75, 25), (42, 105, 35), (42, 105, 35), (54, 135, 45)]


@pytest.mark.parametrize(
    "metaparameters, fire",
    [
        ({"base_e": 10, "pct_3x3": 0.26, "squeeze_ratio": 0.26}, (3, 7, 3)),  # 2.6 filters are 3.
        ({"base_e": 10, "pct_3x3": 0.24, "squeeze_ratio": 0.24}, (2, 8, 2)),
        ({"base_e": 10, "pct_3x3": 0.01, "squeeze_ratio": 0.01}, (1, 9, 1)),
        ({"base_e": 10, "pct_3x3": 0.99, "squeeze_ratio": 2.0}, (20, 1, 9)),
        ({"base_e": 2, "pct_3x3": 0.5}, (1, 1, 1)),
        ({"base_e": 1}, (1, 1, 1)),
    ],
)
def test_metaparameters_round_to_whole_filters_and_leave_one_of_each(metaparameters, fire):
    assert fires_from_metaparameters(1, **metaparameters) == [fire]


@pytest.mark.parametrize("version, fires", [("1_0", 8), ("1_1", 8), ("cifar", 4)])
def test_metaparameters_replace_the_fires_and_leave_stem_and_pools(version, fires):
    net = SqueezeNet(10, version, base_e=8, incr_e=4, freq=1, pct_3x3=0.25, squeeze_ratio=0.5)
    widths = [layer for layer in net.layers if isinstance(layer, Widths)]
    expands = [8 + 4 * i for i in range(fires)]
    assert [fire.expand1x1 + fire.expand3x3 for fire in widths] == expands
    assert [(fire.squeeze, fire.expand3x3) for fire in widths] == [(e // 2, e // 4) for e in expands]
    stem, layers = VERSIONS[version]
    assert net.stem == stem
    assert [type(layer) for layer in net.layers] == [type(layer) for layer in layers]
