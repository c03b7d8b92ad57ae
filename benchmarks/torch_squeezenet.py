"""The networks of src/squeezenet.py in PyTorch, written independently of MindSpore, for benchmarks to compare with."""

from __future__ import annotations

from typing import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from src.network.design_space import Norm, Pool, architecture
from src.squeezenet import VERSIONS

# What MindSpore calls the parameters of a batch norm, and PyTorch.
_NORM = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}


class Unit(nn.Module):
    """A convolution and ReLU; with batch norm instead of the bias."""

    def __init__(self, inputs, outputs, kernel, stride=1, pad_mode="same", batch_norm=False, relu=True):
        super().__init__()
        if pad_mode == "same" and stride != 1:
            raise ValueError("'same' with a stride pads one side more than the other, which nn.Conv2d cannot")
        padding = 0 if pad_mode == "valid" else kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=not batch_norm)
        self.norm = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()
        self.activation = nn.ReLU(inplace=True) if relu else nn.Identity()  # In place, as torchvision has it.

    def forward(self, x):
        return self.activation(self.norm(self.conv(x)))


class Fire(nn.Module):
    """Squeeze, both expands side by side, and the shortcut added."""

    def __init__(self, inputs, widths, batch_norm, shortcut):
        super().__init__()
        squeeze, expand1x1, expand3x3 = widths
        self.squeeze = Unit(inputs, squeeze, 1, batch_norm=batch_norm != "none")
        self.expand1x1 = Unit(squeeze, expand1x1, 1, batch_norm=batch_norm == "all")
        self.expand3x3 = Unit(squeeze, expand3x3, 3, batch_norm=batch_norm == "all")
        self.shortcut = shortcut

    def forward(self, x):
        squeezed = self.squeeze(x)
        expanded = torch.cat((self.expand1x1(squeezed), self.expand3x3(squeezed)), 1)
        return expanded if self.shortcut is None else expanded + self.shortcut(x)


class SqueezeNet(nn.Module):
    """Arguments, tables and names of the parameters are those of src.squeezenet.SqueezeNet."""

    def __init__(
        self,
        num_classes=10,
        version="1_0",
        bypass="none",
        batch_norm="none",
        stem="imagenet",
        ceil_mode=False,
        classifier_padding=0,
        final_relu=True,
        dropout=0.5,
    ):
        super().__init__()
        (channels, kernel, stride, pad_mode), layers = architecture(VERSIONS[version], stem, batch_norm != "none")
        features = [Unit(3, channels, kernel, stride, pad_mode, batch_norm == "all")]
        for layer in layers:
            if isinstance(layer, Pool):
                features.append(nn.MaxPool2d(*layer, ceil_mode=ceil_mode))
            elif isinstance(layer, Norm):
                features.append(nn.BatchNorm2d(channels))
            else:
                outputs, shortcut = layer.expand1x1 + layer.expand3x3, None
                if bypass != "none" and channels == outputs:
                    shortcut = nn.Identity()
                elif bypass == "complex":
                    shortcut = Unit(channels, outputs, 1, batch_norm=batch_norm == "all", relu=False)
                features.append(Fire(channels, layer, batch_norm, shortcut))
                channels = outputs
        self.features = nn.Sequential(*features)
        self.dropout, self.last = nn.Dropout(dropout), nn.Conv2d(channels, num_classes, 1, padding=classifier_padding)
        self.final_relu = final_relu

    def forward(self, x):
        x = self.last(self.dropout(self.features(x)))
        return (F.relu(x) if self.final_relu else x).mean((2, 3))

    def load(self, weights: Mapping[str, np.ndarray]) -> SqueezeNet:
        """Take the weights of the MindSpore network by their names there, all of them; return self."""
        state = {}
        for name, array in weights.items():
            layer, _, kind = name.replace("classifier.1", "last").rpartition(".")
            state[f"{layer}.{_NORM.get(kind, kind)}"] = torch.from_numpy(array.copy())
        counts = {name for name in self.state_dict() if name.endswith("num_batches_tracked")}
        missing, unexpected = self.load_state_dict(state, strict=False)
        if set(missing) - counts or unexpected:
            raise ValueError(f"missing {missing}, unexpected {unexpected}")
        return self
