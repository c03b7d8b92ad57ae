"""Configuration of compress.py."""

from __future__ import annotations

import dataclasses
import fnmatch
from typing import Any, Literal, NamedTuple, Optional, get_type_hints

from src.cli.errors import UserError
from src.cli.flags import limited
from src.cli.types import Amount, Bytes, Count, CountOrZero, Fraction, Padding
from src.config import DeviceConfig, parse
from src.dataset.options import Augmentations, DataLoadingConfig, Dataset

# Suffixes of what may stand without its flag.
INPUTS = {".ckpt": "ckpt_path", ".sqz": "ckpt_path", ".net": "ckpt_path"}
# Keys that may change when a compression is resumed.
_INDECISIVE = ("output_path", "overwrite", "resume", "max_drop", "int8", "data_path", "download", "num_workers")
Bits = limited(int, "a whole number from 1 to 8", ge=1, le=8)


class Choice(NamedTuple):
    """Sparsity and bits of a convolution; None for no pruning and for no quantization."""

    sparsity: Optional[float]
    bits: Optional[int]


@dataclasses.dataclass(frozen=True)
class CompressConfig:
    """Compression: the network to compress, and how."""

    ckpt_path: Optional[str] = None
    """network to compress: a checkpoint, a compressed file (.sqz), or the authors' compressed_SqueezeNet.net"""
    decompress: Optional[str] = None
    """compressed file (.sqz) to turn back into a checkpoint, instead of compressing one"""
    output_path: Optional[str] = None
    """folder for the file, the report and the pictures; null: compressed_<name> next to the input"""
    overwrite: bool = False
    """replace the results of an earlier run in output_path"""
    resume: bool = False
    """continue a compression that was interrupted while it trained, with the arguments that it was started with"""
    sparsity: Optional[Fraction] = None
    """fraction of the weights of each convolution to prune, the smallest first; null: none, or as many as tolerance
    allows"""
    tolerance: Optional[Fraction] = None
    """prune as many weights of each convolution as together have this fraction of its norm"""
    layer_sparsity: list[str] = dataclasses.field(default_factory=list)
    """sparsity of some convolutions, such as features.0.*=0 *.expand3x3.*=0.7; the last match counts"""
    bits: Optional[Bits] = 6
    """bits of an index: each convolution has a codebook of 2^bits values besides zero; null: no quantization. With
    target_bytes: the average to plan the pruning with"""
    layer_bits: list[str] = dataclasses.field(default_factory=list)
    """bits of some convolutions, such as features.0.*=8 *.squeeze.*=7; the last match counts"""
    target_bytes: Optional[Bytes] = None
    """size of the file to reach: bits are allocated to the convolutions by their importance, up to 8 each; with
    train_epochs weights are pruned too"""
    max_drop: Optional[Fraction] = None
    """largest drop in accuracy to accept (0.005: half a point); a larger one is reported, with exit status 1"""
    calibration: Optional[str] = None
    """folder of images without labels to calibrate target_bytes and int8 with; null: training images for int8 and when
    something is trained, synthetic images otherwise"""
    int8: bool = False
    """also export the original to ONNX and to 8-bit ONNX, calibrated on `calibration` or training images, and compare
    sizes, speeds and accuracies with the compressed file's"""
    start: Literal["optimal", "linear", "density", "random"] = "optimal"
    """initial centroids of k-means: least error, even over the range, even over the weights, or drawn from them"""
    seed: CountOrZero = 1
    """seed of the random start"""
    classes: Optional[str] = None
    """text file with one class name per line, for the authors' file, which has none"""

    def check(self) -> None:
        """Raise UserError for values that do not fit together."""
        if bool(self.ckpt_path) == bool(self.decompress):
            raise UserError("give either --ckpt_path (a network to compress) or --decompress (a .sqz file)")
        if self.resume and self.overwrite:
            raise UserError("resume: cannot be combined with overwrite; give one of the two")
        if self.sparsity is not None and self.tolerance is not None:
            raise UserError("sparsity and tolerance both set how many weights are pruned: give one of the two")
        if self.target_bytes is not None and self.bits is None:
            raise UserError("target_bytes: needs quantization, and bits null means none; leave bits out")
        if self.target_bytes is not None and self.layer_bits:
            raise UserError("layer_bits and target_bytes both set the bits of a convolution: give one of the two")
        self.layer_choices([])

    def layer_choices(self, names: list[str]) -> dict[str, Choice]:
        """Return sparsity and bits of each convolution by its weight's name. Raises UserError for invalid patterns."""
        sparsities = _choices("layer_sparsity", self.layer_sparsity, float, lambda v: 0 <= v < 1, "0 to below 1")
        bits = _choices("layer_bits", self.layer_bits, int, lambda v: 1 <= v <= 8, "a whole number from 1 to 8")
        if names:
            for key, choices in (("layer_sparsity", sparsities), ("layer_bits", bits)):
                for pattern, _ in choices:
                    if not fnmatch.filter(names, pattern):
                        raise UserError(f"{key}: {pattern!r} fits no convolution; they are {', '.join(names[:3])}, ...")
        return {name: Choice(_last(sparsities, name, self.sparsity), _last(bits, name, self.bits)) for name in names}


