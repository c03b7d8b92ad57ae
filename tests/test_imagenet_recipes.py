"""ImageNet's recipes at a scale that a CPU can do: all 1,000 classes, two small training images each."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from src.dataset.imagenet_classes import imagenet_classes
from tests.programs import ROOT, run_script

pytestmark = pytest.mark.slow

# What brings a recipe down to the scale; its architecture, optimizer, schedule, loss and augmentation stay.
SMALL = ("--image_size", 35, "--lr_batch_size", 32, "--epochs", 3)
ON_CPU = ("--device_target", "CPU", "--amp_level", "O0", "--scalars", "none")
STEPS_PER_EPOCH = 2000 // 32


@pytest.fixture(scope="module")
def small_imagenet(tmp_path_factory, made_images):
    """All classes, told apart by their colour, which is laid over images: two for training, one for validation."""
    folder = tmp_path_factory.mktemp("small_imagenet")
    textures = np.concatenate([made_images.train.images, made_images.test.images])
    levels, number = np.linspace(10, 245, 10), 0
    for label, known in enumerate(imagenet_classes()):
        colour = levels[[label // 100, label // 10 % 10, label % 10]]
        for split, count in (("train", 2), ("val", 1)):
            (folder / split / known.wnid).mkdir(parents=True)
            for i in range(count):
                pixels = 0.8 * colour + 0.2 * textures[number % len(textures)]
                image = Image.fromarray(pixels.astype(np.uint8)).resize((48, 40))
                image.save(folder / split / known.wnid / f"{known.wnid}_{i}.JPEG", quality=95)
                number += 1
    return folder


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("v1_0", ()),
        ("v1_1", ()),
        # For the dead start that its head tells of.
        ("simple_bypass", ("--lr_max", 0.003, "--warmup_epochs", 1)),
        ("complex_bypass", ()),
    ],
)
def test_a_recipe_starts_is_interrupted_resumes_learns_and_evaluates(small_imagenet, tmp_path, name, remedy):
    recipe = ("--config", ROOT / "config" / f"squeezenet_imagenet_{name}.yaml", "--data_path", small_imagenet)
    train_until_the_first_validation(*recipe, *SMALL, *remedy, *ON_CPU, "--output_path", "run", cwd=tmp_path)
    resumed = run_script("train.py", "--resume", "--output_path", "run", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["steps"] == 3 * STEPS_PER_EPOCH
    assert STEPS_PER_EPOCH <= result["resumed_at_steps"][0] < 3 * STEPS_PER_EPOCH
    with open(tmp_path / "run" / "metrics.csv", newline="") as stream:
        losses = [float(row["val_loss"]) for row in csv.DictReader(stream) if row["val_loss"]]
    # Chance is ln(1000), which a network that knows nothing says of every image alike: a mean below it on 1,000 images
    # that were not trained on is no accident. A training on ImageNet just begins to move within so few steps.
    assert len(losses) == 3 and losses[-1] < losses[0] and losses[-1] < math.log(1000) - 0.002
    evaluated = run_script("eval.py", "--ckpt_path", "run/best.ckpt", "--data_path", small_imagenet, cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    written = json.loads((tmp_path / "run" / "eval_best_val" / "result.json").read_text())
    assert (written["dataset"], written["images"], written["resizer"]) == ("imagenet", 1000, "pillow")
    assert written["accuracy"] == pytest.approx(result["validation"]["accuracy"])


def train_until_the_first_validation(*arguments, cwd):
    """Run train.py, and end it with a signal after its first epoch."""
    command = [sys.executable, str(ROOT / "train.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if line.startswith("validation at step"):
                process.send_signal(signal.SIGTERM)
                break
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, errors
