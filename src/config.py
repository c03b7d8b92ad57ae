"""The typed configuration: defaults < YAML file < command line.

Every concern is a dataclass; its fields are the YAML keys and the flags. An unknown key, a wrong type or an impossible
value is a UserError of one line. The defaults are the recipe of the MindSpore tutorial on CIFAR-10.

    python -m src.config > docs/CONFIGURATION.md       # the reference of all keys
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import re
import sys
from pathlib import Path
from typing import Any, ClassVar, List, Literal, Optional, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings
from jsonargparse.typing import OpenUnitInterval, restricted_number_type

from src.errors import UserError

_INF = float("inf")
# Bytes of a file's name that are not UTF-8, and line ends that YAML folds, on their way through jsonargparse.
_TO_YAML = {code: 0x10F000 + i for i, code in enumerate((*range(0xDC80, 0xDD00), 0x85, 0x2028, 0x2029))}
_FROM_YAML = {replacement: code for code, replacement in _TO_YAML.items()}
Count = restricted_number_type("Count", int, [(">=", 1), ("<", 2**31)])
CountOrZero = restricted_number_type("CountOrZero", int, [(">=", 0), ("<", 2**31)])
Amount = restricted_number_type("Amount", float, [(">=", 0), ("<", _INF)])
Share = restricted_number_type("Share", float, [(">=", 0), ("<", 1)])
OpenShare = OpenUnitInterval
# Beyond these no image, layer or data set is meant, and a typing error takes all memory.
Side = restricted_number_type("Side", int, [(">=", 1), ("<=", 8192)])
Padding = restricted_number_type("Padding", int, [(">=", 0), ("<=", 512)])
Filters = restricted_number_type("Filters", int, [(">=", 0), ("<=", 65536)])
Classes = restricted_number_type("Classes", int, [(">=", 1), ("<=", 1_000_000)])
Epochs = restricted_number_type("Epochs", int, [(">=", 1), ("<=", 100_000)])
Ratio = restricted_number_type("Ratio", float, [(">", 0), ("<=", 8)])
_DESCRIPTIONS = {
    Count: "a whole number, at least 1",
    CountOrZero: "a whole number, at least 0",
    Amount: "a number, at least 0",
    Share: "a number from 0 to below 1",
    OpenShare: "a number between 0 and 1",
    Side: "a whole number from 1 to 8192",
    Padding: "a whole number from 0 to 512",
    Filters: "a whole number from 0 to 65536",
    Classes: "a whole number from 1 to 1000000",
    Epochs: "a whole number from 1 to 100000",
    Ratio: "a number above 0, at most 8",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    type(None): "null",
}

RUN_CONFIG = "config.yaml"  # In the folder of a run: the configuration that it has.
# What a resumed run may have otherwise: how long it is, where it runs, and what it writes.
MAY_CHANGE = (
    *("epochs", "data_path", "download", "num_workers", "max_broken_images", "csv_columns", "val_labels", "pretrained"),
    *("device_target", "device_id", "strict_device", "dataset_sink", "output_path", "resume", "overwrite", "scalars"),
    *(
        "keep_checkpoint_max",
        "save_checkpoint_steps",
        "save_checkpoint_minutes",
        "on_save_error",
        "on_nan",
        "log_steps",
    ),
)

Augmentation = Literal["crop_flip", "color_jitter", "cutout", "mixup", "cutmix"]
Dataset = Literal["cifar10", "cifar10_binary", "image_folder", "image_csv", "imagenet", "mindrecord", "digits"]
OWN_VALIDATION = ("image_folder", "image_csv", "imagenet", "mindrecord")  # Data sets that come with validation images.
Resizer = Literal["mindspore", "pillow"]


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network. Each is an argument of SqueezeNet (src/squeezenet.py)."""

    version: Literal["1_0", "1_1", "cifar", "cifar_deep", "cifar_wide"] = "1_0"
    """1_0: the paper's; 1_1: the authors' later one, with 2.4 times fewer operations; cifar, cifar_deep, cifar_wide:
    small ones, for 32x32"""
    bypass: Literal["none", "simple", "complex"] = "none"
    """connections around Fire modules: none, identities, or identities and 1x1 convolutions"""
    batch_norm: Literal["none", "squeeze", "all"] = "none"
    """batch normalisation after no convolution, the squeeze convolutions, or all but the last"""
    stem: Literal["imagenet", "small"] = "imagenet"
    """first convolution: the version's own, or 3x3 with stride 1 for small images"""
    ceil_mode: bool = False
    """round the sizes of pooled maps up, as torchvision does"""
    classifier_padding: Padding = 0
    """zeros around the input of the last convolution (the authors' Caffe release: 1)"""
    final_relu: bool = True
    """ReLU after the last convolution, as in the paper; false cures a dead start"""
    dropout: Share = 0.5
    """probability of dropping a value before the last convolution"""
    num_classes: Optional[Classes] = None
    """classes; null: as many as the data set has"""
    base_e: Optional[Filters] = None
    """metaparameter (paper, section 5.1): expand filters of the first Fire module; null: the version's own widths"""
    incr_e: Optional[Filters] = None
    """metaparameter: expand filters added every `freq` modules"""
    freq: Optional[Count] = None
    """metaparameter: modules of equal width in a row"""
    pct_3x3: Optional[OpenShare] = None
    """metaparameter: share of 3x3 among the expand filters"""
    squeeze_ratio: Optional[Ratio] = None
    """metaparameter: squeeze filters per expand filter"""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """The images and their way into the network."""

    dataset: Dataset = "cifar10"
    """cifar10 (pickled batches), cifar10_binary, image_folder (train/, val/ with a folder a class), image_csv (train/
    with a folder a class, val/ with labels in val.csv), imagenet (train/ with a folder a WordNet id, val/ likewise or
    with labels in val_labels), mindrecord (any of these three, packed by to_mindrecord.py), digits (scikit-learn's,
    needs no files)"""
    data_path: str = "./data"
    """folder that holds the data set, or a .zip/.tar/.tar.gz of it, which is unpacked beside"""
    download: bool = False
    """fetch CIFAR-10 into data_path when it is not there"""
    val_split: Share = 0.0
    """share of the training images set aside for validation, always the same ones"""
    train_images: Optional[Count] = None
    """use only so many training images, evenly over the classes"""
    batch_size: Count = 32
    """images a step on each device"""
    image_size: Side = 224
    """side of the network's input in pixels"""
    early_size: Optional[Side] = None
    """side of the training images in the first early_epochs epochs: smaller ones train faster; null: image_size"""
    early_epochs: CountOrZero = 0
    """epochs of early_size"""
    fit: Literal["resize", "crop", "center_crop"] = "resize"
    """how an image gets to image_size: both sides resized; cropped or zero-padded; shorter side resized to 256 for 224
    and 227, to 8/7 of any other image_size, and the centre cropped"""
    resizer: Resizer = "mindspore"
    """what resizes in evaluation and prediction: mindspore, the fast data-set operator, or pillow, which gives the
    pixels that ImageNet networks are published with"""
    preprocess: Literal["host", "device"] = "host"
    """where images are resized and normalised: host, by data-set operators, or device, in the graph, which takes uint8
    images of the data set's own size; also when the checkpoint is evaluated or exported"""
    augment: Union[Literal["none"], Augmentation, List[Augmentation]] = "none"
    """training augmentations, one or a list: crop_flip, color_jitter, cutout, mixup, cutmix"""
    mix_alpha: Ratio = 1.0
    """mixup, cutmix: the image's own share is drawn from Beta(mix_alpha, mix_alpha); small: mostly all or nothing"""
    crop_padding: Optional[Padding] = None
    """zeros around an image before crop_flip crops it; null: an eighth of image_size"""
    normalize: Literal["dataset", "per_image"] = "dataset"
    """by the data set's mean and standard deviation (with pretrained, by those of the checkpoint), or each image by its
    own"""
    csv_columns: List[str] = dataclasses.field(default_factory=lambda: ["image", "label"])
    """image_csv, imagenet: the columns of the CSV file with the file name and with the class name or index"""
    val_labels: Optional[str] = None
    """imagenet: the labels of the images in val/, a CSV file or ILSVRC2012_validation_ground_truth.txt; null: looked
    for in data_path"""
    num_workers: CountOrZero = 0
    """threads that load images; 0: as many as cores, at most 8"""
    max_broken_images: CountOrZero = 100
    """images that may be unreadable: each is named, counted and left out; one more ends the run"""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Loss and optimizer."""

    optimizer: Literal["momentum", "nesterov", "muon", "sgd", "adam"] = "momentum"
    """update rule; muon: src/optimizers/muon.py"""
    momentum: Share = 0.9
    """of momentum, nesterov and muon"""
    weight_decay: Amount = 1e-4
    """L2 penalty; with muon not on filters"""
    decay_biases: bool = True
    """weight decay on biases too; batch norm parameters never have it, as MindSpore has it"""
    freeze: List[str] = dataclasses.field(default_factory=list)
    """layers of the pretrained network, or the whitened stem, that stay as they are: features, or some of those that
    `python -m src.summary` lists, as features.0, or a range, as features.0-4"""
    lr_layer_decay: Ratio = 1.0
    """learning rate of a layer in proportion to that of the layer above; the last has that of the schedule"""
    label_smoothing: Share = 0.0
    """share of the target spread over all classes"""
    amp_level: Literal["O0", "O1", "O2", "O3", "auto"] = "O0"
    """mixed precision of mindspore.amp; Ascend and GPU"""
    loss_scale: Amount = 1.0
    """fixed loss scale; 0: dynamic (Ascend and GPU)"""


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Epochs and learning rate (src/lr_generator.py)."""

    epochs: Epochs = 30
    """passes over the training images"""
    lr_decay_mode: Literal[
        "steps", "poly", "linear", "cosine", "reference_steps", "reference_poly", "reference_linear", "reference_cosine"
    ] = "reference_linear"
    """decay curve; reference_*: the model zoo's own, bit for bit"""
    lr_init: Amount = 0.0
    """learning rate where the warm-up starts"""
    lr_max: Amount = 0.01
    """learning rate after the warm-up"""
    lr_end: Amount = 0.0
    """learning rate where the decay ends"""
    warmup_epochs: CountOrZero = 5
    """epochs of linear warm-up"""
    pretrain_epochs: CountOrZero = 0
    """epochs of the schedule already done; they are cut off its start"""
    lr_scaling: Literal["linear", "none"] = "linear"
    """on several devices: learning rates in proportion to the images a step, or as they are"""
    lr_batch_size: Optional[Count] = None
    """images a step, on all devices, that the learning rates are given for; null: batch_size, of one device"""
    scaling_warmup_epochs: CountOrZero = 5
    """epochs within which scaled learning rates rise to their scale (Goyal et al. 2017)"""


