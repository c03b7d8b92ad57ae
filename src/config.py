"""Configuration of the programs: defaults < YAML file < command line.

Each concern is a dataclass whose fields are the YAML keys and the flags. The defaults are the recipe of the MindSpore
tutorial on CIFAR-10. docs/make_configuration.py generates the reference of all keys.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Optional, Union, get_type_hints

from src.cli.errors import UserError
from src.cli.flags import Parser
from src.cli.terminal import warn
from src.cli.types import (
    Amount,
    Classes,
    Count,
    CountOrZero,
    Epochs,
    Filters,
    Fraction,
    Norm,
    OpenFraction,
    Padding,
    Ratio,
)
from src.cli.yaml_files import dump
from src.dataset.options import DataConfig, DataSourceConfig
from src.keys import (
    DIALECT,
    RETIRED_KEYS,
    BatchNorm,
    Bypass,
    DeviceConfig,
    Loss,
    NewFolderConfig,
    Optimizer,
    Stem,
    Version,
)
from src.lr_generator import LR_DECAY_MODES

CONFIG_FILES = {".yaml": "config", ".yml": "config"}  # Positional arguments by their suffix.
RUN_CONFIG = "config.yaml"  # The configuration in the folder of a run.
# Keys that may change when a run is resumed: its length, its place, and its output.
MAY_CHANGE = """
    epochs data_path download num_workers max_broken_images csv_columns val_labels pretrained
    device_target device_id strict_device jit_level precision dataset_sink output_path
    resume overwrite scalars keep_checkpoint_max save_checkpoint_steps save_checkpoint_minutes on_save_error log_steps
