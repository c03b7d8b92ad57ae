"""The SqueezeNets of MindSpore's model zoo and of mindcv, rebuilt from their layers, to save checkpoints as they do."""

from __future__ import annotations

from mindspore import nn, ops

# Fire modules (squeeze, each expand), and pools.
WIDTHS = {"16": (16, 64), "32": (32, 128), "48": (48, 192), "64": (64, 256)}
LAYERS = {
    "1_0": ["pool", "16", "16", "32", "pool", "32", "48", "48", "64", "pool", "64"],
    "1_1": ["pool", "16", "16", "pool", "32", "32", "pool", "48", "48", "64", "64"],
}
STEMS = {"1_0": (96, 7, "valid", 0), "1_1": (64, 3, "pad", 1)}


class Fire(nn.Cell):
    def __init__(self, inputs: int, squeeze: int, expand: int):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1, has_bias=True)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1, has_bias=True)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, pad_mode="same", has_bias=True)

    def construct(self, x):
        x = ops.relu(self.squeeze(x))
        return ops.concat((ops.relu(self.expand1x1(x)), ops.relu(self.expand3x3(x))), 1)


def cells(version: str) -> list[nn.Cell]:
    """The layers up to the last convolution, with the activation of the first as one of its own."""
    channels, kernel, pad_mode, padding = STEMS[version]
    made = [nn.Conv2d(3, channels, kernel, 2, pad_mode, padding, has_bias=True), nn.ReLU()]
    for layer in LAYERS[version]:
        if layer == "pool":
            made.append(nn.MaxPool2d(3, 2))
        else:
            squeeze, expand = WIDTHS[layer]
            made.append(Fire(channels, squeeze, expand))
            channels = 2 * expand
    return made


class Zoo(nn.Cell):
    """The zoo's network, v1.0."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.features = nn.SequentialCell(cells("1_0"))
        self.final_conv = nn.Conv2d(512, num_classes, 1, has_bias=True)

    def construct(self, x):
        return ops.relu(self.final_conv(self.features(x))).mean((2, 3))


class Residual(nn.Cell):
    """The zoo's network with simple bypass."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.conv1, _, self.pool, *fires = cells("1_0")
        self.fire2, self.fire3, self.fire4, _, self.fire5, self.fire6, self.fire7, self.fire8, _, self.fire9 = fires
        self.conv10 = nn.Conv2d(512, num_classes, 1, has_bias=True)

    def construct(self, x):
        x = self.fire2(self.pool(ops.relu(self.conv1(x))))
        x = self.pool(self.fire4(x + self.fire3(x)))
        x = self.fire6(x + self.fire5(x))
        x = self.pool(self.fire8(x + self.fire7(x)))
        return ops.relu(self.conv10(x + self.fire9(x))).mean((2, 3))


class MindCV(nn.Cell):
    """mindcv's network, which has zeros around the image in v1.1."""

    def __init__(self, num_classes: int, version: str = "1_1"):
        super().__init__()
        self.features = nn.SequentialCell(cells(version))
        self.final_conv = nn.Conv2d(512, num_classes, 1, has_bias=True)
        self.classifier = nn.SequentialCell([nn.Dropout(p=0.5), self.final_conv, nn.ReLU()])

    def construct(self, x):
        return self.classifier(self.features(x)).mean((2, 3))