@dataclasses.dataclass(frozen=True)
class DeviceConfig:
    """Where it runs."""

    device_target: Literal["auto", "Ascend", "GPU", "CPU"] = "auto"
    """auto: the best that works"""
    device_id: CountOrZero = 0
    """which of several"""
    strict_device: bool = False
    """stop when device_target is not there, instead of falling back"""
    mode: Literal["graph", "pynative"] = "graph"
    """GRAPH_MODE or PYNATIVE_MODE"""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What a training run starts from, and what it writes."""

    output_path: Optional[str] = None
    """folder of the run; null: runs/<name of the configuration>"""
    resume: bool = False
    """go on with the run that is in output_path, with its configuration, from its newest checkpoint"""
    overwrite: bool = False
    """replace the run that is in output_path"""
    pretrained: Optional[str] = None
    """checkpoint to start from"""
    whiten_stem: bool = False
    """start with a first convolution that whitens patches of the training images (src/whitening.py)"""
    seed: CountOrZero = 1
    """of weights, order of the images, augmentation and dropout"""
    keep_checkpoint_max: Count = 10
    """checkpoints kept, besides the best one"""
    save_checkpoint_steps: Optional[Count] = None
    """steps between checkpoints, besides those at every epoch's end"""
    save_checkpoint_minutes: Optional[Amount] = None
    """minutes between checkpoints, besides those at every epoch's end"""
    on_save_error: Literal["warn", "stop"] = "warn"
    """when the disk is full or the folder gone: say so and go on, or stop"""
    on_nan: Literal["stop", "skip"] = "stop"
    """when the loss is not finite: stop, or undo the step, count it and go on"""
    eval_steps: Optional[Count] = None
    """steps between evaluations; null: an epoch"""
    log_steps: Count = 50
    """steps between lines in the log and between scalars"""
    scalars: Literal["tensorboard", "visualdl", "none"] = "tensorboard"
    """dashboard that the scalars are written for (visualdl: pip install visualdl)"""
    dataset_sink: Optional[bool] = None
    """feed the device an epoch at a time; null: on Ascend and GPU when no eval_steps are given"""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything train.py knows, one dataclass per concern."""

    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    device: DeviceConfig
    run: RunConfig

    def check(self) -> None:
        """Raise UserError for values that do not fit together."""
        schedule, data = self.schedule, self.data
        for key in ("warmup_epochs", "pretrain_epochs"):
            value = getattr(schedule, key)
            if value > schedule.epochs:
                raise UserError(f"{key}: {value} is not allowed: at most epochs ({schedule.epochs}); give --{key} too")
        if schedule.pretrain_epochs == schedule.epochs:
            raise UserError(f"pretrain_epochs: {schedule.epochs} leaves no epoch to train: raise epochs")
        if (data.early_size is None) != (data.early_epochs == 0):
            raise UserError("early_size and early_epochs: the one says nothing without the other: give both")
        if data.preprocess == "device":
            if data.early_size and data.fit != "crop":
                raise UserError(
                    f"preprocess: device resizes to one size, and early_size is another; fit {data.fit} goes with host"
                )
            if data.fit == "center_crop" and "crop_flip" in data.augment:
                raise UserError("preprocess: device does not resize random parts of images; give fit resize or crop")
        if data.early_epochs > schedule.epochs:
            raise UserError(f"early_epochs: {data.early_epochs} is not allowed: at most epochs ({schedule.epochs})")
        if data.val_split and data.dataset in OWN_VALIDATION:
            raise UserError(f"val_split: {data.dataset} has validation images of its own (val/): leave val_split at 0")
        if self.optimizer.freeze and not (self.run.pretrained or self.run.whiten_stem):
            raise UserError("freeze: keeps weights of a pretrained network: give its checkpoint with --pretrained")
        if self.run.pretrained and self.run.whiten_stem:
            raise UserError("whiten_stem: makes weights that pretrained has already: give one of the two")
        if self.run.resume and self.run.overwrite:
            raise UserError("resume: goes on with a run, and overwrite replaces it: give one of the two")
        if self.run.on_nan == "skip" and self.run.dataset_sink:
            raise UserError("on_nan: skip looks at every step, and dataset_sink at every epoch: give one of the two")
        if self.run.output_path == "":
            raise UserError("output_path: '' is not allowed: give a folder's name, or leave it out")
        if len(data.csv_columns) != 2:
            raise UserError(f"csv_columns: {data.csv_columns} is not allowed: two names, of file and of class")


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """What eval.py evaluates. What the checkpoint was trained with (network, image size, normalisation) is in it."""

    ckpt_path: str
    """checkpoint"""
    dataset: Optional[Dataset] = None
    """null: the data set it was trained on"""
    data_path: str = "./data"
    """folder that holds the data set"""
    split: Optional[Literal["train", "val", "test"]] = None
    """null: test, or val where the data set has no test images"""
    batch_size: Count = 32
    """images a step"""
    num_workers: CountOrZero = 0
    """threads that load images; 0: as many as cores, at most 8"""
    csv_columns: List[str] = dataclasses.field(default_factory=lambda: ["image", "label"])
    """image_csv, imagenet: the columns of the CSV file with the file name and with the class"""
    val_labels: Optional[str] = None
    """imagenet: the labels of the images in val/, a CSV file or ILSVRC2012_validation_ground_truth.txt; null: looked
    for in data_path"""
    max_broken_images: CountOrZero = 100
    """images that may be unreadable: each is named, counted and left out; one more ends the evaluation"""
    resizer: Optional[Literal[Resizer, "device"]] = None
    """mindspore, the fast one, pillow, the exact one for ImageNet networks, or device, in the graph, where images all
    have one size; null: the checkpoint's own"""
    flip: bool = False
    """test-time flips: take the mean of the outputs for an image and for its mirror image, at twice the work"""
    output_path: Optional[str] = None
    """folder for result.json, the confusion matrix and the gallery; null: eval_<checkpoint>_<split> beside it"""


