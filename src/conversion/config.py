"""The configuration of convert.py."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal, Optional

from src.cli.errors import UserError
from src.config import Padding, Side, parse

FromFormat = Literal["torchvision", "safetensors", "net", "npz", "caffemodel", "onnx"]
ToFormat = Literal["torchvision", "safetensors", "npz"]


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """What convert.py converts, and what a file of weights does not tell of its network."""

    file: str
    """file of the other system"""
    ckpt_path: str
    """checkpoint to write, or with to_format the one to read"""
    from_format: Optional[FromFormat] = None
    """format of a file to make a checkpoint of; with `file` also given as --from FORMAT FILE"""
    to_format: Optional[ToFormat] = None
    """format of a file to make of a checkpoint; with `file` also given as --to FORMAT FILE"""
    overwrite: bool = False
    """replace what is written, if it is there"""
    bypass: Optional[Literal["none", "simple", "complex"]] = None
    """connections around Fire modules, which weights alone do not tell when they are identities; null: none then"""
    stem: Optional[Literal["imagenet", "small"]] = None
    """first convolution, which in v1.1 weights alone do not tell; null: the version's own then"""
    classifier_padding: Optional[Padding] = None
    """zeros around the input of the last convolution (the authors' Caffe release of v1.0: 1, torchvision: 0)"""
    ceil_mode: Optional[bool] = None
    """sizes of pooled maps are rounded up (torchvision and Caffe: true)"""
    final_relu: Optional[bool] = None
    """ReLU after the last convolution; null: as the file says, or yes"""
    input: Optional[Literal["rgb", "bgr"]] = None
    """what the network takes: rgb, from 0 to 1, normalised by ImageNet's mean and deviation; bgr, from 0 to 255
    less 104, 117, 123, as Caffe has it: the first convolution is turned to RGB; null: as is usual for the format"""
    fold_input: bool = False
    """fold Caffe's scale and mean into the first convolution, so that the network takes what `rgb` ones take"""
    image_size: Optional[Side] = None
    """side of the images in pixels; null: 227 for Caffe's formats, 224 for others"""
    classes: Optional[str] = None
    """text file with a class name a line; null: ImageNet's names for 1,000 classes, numbers for others"""

    def check(self) -> None:
        """Raise UserError for values that do not fit together."""
        if bool(self.from_format) == bool(self.to_format):
            raise UserError("give either --from (a format) FILE, to make a checkpoint, or --to (a format) FILE")


def parse_convert(argv: list[str], description: str) -> ConvertConfig:
    """Return the checked configuration of convert.py. Raises UserError, one line.

    `--from FORMAT FILE` and `--to FORMAT FILE` stand for --from_format or --to_format, and --file.
    """
    tokens = list(argv)
    for short in ("--from", "--to"):
        if short in tokens:
            at = tokens.index(short)
            tokens[at] = f"{short}_format"
            if at + 2 < len(tokens) and not tokens[at + 2].startswith("--"):
                tokens.insert(at + 2, "--file")
    try:
        (config,) = parse(tokens, description, ConvertConfig)
    except UserError as error:  # Named as it was given.
        raise UserError(re.sub(r"^(from|to)_format: (.*?)(, or null)?$", r"--\1: \2", str(error))) from None
    config.check()
    return config
