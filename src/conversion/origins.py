"""What is supposed of a network by where its weights come from, as far as their file does not tell."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Optional

from src.dataset import cifar10
from src.dataset.preprocessing import Preprocessing
from src.dataset.source import IMAGENET_MEAN, IMAGENET_STD

# Exact preprocessing of ImageNet networks.
RGB = Preprocessing(224, "center_crop", "dataset", IMAGENET_MEAN, IMAGENET_STD, resizer="pillow")
# That of Caffe, whose input is BGR from 0 to 255 less a mean, as the authors subtract it: here in the order of RGB.
CAFFE_MEAN = (123.0, 117.0, 104.0)
CAFFE = dataclasses.replace(RGB, image_size=227, mean=tuple(mean / 255 for mean in CAFFE_MEAN), std=(1 / 255,) * 3)
_ZOO_RGB = dataclasses.replace(RGB, image_size=227, resizer="mindspore")
_CIFAR10 = dataclasses.replace(_ZOO_RGB, fit="resize", mean=cifar10.MEAN, std=cifar10.STD)


class Origin(NamedTuple):
    """Where weights come from.

    name: for messages, after "from".
    model: arguments of SqueezeNet that do not show in the weights of the published versions.
    preprocessing: of images, its mean and std in the order of RGB.
    bgr: whether the network takes BGR.
    known: whether every network from there takes its images like this.
    classes: names of the classes, if neither ImageNet's nor unknown.
    dataset: that the classes belong to.
    """

    name: str
    model: dict[str, Any]
    preprocessing: Preprocessing
    bgr: bool = False
    known: bool = True
    classes: Optional[tuple[str, ...]] = None
    dataset: str = "image_folder"


_PLAIN = {"bypass": "none", "stem": "imagenet", "final_relu": True}
TORCHVISION = Origin("torchvision", {**_PLAIN, "classifier_padding": 0, "ceil_mode": True}, RGB, known=False)
ONNX = Origin("ONNX models", _PLAIN, RGB, known=False)
CAFFE2 = Origin("Caffe2", _PLAIN, dataclasses.replace(CAFFE, image_size=224), bgr=True)
CAFFEMODEL = Origin("Caffe", _PLAIN, CAFFE, bgr=True)
# Caffe rounds pooled sizes up, which at 227 pixels is the same in v1.0.
DEEP_COMPRESSION = Origin("the authors of Deep Compression", {**_PLAIN, "ceil_mode": False}, CAFFE, bgr=True)
NPZ = Origin("Caffe", _PLAIN, dataclasses.replace(RGB, image_size=227), known=False)
_MINDSPORE = {**_PLAIN, "classifier_padding": 0, "ceil_mode": False}
ZOO = Origin("the MindSpore model zoo", _MINDSPORE, _ZOO_RGB)
ZOO_CIFAR10 = Origin("the MindSpore model zoo", _MINDSPORE, _CIFAR10, classes=cifar10.CLASSES, dataset="cifar10")
MINDCV = Origin("mindcv", _MINDSPORE, dataclasses.replace(RGB, resizer="mindspore"))
