"""SqueezeNet (Iandola et al. 2016, https://arxiv.org/abs/1602.07360): the whole family, from tables.

net = SqueezeNet(num_classes=10)                                # v1.0, 740,554 parameters
net = SqueezeNet(num_classes=1000, version="1_1")               # v1.1, 1,235,496 parameters
net = SqueezeNet(num_classes=10, version="cifar")               # the small net for 32x32, 146,570 parameters
net = SqueezeNet(num_classes=10, squeeze_ratio=0.25, pct_3x3=0.25, bypass="simple")    # the paper's design space
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from mindspore import nn, ops
from mindspore.common.initializer import Normal

from src.network.dropout import Dropout

BYPASSES = ("none", "simple", "complex")
BATCH_NORMS = ("none", "squeeze", "all")


class Stem(NamedTuple):
    """The first convolution: output channels, kernel size, stride, and "valid" or "same" padding."""

    channels: int
    kernel_size: int
    stride: int
    pad_mode: str


class Pool(NamedTuple):
    """Max pooling without padding."""

    kernel_size: int
    stride: int

    def output_size(self, size: int, ceil_mode: bool) -> int:
        """Return the side in pixels of the map that comes out, for a map of side `size`."""
        return (size - self.kernel_size + (self.stride - 1 if ceil_mode else 0)) // self.stride + 1


class Widths(NamedTuple):
    """Filters of one Fire module: s1x1, e1x1 and e3x3 of the paper's section 3.2."""

    squeeze: int
    expand1x1: int
    expand3x3: int


class Norm(NamedTuple):
    """Batch norm of the feature map, in nets that have batch norm."""


