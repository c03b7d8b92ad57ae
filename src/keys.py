"""Types of the configuration's keys, synonyms of the keys, and the dataclasses common to several programs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

from pydantic import BeforeValidator

from src.cli.flags import Dialect
from src.cli.types import CountOrZero
from src.loss import LOSSES
from src.optimizers import OPTIMIZERS
from src.squeezenet import BATCH_NORMS, BYPASSES, STEMS, VERSIONS


def _version(name: Any) -> Any:
    """Return 1_1 for 1.1, v1.1 and squeezenet1_1."""
    return re.sub(r"^(squeezenet|v)[-_ ]?", "", name.lower()).replace(".", "_") if isinstance(name, str) else name


Version = Annotated[Literal[tuple(VERSIONS)], BeforeValidator(_version)]
Bypass = Literal[BYPASSES]
BatchNorm = Literal[BATCH_NORMS]
Stem = Literal[tuple(STEMS)]
Optimizer = Literal[tuple(OPTIMIZERS)]
Loss = Literal[tuple(LOSSES)]

# Names of the keys in other programs.
_OTHERS_WORDS = {
    "lr_max": "lr learning_rate base_lr max_lr",
    "version": "model net network net_name model_name arch",
    "device_target": "device target platform",
    "ckpt_path": "checkpoint checkpoint_path checkpoint_file_path ckpt ckpt_file weights model_path pretrained model",
    "pretrained": "checkpoint checkpoint_path checkpoint_file_path ckpt ckpt_file ckpt_path pre_trained weights",
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
# Keys of the last release, accepted with a warning until the next one.
RENAMED_KEYS = {"lr_layer_decay": ["layer_decay"], "mix_alpha": ["mixup_alpha", "cutmix_alpha"]}
# Former keys of train.py in the config.yaml of old runs, with the value that has no effect. Others are refused.
RETIRED_KEYS: dict[str, Any] = {"on_nan": "stop", "whiten_stem": False, "early_size": None, "early_epochs": 0}

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
    an Ascend 910B or later, MindSpore's own default elsewhere"""
    precision: Literal["default", "high"] = "default"
    """precision of float32 convolutions and matrix products: default, the device's own (HF32 or float16 on an Ascend,
    TF32 on a GPU), or high, float32"""


@dataclasses.dataclass(frozen=True)
class NewFolderConfig:
    """Output folder."""

    output_path: str
    """folder to make; it must not exist yet"""
