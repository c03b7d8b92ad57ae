"""All programs in a folder whose name no library likes, with the project itself, all paths and TMPDIR in it."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from tests.made_data import write_image_folder
from tests.programs import ROOT

NAME = "my run (1)/Netz ü 猫"
DATA = "--dataset image_folder --data_path '../Daten ü'"
NETWORK = "--version cifar --image_size 16 --batch_size 4"
TRAIN = f"{NETWORK} --scalars none --epochs 2 --warmup_epochs 0 --device_target CPU"
CPU = "--device_target CPU"
# Programs and their arguments, run in an empty folder next to the project; all that they write is in another one.
COMMANDS = f"""
src.summary {NETWORK}
to_mindrecord {DATA} --output_path '../O (ü)/gepackt'
train {TRAIN} --dataset mindrecord --data_path '../O (ü)/gepackt' --output_path '../O (ü)/Lauf 2'
train {TRAIN} {DATA} --output_path '../O (ü)/猫'
train {TRAIN} {DATA} --output_path '../O (ü)/猫' --resume --epochs 3
eval --ckpt_path '../O (ü)/猫/best.ckpt' {DATA} {CPU}
infer --ckpt_path '../O (ü)/猫/best.ckpt' --images '../Daten ü/val' --features --cam --output_path '../O (ü)/i' {CPU}
export --ckpt_path '../O (ü)/猫/best.ckpt' --file_name '../O (ü)/N ü.mindir' --dynamic_batch {CPU}
export --ckpt_path '../O (ü)/猫/best.ckpt' --file_name '../O (ü)/N [ü].onnx' --file_format ONNX {CPU}
eval --model_path '../O (ü)/N ü.mindir' {DATA} {CPU}
infer --model_path '../O (ü)/N [ü].onnx' --images '../Daten ü/val' --output_path '../O (ü)/j' {CPU}
convert --to npz '../O (ü)/N ü.npz' --ckpt_path '../O (ü)/猫/best.ckpt'
convert --to torchvision '../O (ü)/N ü.pth' --ckpt_path '../O (ü)/猫/best.ckpt'
convert --to safetensors '../O (ü)/N ü.safetensors' --ckpt_path '../O (ü)/猫/best.ckpt'
convert --from npz '../O (ü)/N ü.npz' --classifier_padding 0 --ceil_mode false --ckpt_path '../O (ü)/1 ü.ckpt'
convert --from torchvision '../O (ü)/N ü.pth' --ckpt_path '../O (ü)/2 ü.ckpt'
convert --from safetensors '../O (ü)/N ü.safetensors' --ckpt_path '../O (ü)/3 ü.ckpt'
convert --from onnx '../O (ü)/N [ü].onnx' --ckpt_path '../O (ü)/4 ü.ckpt'
compress --ckpt_path '../O (ü)/猫/best.ckpt' --int8 {DATA} --split val --output_path '../O (ü)/klein ü' {CPU}
compress --decompress '../O (ü)/klein ü/best.sqz' --output_path '../O (ü)/groß'
study --runs '../O (ü)/猫' '../O (ü)/Lauf 2' --output_path '../O (ü)/Vergleich ü'
"""
DRIVER = """
    import shlex, sys
    import src
    from tests.programs import ROOT, run_here

    for name, *arguments in map(shlex.split, sys.argv[1].strip().splitlines()):
        done = run_here(name, *arguments)
        print(f"{ROOT}: {name} {arguments} ended with {done.returncode}: {done.stderr}", flush=True)
        if done.returncode:
            sys.exit(1)
"""


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder of such a name: the project in it, a data set, an empty folder to work in, one for temporary files."""
    place = tmp_path / NAME
    ignored = shutil.ignore_patterns("__pycache__", ".*", "results", "docs", "runs")
    shutil.copytree(ROOT, place / "squeezenet (1) ü", ignore=ignored)
    images = np.random.RandomState(0).randint(0, 256, (6, 16, 16, 3), np.uint8)
    classes = {"Hund (ü)": images[:3], "猫 [1]": images[3:]}
    write_image_folder(place / "Daten ü", {"train": classes, "val": classes})
    for name in ("here", "tmp ü"):
        (place / name).mkdir()
    return place


def environment(place: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(place / "squeezenet (1) ü"), "TMPDIR": str(place / "tmp ü")}


@pytest.mark.thorough
def test_every_program_works_in_a_folder_of_any_name_and_leaves_nothing_where_it_was_started(place):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(DRIVER), COMMANDS],
        cwd=place / "here",
        env=environment(place),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-2000:]
    assert done.stdout.count(f"{place}/squeezenet (1) ü: ") == len(COMMANDS.strip().splitlines())
    assert list((place / "here").iterdir()) == [] and os.listdir(place / "tmp ü") in ([], [".ses"])  # onnxruntime's.


@pytest.mark.thorough
def test_a_script_starts_its_program_in_a_folder_of_any_name(place):
    script = place / "squeezenet (1) ü" / "scripts" / "run_standalone_train_cpu.sh"
    done = subprocess.run(
        ["bash", script, *shlex.split(f"{DATA} {TRAIN} --epochs 1 --output_path '../Lauf ü'")],
        cwd=place / "here",
        env={**environment(place), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (place / "Lauf ü" / "result.json").is_file() and list((place / "here").iterdir()) == []
