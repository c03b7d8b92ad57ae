"""The programs from end to end: each is started once as a user starts it; then, for its mistakes, in this process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.config import DataConfig
from src.dataset import open_source
from tests.made_data import write_image_folder
from tests.programs import ROOT, one_line_error, run_script

FLAGS = ("--dataset", "digits", "--version", "cifar", "--image_size", 16, "--batch_size", 16, "--device_target", "CPU")
BRIEF = (*FLAGS, "--epochs", 1, "--warmup_epochs", 0, "--train_images", 64)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder in which train.py has been run, what it printed, and one image of each of two digits."""
    folder = tmp_path_factory.mktemp("programs")
    done = run_script("train.py", *BRIEF, "--val_split", 0.1, "--output_path", "run", cwd=folder)
    source = open_source(DataConfig(dataset="digits"), "test")
    for i in range(2):
        Image.fromarray(source.image(i)).save(folder / f"{i}.png")
    return folder, done


def test_train_prints_the_device_what_it_trains_and_both_accuracies(trained):
    folder, done = trained
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "device: CPU" and lines[1].startswith("SqueezeNet cifar: 146,570 parameters")
    result = json.loads((folder / "run" / "result.json").read_text())
    assert lines[-4] == f"validation accuracy {result['validation']['accuracy']:.2%} (best.ckpt)"
    assert lines[-3] == f"test accuracy {result['test']['accuracy']:.2%} (best.ckpt)"
    assert " images/s, " in lines[-2] and "peak memory" in lines[-2] and lines[-2].endswith("all of it in run")
    assert lines[-1] == "next: python infer.py --ckpt_path run/best.ckpt --images FILE_OR_FOLDER"
    assert [entry.name for entry in folder.iterdir() if entry.is_dir()] == ["run"]


