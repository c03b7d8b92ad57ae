"""Recognise files of weights, and what is taken for them, by their first bytes, whatever their names."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path
from typing import Iterator, NamedTuple, Optional

from src.cli.errors import UserError
from src.files.bounded import open_file

_HEAD_BYTES = 4096


class Kind(NamedTuple):
    """Kind of a file.

    what: description.
    advice: what to do with such a file; {command} is convert.py's.
    """

    what: str
    advice: str


_CONVERT = "convert it: {command}"
_TO_ONNX = "export the network that it was made from to ONNX, and convert that"
KINDS = {
    "lfs": Kind("a Git LFS pointer in the place of the file", "fetch the file itself with git lfs pull"),
    "page": Kind("a web page in the place of the file", "download the file itself, by the link of its download button"),
    "sqz": Kind(
        "a file of compress.py",
        "give it with --ckpt_path, named .sqz, or make a checkpoint of it: compress.py --decompress",
    ),
    "checkpoint": Kind("a checkpoint of this project", "give it with --ckpt_path, and name it .ckpt"),
    "mindspore": Kind("a MindSpore checkpoint of another program", _CONVERT),
    "mindir": Kind("a MindIR model", "give it to infer.py or eval.py with --model_path, and name it .mindir"),
    "onnx": Kind(
        "an ONNX model", f"give it to infer.py or eval.py with --model_path if export.py wrote it, or {_CONVERT}"
    ),
    "torchvision": Kind("a PyTorch file", _CONVERT),
    "safetensors": Kind("a .safetensors file", _CONVERT),
    "npz": Kind("an .npz file of numpy", _CONVERT),
    "caffemodel": Kind("a .caffemodel of Caffe", _CONVERT),
    "prototxt": Kind("the description of a network without its weights", "give the .caffemodel that belongs to it"),
    "hdf5": Kind("an HDF5 file, as Keras writes them", _TO_ONNX),
    "tflite": Kind("a TensorFlow Lite model", _TO_ONNX),
    "archive": Kind("an archive", "unpack it, and give the file of weights in it"),
}

_VARINT = rb"[\x80-\xff]{0,4}[\x00-\x7f]"
_SIGNATURES = {
    kind: re.compile(pattern, re.DOTALL)
    for kind, pattern in {
        "lfs": rb"version https://(git-lfs|hawser)\.github\.com/spec/",
        "page": rb"(\xef\xbb\xbf)?\s*<(?i:!doctype html|html|head|body|!--|\?xml)",
        "sqz": rb"\x89SQZ",
        # The first file in a zip archive has its name 30 bytes behind the begin.
        "torchvision": rb"PK\x03\x04.{26}[^\x00/]{1,200}/(data\.pkl|data/|constants\.pkl|version|code/)"
        rb"|\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19\.",
        "npz": rb"PK\x03\x04.{26}[^\x00]{1,200}?\.npy",
        "safetensors": rb".{4}\x00{4}\{",
        # Protocol buffers, by their first fields: names, and numbers of versions.
        "mindir": rb"\x0a[\x01-\x10][\d.]+\x12\x09MindSpore",
        "onnx": rb"\x08[\x03-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]",
        "checkpoint": rb"\x0a" + _VARINT + rb"\x0a\x0amodel_card",
        "mindspore": rb"\x0a" + _VARINT + rb"\x0a" + _VARINT + rb"[\x20-\x7e]+\x12" + _VARINT + rb"[\x08\x12]",
        "caffemodel": rb"(\x0a" + _VARINT + rb"[\x20-\x7e]+)?\xa2\x06|\x0a" + _VARINT + rb"[\x20-\x7e]+[\x12\x1a\x22]",
        "prototxt": rb"(\s*#[^\n]*\n)*\s*(name\s*:\s*[\"']|(layers?|input_param)\s*\{)",
        "hdf5": rb"\x89HDF\r\n",
        "tflite": rb".{4}TFL3",
        "archive": rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|.{257}ustar",
    }.items()
}


def kind_of(path: str | Path) -> Optional[str]:
    """Return a file's kind, a key of KINDS, or None for an unknown or unreadable one."""
    try:
        with open_file(path) as stream:
            head = stream.read(_HEAD_BYTES)
    except (OSError, ValueError):
        return None
    return next((kind for kind, signature in _SIGNATURES.items() if signature.match(head)), None)


def convert_command(kind: str, path: str | Path) -> str:
    """Return the command that converts a file of a kind, to a checkpoint beside it."""
    path = Path(path)
    checkpoint = path.with_name(f"{path.stem}{'_converted' if path.suffix == '.ckpt' else ''}.ckpt")
    return f"python convert.py --from {kind} {shlex.quote(str(path))} --ckpt_path {shlex.quote(str(checkpoint))}"


@contextlib.contextmanager
def explained(path: str | Path, *wanted: str) -> Iterator[None]:
    """Name a file's kind, and what to do with it, instead of an error of the body that comes from another kind.

    wanted: the kinds that the body reads.
    """
    try:
        yield
    except Exception:
        kind = kind_of(path)
        if kind is None or kind in wanted:
            raise
        advice = KINDS[kind].advice.format(command=convert_command(kind, path))
        raise UserError(f"{path}: is {KINDS[kind].what}; {advice}") from None