@dataclasses.dataclass(frozen=True)
class InferConfig:
    """What infer.py classifies, with what."""

    images: List[str]
    """image files, and folders of them"""
    ckpt_path: Optional[str] = None
    """checkpoint"""
    model_path: Optional[str] = None
    """exported model (.mindir, .onnx) with its .json beside it"""
    top_k: Count = 5
    """classes named per image"""
    batch_size: Count = 32
    """images a step, where the model leaves the choice"""
    features: bool = False
    """write features.npz too: `features` (images, channels) float32, the mean of the last feature map, which describes
    an image for retrieval or another classifier, and `files` (images,); from a checkpoint"""
    cam: bool = False
    """show in the gallery where in each image its class was seen (class activation map); from a checkpoint"""
    output_path: str = "predictions"
    """folder for predictions.json and the gallery"""


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """What export.py writes."""

    ckpt_path: str
    """checkpoint"""
    file_format: Literal["MINDIR", "AIR", "ONNX"] = "MINDIR"
    """AIR needs an Ascend"""
    file_name: Optional[str] = None
    """file to write; null: the checkpoint's name with the format's ending"""
    batch_size: Count = 1
    """images a call"""
    dynamic_batch: bool = False
    """any number of images a call (MINDIR, ONNX)"""
    image_size: Optional[Side] = None
    """side of the input in pixels; null: as trained"""
    softmax: bool = False
    """probabilities instead of logits"""
    uint8_input: bool = False
    """take pixels (N, H, W, 3) from 0 to 255 and normalise them inside the graph"""