"""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Network: each key is an argument of SqueezeNet (src/squeezenet.py)."""

    version: Version = "1_0"
    """1_0: the paper's; 1_1: the authors' later one, 2.4 times fewer operations; cifar*: small ones for 32x32 images"""
    bypass: Bypass = "none"
    """connections around Fire modules: none, identities (simple), or identities and 1x1 convolutions (complex)"""
    batch_norm: BatchNorm = "none"
    """batch normalisation: none, after the squeeze convolutions, or after all convolutions but the last"""
    stem: Stem = "imagenet"
    """first convolution: the version's own, 3x3 with stride 1 for small images, or the version's own with zeros around
    the image, as mindcv has it in 1_1"""
    ceil_mode: bool = False
    """round the sizes of pooled maps up, as torchvision does"""
    classifier_padding: Padding = 0
    """zeros around the input of the last convolution (the authors' Caffe release: 1)"""
    final_relu: bool = True
    """apply ReLU after the last convolution, as in the paper; false helps when training does not start"""
    dropout: Fraction = 0.5
    """probability of dropping a value before the last convolution"""
    num_classes: Optional[Classes] = None
    """number of classes; null: as many as the data set has"""
    base_e: Optional[Filters] = None
    """metaparameter (paper, section 5.1): expand filters of the first Fire module; null: the version's own widths;
    base_e, incr_e and freq replace all widths by those of the paper's formula"""
    incr_e: Optional[Filters] = None
    """metaparameter: expand filters added every `freq` modules"""
    freq: Optional[Count] = None
    """metaparameter: consecutive modules of equal width"""
    pct_3x3: Optional[OpenFraction] = None
    """metaparameter: fraction of 3x3 among the expand filters"""
    squeeze_ratio: Optional[Ratio] = None
    """metaparameter: squeeze filters per expand filter"""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Loss and optimizer."""

    optimizer: Optimizer = "momentum"
    """update rule; muon: src/optimizers/muon.py"""
    momentum: Fraction = 0.9
    """momentum of momentum, nesterov and muon"""
    weight_decay: Amount = 1e-4
    """L2 penalty; with muon not on filters"""
    decay_biases: bool = True
    """apply weight decay to biases too; MindSpore never applies it to batch norm parameters"""
    freeze: list[str] = dataclasses.field(default_factory=list)
    """layers of the pretrained network to freeze: features, or names listed by `python -m src.summary`, such as
    features.0, or a range, such as features.0-4"""
    layer_decay: Ratio = 1.0
    """learning rate of a layer relative to that of the layer above it; the last layer has the schedule's"""
    loss: Loss = "cross_entropy"
    """cross_entropy, over all classes, or bce, binary cross entropy of each class"""
    label_smoothing: Fraction = 0.0
    """fraction of the target spread over all classes"""
    class_weights: Union[Literal["none", "balanced"], list[Amount]] = "none"
    """weight of each class in the training loss, in the order of the classes, or balanced: inversely proportional to
    the number of its images; scaled to a mean of 1 over the training images, so that lr_max keeps its meaning"""
    clip_norm: Optional[Norm] = None
    """scale the gradients down to this norm of all of them together; null: do not"""
    ema_decay: Optional[Fraction] = None
    """evaluate and save exponential moving averages of the weights, with this factor of the past, such as 0.999; null:
    the weights themselves"""
    amp_level: Literal["O0", "O1", "O2", "O3", "auto"] = "O0"
    """mixed precision level of mindspore.amp; Ascend and GPU"""
    loss_scale: Optional[Amount] = None
    """loss scale (Ascend and GPU): fixed, or 0 for dynamic; null: dynamic with O2, O3 and auto, none with O0 and O1"""


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Epochs and learning rate (src/lr_generator.py)."""

    epochs: Epochs = 30
    """passes over the training images"""
    lr_decay_mode: Literal[LR_DECAY_MODES] = "reference_linear"
    """decay curve; reference_*: the model zoo's own, bit for bit"""
    lr_init: Amount = 0.0
    """learning rate at the start of the warm-up"""
    lr_max: Amount = 0.01
    """learning rate after the warm-up"""
    lr_end: Amount = 0.0
    """learning rate at the end of the decay"""
    warmup_epochs: CountOrZero = 5
    """epochs of linear warm-up"""
    pretrain_epochs: CountOrZero = 0
    """epochs of the schedule that are already done; they are skipped"""
    lr_scaling: Literal["linear", "none"] = "linear"
    """on several devices: scale learning rates with the images per step, or leave them"""
    lr_batch_size: Optional[Count] = None
    """images per step, on all devices, that the learning rates are meant for; null: batch_size of one device"""
    scaling_warmup_epochs: CountOrZero = 5
    """epochs in which scaled learning rates rise to their full value (Goyal et al. 2017)"""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Run: initial weights, output files, checkpoints and logging."""

    output_path: Optional[str] = None
    """folder of the run; null: runs/<name of the configuration>"""
    resume: bool = False
    """continue the run in output_path, or in --resume FOLDER, with its configuration, from its newest checkpoint"""
    overwrite: bool = False
    """replace the run in output_path"""
    pretrained: Optional[str] = None
    """checkpoint to start from"""
    seed: CountOrZero = 1
    """seed of the weights, the order of the images, augmentation and dropout"""
    keep_checkpoint_max: Count = 10
    """number of checkpoints to keep, in addition to the best one"""
    save_checkpoint_steps: Optional[Count] = None
    """steps between checkpoints, in addition to those at the end of each epoch"""
    save_checkpoint_minutes: Optional[Amount] = None
    """minutes between checkpoints, in addition to those at the end of each epoch"""
    on_save_error: Literal["warn", "stop"] = "warn"
    """if the disk is full or the folder missing: warn and continue, or stop"""
    eval_steps: Optional[Count] = None
    """steps between evaluations; null: one epoch"""
    log_steps: Count = 50
    """steps between lines in the log and between scalars"""
    scalars: Literal["tensorboard", "visualdl", "none"] = "tensorboard"
    """dashboard to write scalars for (visualdl: pip install visualdl)"""
    dataset_sink: Optional[bool] = None
    """feed an Ascend or a GPU about 64 steps at a time, without the host in between; null: true"""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Configuration of train.py, one dataclass per concern."""

    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    device: DeviceConfig
    run: RunConfig

    def check(self) -> None:
        """Raise UserError for values that contradict one another."""
        schedule, run = self.schedule, self.run
        for key in ("warmup_epochs", "pretrain_epochs"):
            value = getattr(schedule, key)
            if value > schedule.epochs:
                raise UserError(f"{key}: {value} is not allowed: at most epochs ({schedule.epochs}); give --{key} too")
        if schedule.pretrain_epochs == schedule.epochs:
            raise UserError(f"pretrain_epochs: {schedule.epochs} leaves no epoch to train: raise epochs")
        if self.optimizer.freeze and not run.pretrained:
            raise UserError("freeze: requires a pretrained network; give its checkpoint with --pretrained")
        if run.resume and run.overwrite:
            raise UserError("resume: cannot be combined with overwrite; give one of the two")
        if run.output_path == "":
            raise UserError("output_path: '' is not allowed: give a folder's name, or leave it out")


