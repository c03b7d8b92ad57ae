"""SqueezeNet (Iandola et al. 2016, https://arxiv.org/abs/1602.07360): the whole family, from one table.

net = squeezenet1_0()                                           # the paper's, 1000 classes
net = SqueezeNet(num_classes=10, version="1_1")                 # 727,626 parameters
net = SqueezeNet(num_classes=10, version="cifar")               # a small net for 32x32, 146,570 parameters
net = SqueezeNet(num_classes=10, squeeze_ratio=0.25, pct_3x3=0.25, bypass="simple")    # the paper's design space
"""

from __future__ import annotations

from typing import Any, Optional

from mindspore import nn, ops
from mindspore.common.initializer import Normal

from src.network.design_space import CIFAR_VERSIONS, STEMS, Norm, Pool, architecture
from src.network.dropout import Dropout
from src.network.initialization import shrink_residuals
from src.network.pooling import CeilMaxPool2d, MaxPool2d

BYPASSES = ("none", "simple", "complex")
BATCH_NORMS = ("none", "squeeze", "all")

# First convolution (channels, kernel size, stride, padding), then the layers up to the classifier: "M", a 3x3/2 max
# pool, and Fire modules (squeeze, expand 1x1, expand 3x3). Parameters are those with 1000 classes; accuracies are of
# one centre crop of the ImageNet validation images.
# fmt: off
VERSIONS = {
    # The paper's table 1: 1,248,424 parameters; top-1 57.5%, top-5 80.3% (paper); 58.1%, 80.4% (torchvision's weights).
    "1_0": (
        (96, 7, 2, "valid"),
        ["M", (16, 64, 64), (16, 64, 64), (32, 128, 128),
         "M", (32, 128, 128), (48, 192, 192), (48, 192, 192), (64, 256, 256),
         "M", (64, 256, 256)],
    ),
    # The authors' SqueezeNet_v1.1 release, smaller stem and earlier pools, 2.4 times fewer operations:
    # 1,235,496 parameters; top-1 58.2%, top-5 80.6% (torchvision's weights).
    "1_1": (
        (64, 3, 2, "valid"),
        ["M", (16, 64, 64), (16, 64, 64),
         "M", (32, 128, 128), (32, 128, 128),
         "M", (48, 192, 192), (48, 192, 192), (64, 256, 256), (64, 256, 256)],
    ),
    **CIFAR_VERSIONS,
}
# fmt: on


def squeezenet1_0(num_classes: int = 1000, **options: Any) -> SqueezeNet:
    """Build the network of the paper; options: the other arguments of SqueezeNet."""
    return SqueezeNet(num_classes, "1_0", **options)


def squeezenet1_1(num_classes: int = 1000, **options: Any) -> SqueezeNet:
    """Build the network of the authors' v1.1 release; options: the other arguments of SqueezeNet."""
    return SqueezeNet(num_classes, "1_1", **options)


class ConvUnit(nn.Cell):
    """A convolution with ReLU, he_uniform weights, and a bias or batch norm; pad_mode: as in Stem."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, pad_mode="same", batch_norm=False, relu=True):
        super().__init__()
        fresh = {"has_bias": not batch_norm, "weight_init": "he_uniform", "bias_init": "zeros"}
        padding = kernel_size // 2 if pad_mode == "pad" else 0
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, pad_mode, padding, **fresh)
        self.norm = nn.BatchNorm2d(out_channels) if batch_norm else nn.Identity()
        self.activation = nn.ReLU() if relu else nn.Identity()

    def construct(self, x):
        return self.activation(self.norm(self.conv(x)))


class Fire(nn.Cell):
    """The Fire module: a 1x1 squeeze, then 1x1 and 3x3 expands side by side, 1x1 first (paper, section 3.2).

    Input (N, in_channels, H, W), output (N, expand1x1 + expand3x3, H, W).
    batch_norm: one of BATCH_NORMS: after no convolution, after the squeeze alone, or after all.
    shortcut: a cell around the module, whose output is added (paper, section 6), or None.
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
        return expanded if self.shortcut is None else expanded + self.shortcut(x)


