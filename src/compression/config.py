"""The configuration of compress.py."""

from __future__ import annotations

import dataclasses
import fnmatch
from typing import List, Literal, Optional

from src.config import Count, CountOrZero, Dataset, DeviceConfig, Share, parse
from src.errors import UserError

Bits = Literal[1, 2, 3, 4, 5, 6, 7, 8]


@dataclasses.dataclass(frozen=True)
class CompressConfig:
    """What compress.py compresses, and how."""

    ckpt_path: Optional[str] = None
    """what to compress: a checkpoint, a compressed file (.sqz), or the authors' compressed_SqueezeNet.net"""
    decompress: Optional[str] = None
    """instead: a compressed file (.sqz) to turn back into a checkpoint"""
    output_path: Optional[str] = None
    """folder for the file, the report and the pictures; null: compressed_<name> beside what is read"""
    overwrite: bool = False
    """replace what an earlier run left in output_path"""
    sparsity: Optional[Share] = None
    """share of the weights of each convolution to prune, the smallest; null: none, or as many as tolerance allows"""
    tolerance: Optional[Share] = None
    """prune as many weights of each convolution as together have this share of its norm"""
    layer_sparsity: List[str] = dataclasses.field(default_factory=list)
    """sparsity of some convolutions, such as features.0.*=0 *.expand3x3.*=0.7; the last that fits a name counts"""
    bits: Optional[Bits] = 6
    """bits of a code: each convolution gets 2^bits values besides zero; null: its values stay as they are"""
    layer_bits: List[str] = dataclasses.field(default_factory=list)
    """bits of some convolutions, such as features.0.*=8 *.squeeze.*=7; the last that fits a name counts"""
    start: Literal["optimal", "linear", "density", "random"] = "optimal"
    """what k-means begins with: the least error, values even over the range, over the weights, or drawn from them"""
    seed: CountOrZero = 1
    """of the random start"""
    classes: Optional[str] = None
    """text file with a class name a line, for the authors' file, which has none"""
    curve: bool = False
    """measure size and accuracy over curve_bits and curve_sparsities, besides"""
    curve_bits: List[Bits] = dataclasses.field(default_factory=lambda: [8, 7, 6, 5, 4, 3])
    """bit widths of the curve"""
    curve_sparsities: List[Share] = dataclasses.field(default_factory=lambda: [0.0])
    """sparsities of the curve"""

    def check(self) -> None:
        """Raise UserError for values that do not fit together."""
        if bool(self.ckpt_path) == bool(self.decompress):
            raise UserError("give either --ckpt_path (what to compress) or --decompress (a .sqz file to turn back)")
        if self.sparsity is not None and self.tolerance is not None:
            raise UserError("sparsity and tolerance both say how many weights are pruned: give one of the two")
        self.layer_choices([])

    def layer_choices(self, names: list[str]) -> dict[str, tuple[float | None, int | None]]:
        """Return sparsity and bits of each convolution by its weight's name. Raises UserError for what cannot be."""
        sparsities = _choices("layer_sparsity", self.layer_sparsity, float, lambda v: 0 <= v < 1, "0 to below 1")
        bits = _choices("layer_bits", self.layer_bits, int, lambda v: 1 <= v <= 8, "a whole number from 1 to 8")
        if names:
            for key, choices in (("layer_sparsity", sparsities), ("layer_bits", bits)):
                for pattern, _ in choices:
                    if not fnmatch.filter(names, pattern):
                        raise UserError(f"{key}: {pattern!r} fits no convolution; they are {', '.join(names[:3])}, ...")
        return {name: (_last(sparsities, name, self.sparsity), _last(bits, name, self.bits)) for name in names}


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
    """Images on which accuracy is measured before and after; without any it is not."""

    images: Optional[str] = None
    """folder of photographs"""
    labels: Optional[str] = None
    """CSV file with the classes of `images`; without it only the agreement with the original is measured"""
    csv_columns: List[str] = dataclasses.field(default_factory=lambda: ["image", "label"])
    """columns of labels, or of image_csv's val.csv, with the file name and with the class"""
    dataset: Optional[Dataset] = None
    """instead of images: a data set"""
    data_path: str = "./data"
    """folder that holds the data set"""
    split: Literal["train", "val", "test"] = "test"
    """which of its images"""
    batch_size: Count = 50
    """images a step"""
    num_workers: CountOrZero = 0
    """threads that load images; 0: as many as cores, at most 8"""

    def check(self) -> None:
        """Raise UserError for values that do not fit together."""
        if self.images and self.dataset:
            raise UserError("give either --images (a folder of photographs) or --dataset")
        if self.labels and not self.images:
            raise UserError("labels: they are those of --images, a folder of photographs; give it too")
        if len(self.csv_columns) != 2:
            raise UserError(f"csv_columns: {self.csv_columns} is not allowed: two names, of file and of class")


def parse_compress(argv: list[str], description: str) -> tuple[CompressConfig, MeasureConfig, DeviceConfig]:
    """Return the checked configuration of compress.py. Raises UserError, one line."""
    config, measure, device = parse(argv, description, CompressConfig, MeasureConfig, DeviceConfig)
    config.check()
    measure.check()
    return config, measure, device


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
