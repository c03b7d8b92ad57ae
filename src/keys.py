"""Types of the configuration's keys, other names that users give the keys, and the groups that programs share."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, Union

from pydantic import BeforeValidator

from src.cli.flags import Dialect, limited
from src.dataset.augmentation import AUGMENTATIONS
from src.dataset.preprocessing import FITS, NORMALIZATIONS, RESIZERS
from src.dataset.registry import DATASETS
from src.loss import LOSSES
from src.optimizers import OPTIMIZERS
from src.squeezenet import BATCH_NORMS, BYPASSES, STEMS, VERSIONS

Count = limited(int, "a whole number, at least 1", ge=1, lt=2**31)
CountOrZero = limited(int, "a whole number, at least 0", ge=0, lt=2**31)
Amount = limited(float, "a number, at least 0", ge=0, allow_inf_nan=False)
Fraction = limited(float, "a number from 0 to below 1", ge=0, lt=1)
OpenFraction = limited(float, "a number between 0 and 1", gt=0, lt=1)
Ratio = limited(float, "a number above 0, at most 8", gt=0, le=8)
# Beyond these no image, layer or data set is meant, and a typing error takes all memory.
Side = limited(int, "a whole number from 1 to 8192", ge=1, le=8192)
Padding = limited(int, "a whole number from 0 to 512", ge=0, le=512)
Filters = limited(int, "a whole number from 0 to 65536", ge=0, le=65536)
Classes = limited(int, "a whole number from 1 to 1000000", ge=1, le=1_000_000)
Epochs = limited(int, "a whole number from 1 to 100000", ge=1, le=100_000)
Columns = limited(
    list[str], "two names: the column of the file and the column of the class", min_length=2, max_length=2
)


def _version(name: Any) -> Any:
    """Return 1_1 for 1.1, v1.1 and squeezenet1_1."""
    return re.sub(r"^(squeezenet|v)[-_ ]?", "", name.lower()).replace(".", "_") if isinstance(name, str) else name


Version = Annotated[Literal[tuple(VERSIONS)], BeforeValidator(_version)]
Bypass = Literal[BYPASSES]
BatchNorm = Literal[BATCH_NORMS]
Stem = Literal[tuple(STEMS)]
Dataset = Literal[tuple(DATASETS)]
Augmentation = Literal[tuple(AUGMENTATIONS)]
Augmentations = Union[Literal["none"], Augmentation, list[Augmentation]]
Resizer = Literal[tuple(name for name in RESIZERS if name != "device")]  # The device: preprocess.
Fit = Literal[FITS]
Normalization = Literal[NORMALIZATIONS]
Optimizer = Literal[tuple(OPTIMIZERS)]
Loss = Literal[tuple(LOSSES)]

# What other programs call a key.
_OTHERS_WORDS = {
    "lr_max": "lr learning_rate base_lr max_lr",
    "version": "model net network net_name model_name arch",
    "device_target": "device target platform",
    "ckpt_path": "checkpoint checkpoint_path checkpoint_file_path ckpt ckpt_file weights model_path pretrained model",
    "pretrained": "checkpoint checkpoint_path checkpoint_file_path ckpt ckpt_path pre_trained weights",
    "config": "config_path config_file cfg c yaml",
    "epochs": "epoch_size epoch num_epochs max_epochs",
    "num_classes": "class_num classes n_classes nb_classes",
    "data_path": "data data_dir dataset_path data_url",
    "images": "image input img input_path",
    "output_path": "output output_dir out save_path save_checkpoint_path train_url work_dir",
    "batch_size": "batch bs",
    "num_workers": "workers num_parallel_workers",
    "dropout": "drop_rate dropout_rate",
    "weight_decay": "wd",
    "optimizer": "opt",
    "augment": "aug augmentation",
    "file_format": "format export_format",
    "image_size": "size img_size resolution",
    "--devices of scripts/run_distribute_train_*.sh": "device_num devices rank_size run_distribute nproc_per_node",
    "tta": "flip",
}
# Keys of the last release, which are taken with a warning until the next one.
RENAMED_KEYS = {"lr_layer_decay": ["layer_decay"], "mix_alpha": ["mixup_alpha", "cutmix_alpha"]}
# Former keys of train.py in the config.yaml of old runs, with the value that means nothing. Any other is refused.
RETIRED_KEYS: dict[str, Any] = {"on_nan": "stop"}

DIALECT = Dialect(
    synonyms={
        word: [key for key, words in _OTHERS_WORDS.items() if word in words.split()]
        for words in _OTHERS_WORDS.values()
        for word in words.split()
    },
    renamed=RENAMED_KEYS,
    recipes=Path(__file__).resolve().parent.parent / "config",
)


@dataclasses.dataclass(frozen=True)
class DataSourceConfig:
    """Data source: where the images and their labels are."""

    dataset: Dataset = "cifar10"
    """cifar10 (pickled batches), cifar10_binary, image_folder (train/ and val/ with a folder per class), image_csv
    (train/ with a folder per class, val/ with labels in val.csv), imagenet (train/ with a folder per WordNet id, val/
    likewise or with labels in val_labels), mindrecord (one of these three, packed by to_mindrecord.py), digits
    (scikit-learn's, needs no files)"""
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
    """Data loading: how the images get into memory."""

    download: bool = False
    """download CIFAR-10 into data_path if it is missing"""
    num_workers: CountOrZero = 0
    """threads that load images; 0: one per core, at most 8"""


@dataclasses.dataclass(frozen=True)
class DeviceConfig:
    """Device."""

    device_target: Literal["auto", "Ascend", "GPU", "CPU"] = "auto"
    """kind of device; auto: the best one that works"""
    device_id: CountOrZero = 0
    """index of the device"""
    strict_device: bool = False
    """stop if device_target is missing, instead of falling back to another"""
    mode: Literal["graph", "pynative"] = "graph"
    """MindSpore's execution mode: GRAPH_MODE or PYNATIVE_MODE"""
    jit_level: Optional[Literal["O0", "O1", "O2"]] = None
    """fusion of a graph's kernels: O0 none, O1 fused kernels, O2 the whole graph compiled by CANN (Ascend); null: O1 on
    an Ascend, MindSpore's own default elsewhere"""
    precision: Literal["default", "high"] = "default"
    """precision of float32 convolutions and matrix products: default, the device's own (HF32 or float16 on an Ascend,
    TF32 on a GPU), or high, float32"""


@dataclasses.dataclass(frozen=True)
class NewFolderConfig:
    """Output folder."""

    output_path: str
    """folder to make; it must not exist yet"""