@dataclasses.dataclass(frozen=True)
class MindRecordConfig:
    """What to_mindrecord.py packs."""

    output_path: str
    """folder to make, which must not be there yet"""
    dataset: Literal["image_folder", "image_csv", "imagenet"] = "imagenet"
    """data set of image files; see train.py"""
    data_path: str = "./data"
    """folder that holds the data set, or a .zip/.tar/.tar.gz of it"""
    csv_columns: List[str] = dataclasses.field(default_factory=lambda: ["image", "label"])
    """image_csv, imagenet: the columns of the CSV file with the file name and with the class"""
    val_labels: Optional[str] = None
    """imagenet: the labels of the images in val/; null: looked for in data_path"""
    files: Count = 16
    """files that the images of a split are packed into"""
    max_broken_images: CountOrZero = 100
    """files that may be empty or unreadable: each is named and left out; one more ends the packing"""


def parse(argv: list[str], description: str, *concerns: type) -> list:
    """Return one instance of each dataclass in `concerns`, filled by defaults < --config FILE < argv.

    Exits with 0 after --help. Raises UserError, one line that names the key, the value and what is allowed.
    """
    fields = {name: kind for concern in concerns for name, kind in get_type_hints(concern).items()}
    parser = _parser(description, *concerns)
    flags = _explicit([token.translate(_TO_YAML) for token in argv], fields)
    config_file = next((flag.split("=", 1)[1] for flag in reversed(flags) if flag.startswith("--config=")), None)
    from_file = []
    if config_file is not None:
        config_file = config_file.translate(_FROM_YAML)
        from_file = _flags_of_yaml(config_file, fields)
        _parse(parser, from_file + _required_placeholders(concerns, from_file), fields, f"{config_file}: ")
    values = _parse(parser, from_file + flags, fields, "")
    return [concern(**{f.name: _plain(values[f.name]) for f in dataclasses.fields(concern)}) for concern in concerns]