@dataclasses.dataclass(frozen=True)
class MindRecordConfig(DataSourceConfig, NewFolderConfig):
    """Packing: write a data set as MindRecord files (to_mindrecord.py)."""

    dataset: Literal["image_folder", "image_csv", "imagenet"] = "imagenet"
    """data set of image files to pack; see train.py"""
    files: Count = 16
    """number of files to pack the images of a split into"""


def parse(argv: list[str], description: str, *concerns: type, positional: Mapping[str, str] = {}) -> list:
    """Parse a command line into an instance of each dataclass; see Parser. Exits with 0 after --help."""
    return Parser(description, concerns, DIALECT, positional).parse(argv)


@functools.cache
def train_parser(description: str) -> Parser:
    """Return the parser of the configuration of a training run."""
    dialect = DIALECT._replace(retired=RETIRED_KEYS)
    return Parser(description, list(get_type_hints(TrainConfig).values()), dialect, CONFIG_FILES)


def parse_train(argv: list[str], description: str) -> TrainConfig:
    """Parse and check the configuration of a training run, with output_path filled in.

    A resumed run has the configuration in its folder, unless --config names another file.
    """
    parser = train_parser(description)
    words = parser.words(argv)
    folder = folder_to_resume(words)
    named = Path(words["config"][0]).stem if words.get("config") else None

    def filled() -> TrainConfig:
        config = TrainConfig(*parser.fill(words))
        return with_keys(config, output_path=config.run.output_path or f"runs/{named or 'squeezenet_cifar10'}")

    config = filled()
    former = os.path.join(config.run.output_path, RUN_CONFIG)
    if config.run.resume and named is None and os.path.isfile(former):
        # The folder may have been moved since.
        words.update(config=[former], output_path=[config.run.output_path])
        config = filled()
    elif folder is not None and named is None:
        raise UserError(f"resume: {folder!r} contains no run to resume; give the folder of a run")
    epochs, warmup = config.schedule.epochs, config.schedule.warmup_epochs
    if warmup > epochs and "epochs" in words and "warmup_epochs" not in words:
        warn(f"warmup_epochs: reduced from {warmup} to {epochs}, the number of epochs")
        config = with_keys(config, warmup_epochs=epochs)
    config.check()
    return config


def folder_to_resume(words: dict[str, list[str]]) -> Optional[str]:
    """Replace --resume FOLDER by --resume --output_path FOLDER, and return the folder, or None."""
    folder = next(iter(words.get("resume", [])), "")
    if folder.lower() in ("", "true", "false"):
        return None
    if "output_path" in words:
        raise UserError(f"resume: {folder!r} is not allowed with --output_path, which names the folder already")
    words.update(resume=["true"], output_path=[folder])
    return folder


def with_keys(config: Any, **keys: Any) -> Any:
    """Return a copy of a configuration with some keys changed, whichever concern each belongs to."""
    changed = {}
    for field in dataclasses.fields(config):
        concern = getattr(config, field.name)
        own = {name: value for name, value in keys.items() if hasattr(concern, name)}
        changed[field.name] = dataclasses.replace(concern, **own)
    return dataclasses.replace(config, **changed)


def decisive_keys(config: TrainConfig) -> dict[str, Any]:
    """Return the keys, with their values, that decide the result of a run."""
    concerns = dataclasses.asdict(config).values()
    return {key: value for values in concerns for key, value in values.items() if key not in MAY_CHANGE.split()}


def changed_keys(config: TrainConfig, former: dict[str, Any]) -> list[str]:
    """Return the keys whose values differ from a run's decisive_keys, as `key: former -> new`."""
    new = decisive_keys(config)
    return [f"{key}: {value} -> {new[key]}" for key, value in former.items() if key in new and new[key] != value]


def to_yaml(config: Any) -> str:
    """Return a configuration as flat YAML, which `--config` reads back to the same configuration."""
    return "".join(f"# {name}\n{dump(concern)}" for name, concern in dataclasses.asdict(config).items())
