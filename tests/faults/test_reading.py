"""Pipes, devices and folders in the place of files that programs read: one line at once, and no waiting."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
from PIL import Image

from src.conversion.converting import FORMATS
from src.conversion.deep_compression import read_class_names
from tests.made_data import refusal
from tests.programs import one_line_error

MAKERS = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "zeros without end": lambda path: path.symlink_to("/dev/zero"),
    "a link to itself": lambda path: path.symlink_to(path),
}
CPU = ("--device_target", "CPU")
CONFIG = ("--config", "recipe.yaml")
# The file that is none, and the program with its flags; {} is a sound checkpoint.
READERS = {
    **{
        f"convert.py, {form}": ("net.ckpt", "convert", "--from", form, "net.ckpt", "--ckpt_path", "out.ckpt")
        for form in FORMATS
    },
    "convert.py, checkpoint": ("net.ckpt", "convert", "--to", "npz", "out.npz", "--ckpt_path", "net.ckpt"),
    "compress.py, .sqz": ("net.sqz", "compress", "--ckpt_path", "net.sqz", "--output_path", "out"),
    "compress.py, .net": ("net.net", "compress", "--ckpt_path", "net.net", "--output_path", "out"),
    "compress.py, labels": (
        *("names.csv", "compress", "--ckpt_path", "{}", "--images", "data", "--labels", "names.csv"),
        *("--output_path", "out", *CPU),
    ),
    "compress.py --decompress": ("net.sqz", "compress", "--decompress", "net.sqz", "--output_path", "out"),
    "infer.py, .sqz": ("net.sqz", "infer", "--ckpt_path", "net.sqz", "--images", "1.png", "--output_path", "out", *CPU),
    "infer.py, .onnx": ("a.onnx", "infer", "--model_path", "a.onnx", "--images", "1.png", "--output_path", "out", *CPU),
    "eval.py, val.csv": (
        *("data/val.csv", "eval", "--ckpt_path", "{}", "--dataset", "image_csv", "--data_path", "data"),
        *("--output_path", "out", *CPU),
    ),
    "study.py, metrics.csv": ("metrics.csv", "study", "--runs", ".", "--output_path", "out"),
    **{
        f"{name}.py, configuration": ("recipe.yaml", name, *CONFIG)
        for name in ("train", "eval", "infer", "export", "convert", "compress", "to_mindrecord", "src.summary")
    },
    "train.py, checkpoint": (
        *("net.ckpt", "train", "--pretrained", "net.ckpt", "--dataset", "digits", "--version", "cifar"),
        *("--output_path", "out", *CPU),
    ),
}


@pytest.mark.parametrize("what", READERS)
def test_what_is_no_plain_file_is_named_at_once(faults, program: Callable, models, tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    file, *arguments = (str(models.ckpt) if part == "{}" else part for part in READERS[what])
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save("1.png")
    (tmp_path / "data" / "train" / "a").mkdir(parents=True)
    (tmp_path / "data" / "val").mkdir()
    shutil.copy("1.png", "data/train/a")
    with faults(f"{file} that is no plain file, {what}", "one line, exit code 2") as inject:
        for kind, make in MAKERS.items():
            with inject.fault(kind):
                make(tmp_path / file)
                before = sorted(tmp_path.rglob("*"))
                assert file in one_line_error(program(*arguments))
                assert sorted(tmp_path.rglob("*")) == before
            path = tmp_path / file
            path.rmdir() if path.is_dir() else path.unlink()


def test_class_names_that_are_no_plain_file_are_named_at_once(faults, tmp_path):
    with faults("class names that are no plain file", "one line, exit code 2") as inject:
        for kind, make in MAKERS.items():
            with inject.fault(kind):
                make(tmp_path / kind)
                assert kind in refusal(read_class_names, str(tmp_path / kind), 10)
