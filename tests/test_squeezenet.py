"""The SqueezeNet family: sizes, shapes, sums, gradients and initialisation."""

from __future__ import annotations

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from src.network.design_space import STEMS
from src.squeezenet import (
    BATCH_NORMS,
    BYPASSES,
    VERSIONS,
    ConvUnit,
    Fire,
    SqueezeNet,
    squeezenet1_0,
    squeezenet1_1,
)
from tests.network.test_geometry import noise

# Pairwise: every version with every bypass and every batch norm, and each two of these together. A version that is
# added to the tables is tested from then on.
VARIANTS = [
    (version, bypass, BATCH_NORMS[(i + j) % len(BATCH_NORMS)])
    for i, version in enumerate(VERSIONS)
    for j, bypass in enumerate(BYPASSES)
]


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


@pytest.mark.parametrize(
    "size, arguments",
    [
        (32, {"version": "cifar"}),
        (32, {"version": "1_0", "stem": "small"}),
        (32, {"version": "1_1", "stem": "small"}),
        (32, {"version": "1_0", "ceil_mode": True}),
        (32, {"version": "1_1"}),
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


@pytest.mark.parametrize("version, residuals", [("1_0", 4), ("cifar_wide", 2)])
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


def test_what_is_no_number_of_classes_is_refused_with_an_example():
    message = r"^num_classes: 1.5 is not an integer, as in SqueezeNet\(10, version='1_1'\)$"
    with pytest.raises(TypeError, match=message):
        SqueezeNet(1.5)
    with pytest.raises(TypeError, match=message.replace("1.5", "'1_1'")):
        SqueezeNet("1_1")
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'pretrained'"):
        SqueezeNet(pretrained=True)


@pytest.mark.parametrize("factory, version", [(squeezenet1_0, "1_0"), (squeezenet1_1, "1_1")])
def test_the_factories_give_the_published_nets_with_1000_classes(factory, version):
    made, expected = factory(), SqueezeNet(1000, version)
    assert [(p.name, p.shape) for p in made.get_parameters()] == [(p.name, p.shape) for p in expected.get_parameters()]
    assert factory(10, bypass="complex").classifier[1].out_channels == 10