POOL3, POOL2 = Pool(3, 2), Pool(2, 2)
FIRE_64, FIRE_128, FIRE_192, FIRE_256 = (Widths(n // 4, n, n) for n in (64, 128, 192, 256))

# A version is its stem and what follows it, up to the classifier.
VERSIONS = {
    # The paper's table 1.
    "1_0": (
        Stem(96, 7, 2, "valid"),
        [POOL3, FIRE_64, FIRE_64, FIRE_128, POOL3, FIRE_128, FIRE_192, FIRE_192, FIRE_256, POOL3, FIRE_256],
    ),
    # The authors' later release (SqueezeNet_v1.1): smaller stem, earlier pools, 2.4 times fewer operations.
    "1_1": (
        Stem(64, 3, 2, "valid"),
        [POOL3, FIRE_64, FIRE_64, POOL3, FIRE_128, FIRE_128, POOL3, FIRE_192, FIRE_192, FIRE_256, FIRE_256],
    ),
    # A small net for 32x32 images, with "same" convolutions and pools that halve.
    "cifar": (
        Stem(64, 3, 1, "same"),
        [POOL2, Widths(32, 64, 64), Widths(32, 64, 64), POOL2, Widths(32, 128, 128), Widths(32, 128, 128)],
    ),
    # A deeper one, for the accuracy that a CPU reaches in an hour: twice the squeeze ratio of 1_0, which costs little
    # beside the activations, one pool, which is slow on a CPU, and with bypass seven Fire modules of nine residual. The
    # sums of these grow, so that without the norm behind them the classifier takes small learning rates alone.
    "cifar_deep": (
        Stem(64, 3, 2, "same"),
        [*[Widths(32, 64, 64)] * 3, POOL2, *[Widths(64, 128, 128)] * 6, Norm()],
    ),
    # Fewer and wider Fire modules, mostly 3x3, one of them at full resolution: more operations for each activation.
    "cifar_wide": (
        Stem(64, 3, 1, "same"),
        [Widths(32, 16, 64), POOL2, *[Widths(64, 24, 160)] * 2, POOL2, *[Widths(128, 64, 192)] * 2, Norm()],
    ),
}

# `stem` by name: what the version has, or a 3x3/1 convolution that keeps the resolution of small images.
STEMS = {"imagenet": lambda stem: stem, "small": lambda stem: Stem(stem.channels, 3, 1, "same")}


def fires_from_metaparameters(
    count: int,
    base_e: int = 128,
    incr_e: int = 128,
    freq: int = 2,
    pct_3x3: float = 0.5,
    squeeze_ratio: float = 0.125,
) -> list[Widths]:
    """Return the widths of `count` Fire modules from the paper's metaparameters (section 5.1).

    Module i = 0, 1, ... has e_i = base_e + incr_e * floor(i / freq) expand filters, a share `pct_3x3` of them 3x3,
    and s = squeeze_ratio * e_i squeeze filters, rounded to whole filters, at least one of each. The defaults give v1.0.
    """
    fires = []
    for i in range(count):
        expand = max(2, base_e + incr_e * (i // freq))
        expand3x3 = min(max(1, round(pct_3x3 * expand)), expand - 1)
        fires.append(Widths(max(1, round(squeeze_ratio * expand)), expand - expand3x3, expand3x3))
    return fires


class ConvUnit(nn.Cell):
    """A "same" or "valid" convolution with bias, he_uniform weights, and ReLU; with batch norm instead of the bias."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, pad_mode="same", batch_norm=False, relu=True):
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            pad_mode,
            has_bias=not batch_norm,
            weight_init="he_uniform",
            bias_init="zeros",
        )
        self.norm = nn.BatchNorm2d(out_channels) if batch_norm else nn.Identity()
        self.activation = nn.ReLU() if relu else nn.Identity()

    def construct(self, x):
        return self.activation(self.norm(self.conv(x)))


class CeilMaxPool2d(nn.Cell):
    """Max pooling that rounds output sizes up, as torchvision's SqueezeNet has it.

    Repeating the last row and column gives the extra window when the size is even and goes unused when it is odd,
    and unlike `nn.MaxPool2d(ceil_mode=True)` it exports to ONNX. Right for any kernel with stride 2.
    """

    def __init__(self, kernel_size: int, stride: int):
        super().__init__()
        self.pool = nn.MaxPool2d(kernel_size, stride)

    def construct(self, x):
        x = ops.concat((x, x[:, :, -1:, :]), 2)
        x = ops.concat((x, x[:, :, :, -1:]), 3)
        return self.pool(x)


class Fire(nn.Cell):
    """The Fire module: a 1x1 squeeze, then 1x1 and 3x3 expands side by side, 1x1 first (paper, section 3.2).

    Input (N, in_channels, H, W), output (N, expand1x1 + expand3x3, H, W).
    batch_norm: one of BATCH_NORMS: after no convolution, after the squeeze alone, or after all.
    shortcut: a cell on the way around the module, whose output is added (paper, section 6), or None.
    """

    def __init__(
        self,
        in_channels: int,
        squeeze: int,
        expand1x1: int,
        expand3x3: int,
        batch_norm: str = "none",
        shortcut: Optional[nn.Cell] = None,
    ):
        super().__init__()
        self.squeeze = ConvUnit(in_channels, squeeze, 1, batch_norm=batch_norm != "none")
        self.expand1x1 = ConvUnit(squeeze, expand1x1, 1, batch_norm=batch_norm == "all")
        self.expand3x3 = ConvUnit(squeeze, expand3x3, 3, batch_norm=batch_norm == "all")
        self.shortcut = shortcut

    def construct(self, x):
        squeezed = self.squeeze(x)
        expanded = ops.concat((self.expand1x1(squeezed), self.expand3x3(squeezed)), 1)
        if self.shortcut is None:
            return expanded
        return expanded + self.shortcut(x)


class SqueezeNet(nn.Cell):
    """SqueezeNet. Input (N, in_channels, H, W) float32, output logits (N, num_classes) float32.

    num_classes: length of the logits.
    version: a row of VERSIONS: "1_0" (the paper), "1_1", "cifar", "cifar_deep", or "cifar_wide".
    bypass: "none"; "simple" adds a Fire module's input to its output wherever both have the same channels (v1.0:
        fire 3, 5, 7, 9); "complex" adds a 1x1 convolution of the input around the others too.
    batch_norm: "none"; "squeeze", after the squeeze convolutions alone; "all", after every convolution but the last.
        Where there is any, a version may have one more before the last convolution ("cifar_deep", "cifar_wide").
    stem: "imagenet", the version's own; "small", 3x3 with stride 1, for images of about 32 pixels.
    ceil_mode: round pooled sizes up, as torchvision does; the paper's Caffe net at 227 gives the same either way.
    classifier_padding: zeros around the input of the last convolution; the authors' Caffe release has 1.
    final_relu: ReLU after the last convolution, as in the paper. Without it the logits can be negative, and training
        cannot die there.
    dropout: probability of dropping a value before the last convolution.
    in_channels: channels of the image.
    metaparameters: any of base_e, incr_e, freq, pct_3x3, squeeze_ratio (see fires_from_metaparameters); when one is
        given, the Fire modules get their widths from them instead of from the version's row.

    Initialisation: he_uniform weights, normal(0, 0.01) in the last convolution, zero biases. With batch norm "squeeze",
    which keeps no sum in bounds, the expand convolutions of n Fire modules with bypass start 1/sqrt(n) as large
    (De and Smith 2020, https://arxiv.org/abs/2002.10444, section 2).
    Raises ValueError for a value that is not among those listed.
    """

    def __init__(
        self,
        num_classes: int = 10,
        version: str = "1_0",
        bypass: str = "none",
        batch_norm: str = "none",
        stem: str = "imagenet",
        ceil_mode: bool = False,
        classifier_padding: int = 0,
        final_relu: bool = True,
        dropout: float = 0.5,
        in_channels: int = 3,
        **metaparameters: Optional[float],
    ):
        super().__init__()
        for name, value, allowed in (
            ("version", version, VERSIONS),
            ("bypass", bypass, BYPASSES),
            ("batch_norm", batch_norm, BATCH_NORMS),
            ("stem", stem, STEMS),
        ):
            if value not in allowed:
                raise ValueError(f"unsupported SqueezeNet {name} {value!r}: choose one of {', '.join(allowed)}")
        self.stem, layers = architecture(version, stem, **metaparameters)
        self.layers = [layer for layer in layers if batch_norm != "none" or not isinstance(layer, Norm)]
        self.ceil_mode = ceil_mode

        pool = CeilMaxPool2d if ceil_mode else nn.MaxPool2d
        channels, kernel_size, stride, pad_mode = self.stem
        features = [ConvUnit(in_channels, channels, kernel_size, stride, pad_mode, batch_norm == "all")]
        for layer in self.layers:
            if isinstance(layer, Pool):
                features.append(pool(*layer))
                continue
            if isinstance(layer, Norm):
                features.append(nn.BatchNorm2d(channels))
                continue
            shortcut, out_channels = None, layer.expand1x1 + layer.expand3x3
            if bypass != "none" and channels == out_channels:
                shortcut = nn.Identity()
            elif bypass == "complex":
                shortcut = ConvUnit(channels, out_channels, 1, batch_norm=batch_norm == "all", relu=False)
            features.append(Fire(channels, *layer, batch_norm, shortcut))
            channels = out_channels
        self.features = nn.SequentialCell(features)
        if batch_norm == "squeeze":
            _shrink_residuals([layer for layer in features if isinstance(layer, Fire) and layer.shortcut])

        # The last convolution starts near zero, so that the first logits are small and all classes equally likely.
        last = nn.Conv2d(
            channels,
            num_classes,
            1,
            pad_mode="pad",
            padding=classifier_padding,
            has_bias=True,
            weight_init=Normal(0.01),
            bias_init="zeros",
        )
        self.classifier = nn.SequentialCell([Dropout(dropout), last] + ([nn.ReLU()] if final_relu else []))

    def construct(self, x):
        return self.classifier(self.features(x)).mean((2, 3))

    def feature_size(self, image_size: int) -> int:
        """Return the side of the last feature map for square images of `image_size` pixels; below 1 does not run."""
        lost = self.stem.kernel_size - 1 if self.stem.pad_mode == "valid" else 0
        size = (image_size - 1 - lost) // self.stem.stride + 1
        for layer in self.layers:
            if isinstance(layer, Pool) and size >= 1:
                size = layer.output_size(size, self.ceil_mode)
        return size

    def feature_grid(self) -> tuple[float, int]:
        """Return where the last feature map lies on the image: the pixel at its first value's centre, and the distance
        in pixels from one value to the next."""
        around = 0 if self.stem.pad_mode == "valid" else (self.stem.kernel_size - self.stem.stride) // 2
        first = (self.stem.kernel_size - 1) / 2 - around
        distance = self.stem.stride
        for layer in self.layers:
            if isinstance(layer, Pool):
                first += (layer.kernel_size - 1) / 2 * distance
                distance *= layer.stride
        return first, distance


def _shrink_residuals(fires: list[Fire]) -> None:
    """Let what Fire modules add to their shortcuts start so small that the sum of all is as large as one alone."""
    for fire in fires:
        for expand in (fire.expand1x1, fire.expand3x3):
            if expand.conv.weight.has_init:  # Its values are still to come, from a checkpoint.
                continue
            expand.conv.weight.set_data(expand.conv.weight / len(fires) ** 0.5)


def architecture(version: str, stem: str, **metaparameters: Optional[float]) -> tuple[Stem, list]:
    """Return the stem and the list of Pool, Widths and Norm of a net, before it is built."""
    version_stem, layers = VERSIONS[version]
    given = {name: value for name, value in metaparameters.items() if value is not None}
    if given:
        fires = iter(fires_from_metaparameters(sum(isinstance(layer, Widths) for layer in layers), **given))
        layers = [next(fires) if isinstance(layer, Widths) else layer for layer in layers]
    return STEMS[stem](version_stem), layers
