"""The default recipe, shortened, on real CIFAR-10 images: train, evaluate, predict and export as a user does."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from src.config import DataConfig
from src.dataset import open_source
from tests.programs import run_script

pytestmark = [pytest.mark.slow, pytest.mark.cifar10]

# The recipe's learning rate is made for 46,860 steps: in 780 steps of 5,000 images it left the net at chance.
SHORTENED = (
    *("--image_size", 40, "--train_images", 5000, "--epochs", 6, "--warmup_epochs", 1, "--lr_max", 0.003),
    *("--batch_size", 32, "--log_steps", 100, "--device_target", "CPU"),
)


@pytest.fixture(scope="module")
def trained(real_cifar10, tmp_path_factory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("run")
    run = folder / "run"
    done = run_script(
        "train.py",
        *("--config", "config/squeezenet_cifar10.yaml", "--data_path", real_cifar10, "--output_path", run, *SHORTENED),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((run / "result.json").read_text())
    return SimpleNamespace(folder=folder, run=run, result=result, stdout=done.stdout)


def test_training_learns_far_beyond_chance(trained):
    assert trained.result["test"]["images"] == 10_000
    assert trained.result["test"]["accuracy"] > 0.25  # Chance is 0.10; this gave 0.298.
    assert trained.result["steps"] == 6 * (5000 // 32)


def test_evaluation_repeats_the_accuracy_of_training(trained, real_cifar10):
    output = trained.folder / "evaluation"
    done = run_script(
        "eval.py",
        *("--ckpt_path", trained.run / "squeezenet.ckpt", "--data_path", real_cifar10, "--output_path", output),
        *("--batch_size", 77),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((output / "result.json").read_text())
    assert result["images"] == 10_000
    assert result["accuracy"] == pytest.approx(trained.result["test"]["accuracy"], abs=2e-4)


def test_exported_models_predict_what_the_checkpoint_predicts(trained, real_cifar10):
    photographs = trained.folder / "photographs"
    photographs.mkdir()
    test = open_source(DataConfig(data_path=str(real_cifar10)), "test")
    for i in range(40):
        Image.fromarray(test.image(i)).save(photographs / f"{i:02d}.png")
    probabilities = {}
    for name, flags in (("ckpt", ()), ("mindir", ()), ("onnx", ("--dynamic_batch", "--uint8_input", "--softmax"))):
        model = trained.folder / f"net.{name}"
        if name != "ckpt":
            exported = run_script(
                "export.py",
                *("--ckpt_path", trained.run / "squeezenet.ckpt", "--file_name", model),
                *("--file_format", name.upper(), *flags),
            )
            assert exported.returncode == 0, exported.stderr
        source = ("--ckpt_path", trained.run / "squeezenet.ckpt") if name == "ckpt" else ("--model_path", model)
        output = trained.folder / f"predictions_{name}"
        done = run_script("infer.py", "--images", photographs, *source, "--top_k", 10, "--output_path", output)
        assert done.returncode == 0, done.stderr
        predictions = json.loads((output / "predictions.json").read_text())
        rows = [sorted(entry["top_k"], key=lambda top: top["index"]) for entry in predictions]
        probabilities[name] = np.array([[top["probability"] for top in row] for row in rows])
    right = probabilities["ckpt"].argmax(1) == test.labels[:40]
    assert right.mean() > 0.15
    for name in ("mindir", "onnx"):
        np.testing.assert_allclose(probabilities[name], probabilities["ckpt"], atol=1e-5)