def test_eval_prints_the_accuracy_of_training_and_that_of_each_class(trained):
    folder, _ = trained
    done = run_script("eval.py", "--ckpt_path", "run/best.ckpt", "--device_target", "CPU", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads((folder / "run" / "result.json").read_text())["test"]
    lines = done.stdout.splitlines()
    assert lines[1] == "evaluating run/best.ckpt on 359 images of digits test"
    assert lines[2].startswith(f"digits test, 359 images: top-1 {result['accuracy']:.2%}, top-5 ")
    assert [line.split()[0] for line in lines[3:13]] == [str(i) for i in range(10)]
    assert lines[13].endswith("run/eval_best_test") and (folder / "run" / "eval_best_test" / "result.json").is_file()


def test_export_then_infer_prints_a_line_for_each_image(trained):
    folder, _ = trained
    flags = ("--file_format", "ONNX", "--softmax", "--file_name", "served", "--device_target", "CPU")
    exported = run_script("export.py", "--ckpt_path", "run/best.ckpt", *flags, cwd=folder)
    assert (exported.returncode, exported.stderr) == (0, "")
    assert "served.onnx: input (1, 3, 16, 16) float32, output probabilities" in exported.stdout
    assert "largest difference" in exported.stdout
    inferred = run_script(
        "infer.py", "--images", "0.png", "1.png", "--model_path", "served.onnx", "--top_k", 2, cwd=folder
    )
    assert (inferred.returncode, inferred.stderr) == (0, "")
    predictions = json.loads((folder / "predictions" / "predictions.json").read_text())
    lines = inferred.stdout.splitlines()
    for line, prediction in zip(lines, predictions):
        first, second = prediction["top_k"]
        assert line == (
            f"{prediction['file']}  {first['name']} {first['probability']:.1%}, "
            f"{second['name']} {second['probability']:.1%}"
        )
    assert lines[2] == "2 images; predictions.json and gallery: predictions"


def test_infer_exits_with_1_when_some_files_are_no_images_and_2_when_all_are_none(program, trained, tmp_path):
    folder, _ = trained
    (tmp_path / "broken.png").write_bytes(b"no image")
    model = ("--ckpt_path", folder / "run" / "best.ckpt", "--device_target", "CPU")
    some = program("infer", "--images", folder / "0.png", "broken.png", *model, cwd=tmp_path)
    assert some.returncode == 1 and "1 images" in some.stdout
    (warning,) = some.stderr.splitlines()
    assert warning.startswith("warning: skipped: broken.png: not an image")
    shutil.rmtree(tmp_path / "predictions")
    none = program("infer", "--images", "broken.png", *model, cwd=tmp_path)
    assert none.returncode == 2
    assert none.stderr.splitlines() == ["error: broken.png: not an image; remove it or replace it"]
    assert not (tmp_path / "predictions" / "predictions.json").exists()


def test_a_damaged_checkpoint_is_one_line_and_makes_no_folder(program, trained, tmp_path):
    data = bytearray((trained[0] / "run" / "best.ckpt").read_bytes())
    data[100_000] ^= 1
    (tmp_path / "net.ckpt").write_bytes(data)
    done = program("eval", "--ckpt_path", "net.ckpt", "--device_target", "CPU", cwd=tmp_path)
    assert "net.ckpt: not a checkpoint, or damaged" in one_line_error(done)
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.ckpt"]


def test_a_damaged_mindir_is_one_line_and_makes_no_folder(program, tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "image.png")
    (tmp_path / "net.mindir").write_bytes(b"")
    specification = {
        "input": {"shape": [1, 3, 8, 8], "dtype": "float32"},
        "output": {"what": "logits"},
        "classes": ["a", "b"],
        "preprocessing": {
            "image_size": 8,
            "fit": "resize",
            "normalize": "dataset",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
    }
    (tmp_path / "net.mindir.json").write_text(json.dumps(specification))
    flags = ("--model_path", "net.mindir", "--device_target", "CPU")
    done = program("infer", "--images", "image.png", *flags, cwd=tmp_path)
    assert "net.mindir: not a MINDIR model, or damaged" in one_line_error(done)
    assert not (tmp_path / "predictions").exists()


def test_a_broken_image_met_in_training_is_named_and_one_too_many_ends_the_run(program, tmp_path):
    images = np.random.RandomState(0).randint(0, 256, (4, 16, 16, 3)).astype(np.uint8)
    write_image_folder(tmp_path, {split: {"a": images, "b": images} for split in ("train", "val")})
    (tmp_path / "train" / "b" / "0002.png").write_bytes(b"no image")
    flags = ("--dataset", "image_folder", "--data_path", tmp_path, "--version", "cifar", "--image_size", 16)
    flags += ("--batch_size", 4, "--epochs", 1, "--warmup_epochs", 0, "--device_target", "CPU")
    done = program("train", *flags, "--output_path", tmp_path / "left out", cwd=tmp_path)
    assert done.returncode == 0
    assert "train/b/0002.png: not an image; remove it or replace it" in done.stderr
    assert json.loads((tmp_path / "left out" / "result.json").read_text())["broken_images"] == 1
    done = program("train", *flags, "--max_broken_images", 0, "--output_path", tmp_path / "run", cwd=tmp_path)
    assert "train/b/0002.png: not an image; remove it or replace it" in one_line_error(done)
    assert not (tmp_path / "run" / "result.json").exists()


def test_a_mistake_in_the_flags_is_one_line_that_says_what_is_allowed(program, tmp_path):
    for name, flags in (
        ("train", ("--optimzer", "adam")),
        ("eval", ()),
        ("infer", ("--images", "a.png", "--top_k", 0)),
        ("export", ("--ckpt_path", "a.ckpt", "--file_format", "TFLITE")),
        ("to_mindrecord", ("--data_path", "a", "--output_path", "b")),
    ):
        text = one_line_error(program(name, *flags, cwd=tmp_path))
        assert {
            "train": "unknown key 'optimzer'; did you mean 'optimizer'?",
            "eval": "give either --ckpt_path (a checkpoint) or --model_path (an exported model)",
            "infer": "top_k: '0' is not allowed; it takes a whole number, at least 1",
            "export": "file_format: 'TFLITE' is not allowed; it takes one of MINDIR, AIR, ONNX",
            "to_mindrecord": "a: contains no class folders, and neither train/ nor val/",
        }[name] in text
    assert list(tmp_path.iterdir()) == []


def test_help_of_each_program_names_its_flags(tmp_path):
    for name, flag in (
        ("train.py", "--lr_decay_mode"),
        ("eval.py", "--ckpt_path"),
        ("infer.py", "--top_k"),
        ("export.py", "--uint8_input"),
        ("to_mindrecord.py", "--files"),
        ("compress.py", "--sparsity"),
        ("convert.py", "--from"),
    ):
        done = run_script(name, "--help", cwd=tmp_path)
        assert done.returncode == 0 and flag in done.stdout and done.stderr == ""


def test_eval_of_a_thousand_classes_prints_the_ten_that_did_worst(monkeypatch, capsys):
    import eval as program

    accuracies = {f"class {i}": None if i == 3 else i / 1000 for i in range(1000)}
    result = {
        "dataset": "imagenet",
        "split": "val",
        "images": 5000,
        "accuracy": 0.5,
        "top_5_accuracy": 0.8,
        "loss": 2.0,
    }
    found = {**result, "accuracy_per_class": accuracies, "output_path": "eval"}
    monkeypatch.setattr("src.inference.evaluation.evaluate_model", lambda config, device: found)
    monkeypatch.setattr(sys, "argv", ["eval.py", "--ckpt_path", "net.ckpt"])
    program.main()
    lines = capsys.readouterr().out.splitlines()
    assert "the 10 that did worst" in lines[1] and lines[-1].endswith("eval")
    assert [line.split()[1] for line in lines[2:-1]] == ["0", "1", "2", *map(str, range(4, 11))]


@pytest.mark.slow
def test_ctrl_c_ends_training_with_one_word_and_no_traceback(tmp_path):
    command = [sys.executable, str(ROOT / "train.py"), *map(str, (*FLAGS, "--epochs", 500, "--output_path", "run"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        for line in process.stdout:
            if line.startswith("step "):
                process.send_signal(signal.SIGINT)
                break
        _, errors = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert errors.split("\n") == ["", "stopping after this step; interrupt again to stop at once", "interrupted", ""]
    assert (Path(tmp_path) / "run" / "train.log").is_file()
