"""Configuration of images: their source, their loading, and their use in training."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, Optional, Union

from src.cli.types import Columns, Count, CountOrZero, Fraction, Padding, Ratio, Side
from src.dataset.augmentation import AUGMENTATIONS
from src.dataset.preprocessing import FITS, NORMALIZATIONS, RESIZERS
from src.dataset.registry import DATASETS

Dataset = Literal[tuple(DATASETS)]
Augmentation = Literal[tuple(AUGMENTATIONS)]
Augmentations = Union[Literal["none"], Augmentation, list[Augmentation]]
Resizer = Literal[tuple(name for name in RESIZERS if name != "device")]  # The device: preprocess.


@dataclasses.dataclass(frozen=True)
class DataSourceConfig:
    """Data source: where the images and their labels are."""

    dataset: Dataset = "cifar10"
    """cifar10 (pickled batches), cifar10_binary, image_folder (train/ and val/ with a folder per class, or such folders
    alone), image_csv (train/ with a folder per class, val/ with labels in val.csv), imagenet (train/ with a folder per
    WordNet id, val/ likewise or with labels in val_labels), mindrecord (one of these three, packed by
    to_mindrecord.py), digits (scikit-learn's, needs no files)"""
    data_path: str = "./data"
    """folder of the data set, or a .zip/.tar/.tar.gz of it, which is unpacked next to it"""
    csv_columns: Columns = dataclasses.field(default_factory=lambda: ["image", "label"])
    """image_csv, imagenet: columns of the CSV file that hold the file name and the class name or index"""
    val_labels: Optional[str] = None
    """imagenet: labels of the images in val/, a CSV file or ILSVRC2012_validation_ground_truth.txt; null: search
    data_path"""
    max_broken_images: CountOrZero = 100
    """unreadable images to tolerate: each is named, counted and left out; one more ends the program"""


@dataclasses.dataclass(frozen=True)
class DataLoadingConfig(DataSourceConfig):
    """Data loading: how images are read."""

    download: bool = False
    """download CIFAR-10 into data_path if it is missing"""
    num_workers: CountOrZero = 0
    """threads that load images; 0: one per core, at most 8"""
    eval_images: Optional[Count] = None
    """use at most this many images for each evaluation, evenly over the classes, for a quick look; null: all"""


@dataclasses.dataclass(frozen=True)
class DataConfig(DataLoadingConfig):
    """Training data: which images are used, and how they are preprocessed and augmented."""

    val_split: Optional[Fraction] = None
    """fraction of the training images set aside for validation, always the same ones, unless the data set has a folder
    of validation images; null: 0.2 of class folders without train/, otherwise none"""
    train_images: Optional[Count] = None
    """use only this many training images, evenly over the classes"""
    batch_size: Count = 32
    """images per step on each device"""
    image_size: Side = 224
    """side of the network's input in pixels"""
    fit: Literal[FITS] = "resize"
    """how an image gets image_size: resize both sides; crop or zero-pad; resize the shorter side to 256 for 224 and
    227, to 8/7 of any other image_size, and crop the centre (center_crop)"""
    resizer: Resizer = "mindspore"
    """resizing in evaluation and prediction: mindspore, fast, or pillow, the pixels of published ImageNet networks"""
    preprocess: Optional[Literal["host", "device"]] = None
    """where images are normalised: on the host by data-set operators, or on the device in the graph, which takes uint8
    images, and also resizes them if those of the data set all have one size (not with resizer pillow, nor with
    crop_flip and fit center_crop); likewise when the checkpoint is evaluated or exported; null: on the device if it is
    an Ascend, else on the host"""
    augment: Augmentations = "none"
    """training augmentations, one or several: crop_flip, color_jitter, randaugment, cutout, mixup, cutmix"""
    mixup_alpha: Ratio = 1.0
    """mixup: draw the weight of the image from Beta(alpha, alpha); with a small alpha it is mostly close to 0 or 1"""
    cutmix_alpha: Ratio = 1.0
    """cutmix: draw the area that the image keeps from Beta(alpha, alpha)"""
    crop_padding: Optional[Padding] = None
    """zeros around an image before crop_flip crops it; null: an eighth of image_size"""
    normalize: Literal[NORMALIZATIONS] = "dataset"
    """normalise by the data set's mean and deviation (with pretrained: the checkpoint's), or each image by its own"""


def data_config(source: DataSourceConfig, **keys: Any) -> DataConfig:
    """Return a DataConfig with a program's data source and further keys."""
    names = [field.name for field in dataclasses.fields(DataLoadingConfig) if hasattr(source, field.name)]
    return DataConfig(**{**{name: getattr(source, name) for name in names}, **keys})