@dataclasses.dataclass(frozen=True)
class MeasureConfig(DataLoadingConfig):
    """Measurement: images to measure accuracy on, before and after; without any it is not measured."""

    images: Optional[str] = None
    """folder of photographs"""
    labels: Optional[str] = None
    """CSV file with the classes of `images`, read by csv_columns; null: measure only the agreement with the original"""
    dataset: Optional[Dataset] = None
    """data set, instead of images"""
    split: Literal["train", "val", "test"] = "test"
    """split of the data set to measure on"""
    batch_size: Count = 50
    """images per step"""

    def check(self) -> None:
        """Raise UserError for values that do not fit together."""
        if self.images and self.dataset:
            raise UserError("give either --images (a folder of photographs) or --dataset")
        if self.labels and not self.images:
            raise UserError("labels: they are those of --images, a folder of photographs; give it too")


@dataclasses.dataclass(frozen=True)
class RetrainConfig:
    """Retraining while the network is compressed, on the training images of `dataset`."""

    train_epochs: CountOrZero = 0
    """epochs of training with gradual pruning; pruned weights stay zero"""
    centroid_epochs: CountOrZero = 0
    """epochs of training the codebooks, each value by the summed gradients of its weights"""
    optimizer: Literal["momentum", "nesterov", "sgd", "adam"] = "nesterov"
    """update rule while pruning"""
    lr_max: Amount = 0.01
    """learning rate at the start of pruning; it falls to 0 on half a cosine"""
    centroid_lr: Amount = 0.0002
    """learning rate at the start of training the codebooks, with Adam; it falls likewise"""
    weight_decay: Amount = 1e-4
    """L2 penalty while pruning, but not on biases and batch norm"""
    label_smoothing: Fraction = 0.0
    """fraction of the target spread over all classes"""
    distillation: Fraction = 0.0
    """share of the loss that compares with the original network's probabilities, not with the labels"""
    train_batch_size: Count = 128
    """images per training step"""
    train_images: Optional[Count] = None
    """use only this many training images, evenly over the classes"""
    augment: Optional[Augmentations] = None
    """training augmentations, one or several, as in train.py, mixup and cutmix with alpha 1;
    null: with crop_padding as in the config.yaml next to the checkpoint, or crop_flip when there is none"""
    crop_padding: Optional[Padding] = None
    """zeros around an image before crop_flip crops it; null: an eighth of its size"""

    @property
    def trains(self) -> bool:
        """Whether there is anything to train."""
        return bool(self.train_epochs or self.centroid_epochs)


class Compression(NamedTuple):
    """Configuration of compress.py, one dataclass per concern."""

    compress: CompressConfig
    measure: MeasureConfig
    retrain: RetrainConfig
    device: DeviceConfig

    def decisive(self) -> dict[str, Any]:
        """Return the values that determine the result, by their keys, as JSON values."""
        concerns = (dataclasses.asdict(concern) for concern in (self.compress, self.measure, self.retrain))
        return {key: value for concern in concerns for key, value in concern.items() if key not in _INDECISIVE}

    def check(self) -> None:
        """Raise UserError for values that do not fit together."""
        config, measure, retrain, _ = self
        config.check()
        measure.check()
        prunes = config.target_bytes or config.sparsity is not None or config.layer_sparsity
        if retrain.train_epochs and not prunes:
            raise UserError(
                "train_epochs: there is nothing to prune; give --target_bytes, --sparsity, --layer_sparsity"
            )
        if retrain.centroid_epochs and config.bits is None:
            raise UserError("centroid_epochs: with bits null there are no codebooks to train; leave bits out")
        if retrain.trains and not measure.dataset:
            raise UserError("train_epochs and centroid_epochs need training images: give --dataset and --data_path")
        if config.int8 and not (measure.dataset or (config.calibration and measure.images)):
            raise UserError(
                "int8: give images to calibrate and to measure on: --dataset, or --calibration and --images"
            )
        if config.max_drop is not None and not (measure.dataset or measure.labels):
            raise UserError("max_drop: accuracy is not measured; give --dataset, or --images with --labels")


def parse_compress(argv: list[str], description: str) -> Compression:
    """Return the checked configuration of compress.py. Raises UserError, one line."""
    config = Compression(*parse(argv, description, *get_type_hints(Compression).values(), positional=INPUTS))
    config.check()
    return config


def _choices(key: str, given: list[str], kind: type, allowed, words: str) -> list[tuple[str, float]]:
    """Return (pattern, value) of each `pattern=value`."""
    choices = []
    for text in given:
        pattern, equals, value = text.partition("=")
        try:
            number = kind(value)
        except ValueError:
            number = None
        if not (pattern and equals) or number is None or not allowed(number):
            raise UserError(f"{key}: {text!r} is not allowed; it takes <name or pattern>=<{words}>")
        choices.append((pattern, number))
    return choices


def _last(choices: list[tuple[str, float]], name: str, default):
    return next((value for pattern, value in reversed(choices) if fnmatch.fnmatchcase(name, pattern)), default)
