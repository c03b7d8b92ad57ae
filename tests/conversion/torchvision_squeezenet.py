"""torchvision's SqueezeNet, rebuilt from its description, to write files with torch and to compare outputs."""

from __future__ import annotations

import torch
from torch import nn

# In `features`, after the first convolution and its activation: Fire modules (inputs, squeeze, each expand), and pools.
FIRES_192 = [(256, 48, 192), (384, 48, 192), (384, 64, 256)]
LAYERS = {
    "1_0": (
        (96, 7),
        *("pool", (96, 16, 64), (128, 16, 64), (128, 32, 128), "pool", (256, 32, 128), *FIRES_192),
        *("pool", (512, 64, 256)),
    ),
    "1_1": (
        (64, 3),
        *("pool", (64, 16, 64), (128, 16, 64), "pool", (128, 32, 128), (256, 32, 128), "pool", *FIRES_192),
        (512, 64, 256),
    ),
}


class Fire(nn.Module):
    def __init__(self, inputs: int, squeeze: int, expand: int):
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.expand1x1(x)), torch.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    def __init__(self, version: str, num_classes: int = 1000):
        super().__init__()
        (channels, kernel), *layers = LAYERS[version]
        made = [nn.MaxPool2d(3, 2, ceil_mode=True) if layer == "pool" else Fire(*layer) for layer in layers]
        self.features = nn.Sequential(nn.Conv2d(3, channels, kernel, 2), nn.ReLU(), *made)
        last = nn.Conv2d(512, num_classes, 1)
        self.classifier = nn.Sequential(nn.Dropout(0.5), last, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        for convolution in (module for module in self.features.modules() if isinstance(module, nn.Conv2d)):
            nn.init.kaiming_uniform_(convolution.weight, nonlinearity="relu")  # So that logits are of a real size.

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(x)).flatten(1)
