"""Configuration of convert.py."""

from __future__ import annotations

import dataclasses
from typing import Literal, Optional, get_args

from src.cli.errors import UserError
from src.cli.flags import limited, spelled
from src.cli.help_text import describe
from src.cli.types import Padding, Side
from src.config import parse
from src.dataset.preprocessing import FITS, NORMALIZATIONS, RESIZERS
from src.keys import Bypass, Stem

FromFormat = Literal["torchvision", "safetensors", "net", "npz", "caffemodel", "onnx", "mindspore"]
Channels = limited(
    list[float], "three numbers, of red, green and blue, or one, of grey images", min_length=1, max_length=3
)
ToFormat = Literal["torchvision", "safetensors", "npz"]

MAX_PIXEL = 255


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Conversion: the files, and the arguments of a network that its weights do not show."""

    file: str
    """file of the other system"""
    ckpt_path: str
    """checkpoint to write, or with to_format to read"""
    from_format: Optional[FromFormat] = None
    """format of a file to convert into a checkpoint; with `file` also given as --from FORMAT FILE"""
    to_format: Optional[ToFormat] = None
    """format of a file to convert a checkpoint into; with `file` also given as --to FORMAT FILE"""
    overwrite: bool = False
    """replace the output if it exists"""
    bypass: Optional[Bypass] = None
    """connections around Fire modules, which weights do not show if they are identities; null: none then"""
    stem: Optional[Stem] = None
    """first convolution, which the weights of v1.1 do not show; null: the version's own then"""
    classifier_padding: Optional[Padding] = None
    """zeros around the input of the last convolution (the authors' Caffe release of v1.0: 1, torchvision: 0)"""
    ceil_mode: Optional[bool] = None
    """round the sizes of pooled maps up (torchvision and Caffe: true)"""
    final_relu: Optional[bool] = None
    """apply ReLU after the last convolution; null: as the file says, or true"""
    input: Optional[Literal["rgb", "bgr"]] = None
    """input of the network: rgb, from 0 to 1, normalised by ImageNet's mean and deviation; bgr, from 0 to 255 less
    104, 117, 123, as in Caffe: the first convolution is turned to RGB; null: as is known of the file, measured on a few
    photographs, or assumed, which convert.py says"""
    fold_input: bool = False
    """fold Caffe's scale and mean into the first convolution, so that the network takes the input of `rgb`"""
    image_size: Optional[Side] = None
    """side of the images in pixels; null: as the file says, or as networks from there usually have it"""
    fit: Optional[Literal[FITS]] = None
    """how an image gets its size: resized as a whole, cropped, or resized and cropped at the centre; null: the usual"""
    resize: Optional[Side] = None
    """length of the shorter side before an image is cropped; null: the usual, 256 for images of 224 and 227 pixels"""
    resizer: Optional[Literal[RESIZERS[:2]]] = None
    """resizing of images: mindspore, a fast operator, or pillow, as in torchvision; null: the usual"""
    normalize: Optional[Literal[NORMALIZATIONS]] = None
    """normalise by the data set's mean and std, or by those of each image; null: by the data set's"""
    mean: Optional[Channels] = None
    """mean to subtract from the channels (RGB), on a scale of 0 to 1; if mean or std has a value above 1,
    both are on a scale of 0 to 255"""
    std: Optional[Channels] = None
    """standard deviation of the channels, on the scale of mean"""
    classes: Optional[str] = None
    """text file with one class name per line; null: ImageNet's names for 1,000 classes, numbers for others"""

    def check(self) -> None:
        """Raise UserError for values that contradict one another."""
        if bool(self.from_format) == bool(self.to_format):
            raise UserError(
                "give either --from FORMAT FILE, to create a checkpoint, or --to FORMAT FILE, to convert one"
            )
        if bool(self.mean) != bool(self.std):
            raise UserError("mean and std belong together: give both")
        if self.mean and not all(0 <= m <= MAX_PIXEL and 0 < d <= MAX_PIXEL for m, d in zip(self.mean, self.std)):
            raise UserError(f"mean, std: give values from 0 to 1 or from 0 to {MAX_PIXEL}, and std above 0")
        if self.mean and not len(self.mean) == len(self.std) != 2:
            raise UserError("mean, std: give three values each, of red, green and blue, or one of grey images")

    @property
    def normalization(self) -> Optional[dict[str, tuple[float, ...]]]:
        """The given mean and std on a scale of 0 to 1, or None."""
        if not self.mean:
            return None
        scale = MAX_PIXEL if max(*self.mean, *self.std) > 1 else 1
        return {"mean": tuple(m / scale for m in self.mean), "std": tuple(d / scale for d in self.std)}


def parse_convert(argv: list[str], description: str) -> ConvertConfig:
    """Parse and check the configuration of convert.py. Raises UserError.

    `--from FORMAT FILE` and `--to FORMAT FILE` stand for --from_format or --to_format, and --file.
    """
    tokens = list(argv)
    for short, formats in (("--from", FromFormat), ("--to", ToFormat)):
        if short in tokens:
            at = tokens.index(short)
            words = [token for token in tokens[at + 1 : at + 3] if not token.startswith("--")]
            if not words:
                raise UserError(f"{short}: a value is missing ({short} FORMAT FILE); it takes {describe(formats)}")
            if spelled(words[0], formats) not in get_args(formats):
                raise UserError(f"{short}: {words[0]!r} is not allowed; it takes {describe(formats)}")
            tokens[at] = f"{short}_format"
            if len(words) == 2:
                tokens.insert(at + 2, "--file")
    (config,) = parse(tokens, description, ConvertConfig)
    config.check()
    return config
