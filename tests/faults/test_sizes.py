"""Sizes that no memory has room for: one line, before the memory is taken."""

from __future__ import annotations

import resource
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from src.cli.errors import run
from tests.programs import ROOT, one_line_error

CPU = ("--device_target", "CPU")
MOST_MB = 600


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def test_sizes_that_would_take_all_memory_are_refused_before_they_do(faults, program, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("src.network.summary.free_memory", lambda: 2**32)
    export = ("export", "--ckpt_path", models.ckpt, "--file_name", "net", *CPU)
    train = ("train", "--dataset", "digits", "--output_path", "run", *CPU)
    commands = {
        "export, a batch of 100,000": (*export, "--batch_size", 100_000),
        "export, a batch of 2,147,483,647": (*export, "--batch_size", 2**31 - 1),
        "export, ONNX, a batch of 2,147,483,647": (*export, "--batch_size", 2**31 - 1, "--file_format", "ONNX"),
        "export, an image of 8,192 pixels": (*export, "--image_size", 8192),
        "export, images of 2,048 pixels": (*export, "--image_size", 2048, "--batch_size", 8),
        "train, a network of gigabytes": (*train, "--version", "cifar", "--image_size", 32, "--base_e", 65536),
        "train, images of 2,000 pixels": (*train, "--image_size", 2000, "--batch_size", 256),
        "summary, an image of 8,192 pixels": ("src.summary", "--image_size", 8192),
    }
    with faults("sizes for which there is no memory", "one line, exit code 2") as inject:
        for what, command in commands.items():
            with inject.fault(what):
                before = peak_mb()
                assert "_size: " in one_line_error(program(*command))
                assert peak_mb() - before < MOST_MB and list(tmp_path.iterdir()) == []


def test_a_batch_larger_than_the_data_takes_no_more_than_the_data(faults, program, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save("image.png")
    with faults("batches larger than the data", "take what there is") as inject:
        for name, more in (("eval", ()), ("infer", ("--images", "image.png"))):
            with inject.fault(name):
                before = peak_mb()
                flags = ("--ckpt_path", models.ckpt, "--batch_size", 2**31 - 1, "--output_path", name)
                done = program(name, *flags, *more, *CPU)
                assert done.returncode == 0, done.stderr
                assert peak_mb() - before < MOST_MB


def test_the_summary_of_a_network_of_gigabytes_is_a_table(program):
    before = peak_mb()
    done = program("src.summary", "--version", "cifar", "--image_size", 32, "--base_e", 65536)
    assert done.returncode == 0 and "total" in done.stdout
    assert peak_mb() - before < MOST_MB


@pytest.mark.parametrize("megabytes", [300, 1000, 2000])
def test_an_address_space_that_is_too_small_is_one_line(models, megabytes):
    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20,) * 2)

    command = [sys.executable, ROOT / "export.py", "--ckpt_path", models.ckpt]
    done = subprocess.run(command, cwd=ROOT, preexec_fn=limited, capture_output=True, text=True)
    assert one_line_error(done) == (
        f"error: the address space is limited to {megabytes << 10:,} kB; raise it, with ulimit -v 2621440 or more"
    )


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("\n---\n- Memory not enough:\n---\nMemory isn't enough")]
)
def test_memory_that_runs_out_is_one_line(error, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit, match="2"):
        run(main)
    assert capsys.readouterr().err.startswith("error: there is not enough memory; choose fewer images at a time")