class SqueezeNet(nn.Cell):
    """SqueezeNet. Input (N, in_channels, H, W) float32, output logits (N, num_classes) float32.

    num_classes: length of the logits.
    version: a row of VERSIONS.
    bypass: "none"; "simple" adds a Fire module's input to its output wherever both have the same channels (v1.0:
        fire 3, 5, 7, 9); "complex" adds a 1x1 convolution of the input around the others too.
    batch_norm: "none"; "squeeze", after the squeeze convolutions alone; "all", after every convolution but the last.
        Where there is any, a version may have one more before the last convolution ("cifar_wide").
    stem: "imagenet", the version's own; "small", 3x3 with stride 1, for images of about 32 pixels; "padded", the
        version's own with zeros around the image.
    ceil_mode: round pooled sizes up, as torchvision does; the paper's Caffe net at 227 gives the same either way.
    classifier_padding: zeros around the input of the last convolution; the authors' Caffe release has 1.
    final_relu: ReLU after the last convolution, as in the paper. Without it the logits can be negative, and training
        cannot die there.
    dropout: probability of dropping a value before the last convolution.
    in_channels: channels of the image.
    base_e, incr_e, freq, pct_3x3, squeeze_ratio: the metaparameters of the paper's section 5.1; see
        src.network.design_space.architecture.

    Initialisation: he_uniform weights, normal(0, 0.01) in the last convolution, zero biases. With batch norm "squeeze",
    which keeps no sum in bounds, the expand convolutions of Fire modules with bypass start smaller.
    Raises ValueError for a value that is not among those listed, TypeError for num_classes that is not an integer.
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
        base_e: Optional[int] = None,
        incr_e: Optional[int] = None,
        freq: Optional[int] = None,
        pct_3x3: Optional[float] = None,
        squeeze_ratio: Optional[float] = None,
    ):
        super().__init__()
        if not isinstance(num_classes, int):
            raise TypeError(f"num_classes: {num_classes!r} is not an integer, as in SqueezeNet(10, version='1_1')")
        choices = {"version": VERSIONS, "bypass": BYPASSES, "batch_norm": BATCH_NORMS, "stem": STEMS}
        for (name, allowed), value in zip(choices.items(), (version, bypass, batch_norm, stem)):
            if value not in allowed:
                raise ValueError(f"unsupported SqueezeNet {name} {value!r}: choose one of {', '.join(allowed)}")
        metaparameters = (base_e, incr_e, freq, pct_3x3, squeeze_ratio)
        self.stem, self.layers = architecture(VERSIONS[version], stem, batch_norm != "none", *metaparameters)
        self.ceil_mode = ceil_mode

        pool = CeilMaxPool2d if ceil_mode else MaxPool2d
        features, channels = [ConvUnit(in_channels, *self.stem, batch_norm == "all")], self.stem.channels
        for layer in self.layers:
            if isinstance(layer, Pool):
                features.append(pool(*layer))
            elif isinstance(layer, Norm):
                features.append(nn.BatchNorm2d(channels))
            else:
                shortcut = _shortcut(bypass, channels, layer.expand, batch_norm == "all")
                features.append(Fire(channels, *layer, batch_norm, shortcut))
                channels = layer.expand
        self.features = nn.SequentialCell(features)
        if batch_norm == "squeeze":
            shrink_residuals([layer for layer in features if isinstance(layer, Fire) and layer.shortcut])

        # The last convolution starts near zero, so that the first logits are small and all classes equally likely.
        fresh = {"has_bias": True, "weight_init": Normal(0.01), "bias_init": "zeros"}
        last = nn.Conv2d(channels, num_classes, 1, pad_mode="pad", padding=classifier_padding, **fresh)
        self.classifier = nn.SequentialCell([Dropout(dropout), last] + ([nn.ReLU()] if final_relu else []))

    def construct(self, x):
        return self.classifier(self.features(x)).mean((2, 3))


def _shortcut(bypass: str, in_channels: int, out_channels: int, batch_norm: bool) -> Optional[nn.Cell]:
    if bypass != "none" and in_channels == out_channels:
        return nn.Identity()
    if bypass == "complex":
        return ConvUnit(in_channels, out_channels, 1, batch_norm=batch_norm, relu=False)
    return None