@functools.lru_cache
def _parser(description: str, *concerns: type) -> ArgumentParser:
    """Return the parser of some dataclasses; making one takes ten times longer than parsing."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(exit_on_error=False, description=description, allow_abbrev=False)
    parser.add_argument("--config", help="YAML file with any of the keys below; flags take precedence over it")
    for concern in concerns:
        parser.add_class_arguments(concern, None, help=concern.__doc__.splitlines()[0])
    return parser


def _plain(value: Any) -> Any:
    """Return a restricted number as the int or float it is, which YAML and MindSpore know, and a text as it was."""
    if isinstance(value, str):
        return value.translate(_FROM_YAML)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    for kind in (int, float):
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(value)
    return value


def parse_train(argv: list[str], description: str) -> TrainConfig:
    """Return the checked configuration of a training run, with output_path filled in.

    A run that is resumed has the configuration in its folder, unless --config names another file.
    """
    concerns = get_type_hints(TrainConfig).values()
    flags = _explicit(argv, {"config": str})
    named = next((Path(flag.split("=", 1)[1]).stem for flag in flags if flag.startswith("--config=")), None)

    def parsed(arguments: list[str]) -> TrainConfig:
        config = TrainConfig(*parse(arguments, description, *concerns))
        return with_keys(config, output_path=config.run.output_path or f"runs/{named or 'squeezenet_cifar10'}")

    config = parsed(argv)
    former = Path(config.run.output_path) / RUN_CONFIG
    if config.run.resume and named is None and former.is_file():
        # The folder may have been moved since.
        config = parsed([f"--config={former}", *argv, f"--output_path={config.run.output_path}"])
    config.check()
    return config


def with_keys(config: Any, **keys: Any) -> Any:
    """Return a configuration of several concerns with some keys changed, whatever concern each belongs to."""
    changed = {}
    for field in dataclasses.fields(config):
        concern = getattr(config, field.name)
        own = {name: value for name, value in keys.items() if name in {f.name for f in dataclasses.fields(concern)}}
        changed[field.name] = dataclasses.replace(concern, **own)
    return dataclasses.replace(config, **changed)


def changed_keys(config: TrainConfig, former: TrainConfig) -> list[str]:
    """Return the keys whose values differ and decide what a run computes, as `key: former -> new`."""
    differences = []
    for concern in dataclasses.fields(config):
        new, old = (dataclasses.asdict(getattr(c, concern.name)) for c in (config, former))
        differences += [
            f"{key}: {old[key]} -> {value}" for key, value in new.items() if value != old[key] and key not in MAY_CHANGE
        ]
    return differences


def to_yaml(config: Any) -> str:
    """Return a dataclass of concerns as flat YAML that `--config` reads back to the same configuration."""
    lines = []
    for concern in dataclasses.fields(config):
        lines.append(f"# {concern.name}\n")
        lines.append(yaml.dump(dataclasses.asdict(getattr(config, concern.name)), Dumper=_Dumper, sort_keys=False))
    return "".join(lines)


def describe(kind: Any) -> str:
    """Return what values a type allows, in words."""
    if kind in _DESCRIPTIONS:
        return _DESCRIPTIONS[kind]
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) is list:
        return f"a list of: {describe(get_args(kind)[0])}"
    return ", or ".join(describe(option) for option in get_args(kind))


def _parse(parser: ArgumentParser, flags: list[str], fields: dict, where: str) -> dict:
    try:
        return vars(parser.parse_args(flags))
    except (ArgumentError, UnicodeError) as error:
        raise UserError(where + _one_line(str(error), flags, fields)) from None
    except Exception as error:  # What PyYAML raises for a value with a wrong !!tag, jsonargparse passes on.
        raise UserError(f"{where}one of the values cannot be read ({error}): {' '.join(flags)}") from None


def _one_line(message: str, flags: list[str], fields: dict) -> str:
    """Return jsonargparse's message as key, value and what is allowed."""
    key = re.search(r'(?:Parser key "|argument --|Key ")(\w+)', message)
    if key and key.group(1) in fields:
        name = key.group(1)
        given = [flag.split("=", 1)[1] for flag in flags if flag.startswith(f"--{name}=")]
        if given:
            return f"{name}: {given[-1]!r} is not allowed; it takes {describe(fields[name])}"
        return f"{name}: a value is missing (--{name} ...); it takes {describe(fields[name])}"
    unknown = re.search(r"unrecognized arguments: (--)?([^\s=]+)", message)
    if unknown:
        return _unknown(unknown.group(2), fields) if unknown.group(1) else f"unexpected argument {unknown.group(2)!r}"
    return " ".join(message.split())


def _unknown(key: str, fields: dict) -> str:
    close = difflib.get_close_matches(key, fields, 1)
    return f"unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else "; --help lists all")


def _explicit(argv: list[str], fields: dict) -> list[str]:
    """Return the flags as --key=value each: switches get their "true", lists their brackets."""
    flags: list[str] = []
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        if not token.startswith("--") or "=" in token:
            flags.append(token)
            continue
        values = []
        while tokens and not tokens[0].startswith("--"):
            values.append(tokens.pop(0))
        kind = fields.get(token[2:])
        if kind in (bool, Optional[bool]) and not values:
            flags.append(f"{token}=true")
        elif _is_list(kind) and values and values[0].startswith("[") and values[-1].endswith("]"):
            flags.append(f"{token}={' '.join(values)}")
        elif _is_list(kind) and values and (get_origin(kind) is list or len(values) > 1):
            flags.append(f"{token}={json.dumps(values, ensure_ascii=False)}")
        elif values:
            flags += [f"{token}={values[0]}", *values[1:]]
        else:
            flags.append(token)
    return flags


def _is_list(kind: Any) -> bool:
    """Return whether a list is among the values of a type."""
    return get_origin(kind) is list or any(get_origin(option) is list for option in get_args(kind))


def _required_placeholders(concerns: tuple, flags: list[str]) -> list[str]:
    """Return a flag for each required key that a YAML file need not give, so that the file can be checked alone."""
    required = [
        f.name
        for concern in concerns
        for f in dataclasses.fields(concern)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    return [f"--{name}=[]" for name in required if not any(flag.startswith(f"--{name}=") for flag in flags)]


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars, so that `version: 1_0` is a text and not ten, and 1e-4 a number; a repeated key is an error."""

    yaml_implicit_resolvers: ClassVar[dict] = {}

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        for i, (key_node, _) in enumerate(node.value):
            if keys[i] in keys[:i]:
                raise yaml.MarkedYAMLError(problem=f"key {keys[i]!r} stands twice", problem_mark=key_node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that YAML 1.1 or _Loader would take for something else."""


# In YAML 1.1, 010 is eight.
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("null", r"~|null|Null|NULL|", [*"~nN", ""]),
    ("int", r"[-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def load_yaml(path: str) -> dict:
    """Return the mapping in a YAML file. Raises UserError that names the file and the line."""
    try:
        loaded = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise UserError(f"{path}: cannot read the configuration: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}, line {line}: not valid YAML: {error.problem}") from None
    except Exception as error:  # PyYAML raises nearly anything for a value that is not what its !!tag says.
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise UserError(f"{path}: a configuration is a list of lines `key: value`")
    return loaded


def _flags_of_yaml(path: str, fields: dict) -> list[str]:
    flags = []
    for key, value in load_yaml(path).items():
        if key not in fields:
            raise UserError(f"{path}: {_unknown(key, fields)}")
        try:
            text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):  # A value that holds itself, or keys that are no texts.
            raise UserError(f"{path}: {key}: not a value; it takes {describe(fields[key])}") from None
        flags.append(f"--{key}={text}")
    return flags


def reference() -> str:
    """Return the configuration reference as Markdown."""
    lines = [
        "# Configuration",
        "",
        "Made by `python -m src.config > docs/CONFIGURATION.md`. Each key is a line in a YAML file given with "
        "`--config`, and a flag: `--key value`. Flags take precedence over the file, the file over the defaults. "
        "The defaults of `train.py` are the recipe of the MindSpore tutorial on CIFAR-10.",
    ]
    from src.compression.config import Compression  # Here, because they import this module.
    from src.conversion.config import ConvertConfig

    programs = [
        ("train.py", list(get_type_hints(TrainConfig).values())),
        ("eval.py", [EvalConfig, DeviceConfig]),
        ("infer.py", [InferConfig, DeviceConfig]),
        ("export.py", [ExportConfig, DeviceConfig]),
        ("to_mindrecord.py", [MindRecordConfig]),
        ("convert.py", [ConvertConfig]),
        ("compress.py", list(get_type_hints(Compression).values())),
    ]
    for program, concerns in programs:
        lines += ["", f"## {program}"]
        for concern in concerns:
            lines += ["", concern.__doc__.splitlines()[0], "", "| key | default | values | what |", "|---|---|---|---|"]
            meanings, hints = _field_docs(concern), get_type_hints(concern)
            for field in dataclasses.fields(concern):
                default = field.default_factory() if callable(field.default_factory) else field.default
                shown = "(required)" if default is dataclasses.MISSING else json.dumps(default)
                lines.append(f"| `{field.name}` | {shown} | {describe(hints[field.name])} | {meanings[field.name]} |")
    return "\n".join(lines) + "\n"


def _field_docs(concern: type) -> dict[str, str]:
    from docstring_parser import parse_from_object

    return {param.arg_name: " ".join(param.description.split()) for param in parse_from_object(concern).params}


if __name__ == "__main__":
    sys.stdout.write(reference())
