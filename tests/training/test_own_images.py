"""Training and evaluation on folders of one's own images, as they come."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from src.checkpoint import load_network
from tests.made_data import write_image_folder
from tests.programs import one_line_error

TINY = ("--version", "cifar", "--base_e", 8, "--incr_e", 8, "--image_size", 12, "--batch_size", 4, "--epochs", 1)
TRAIN = (*TINY, "--warmup_epochs", 0, "--scalars", "none", "--device_target", "CPU", "--dataset", "image_folder")


def noise(count):
    return np.random.RandomState(count).randint(0, 256, (count, 12, 12, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, program):
    """A run on class folders alone: where, and what the program said."""
    folder = tmp_path_factory.mktemp("own")
    write_image_folder(folder, {"photos": {"ant": noise(10), "bee": noise(15), "cow": noise(5)}})
    (folder / "photos" / "ant" / "notes.txt").touch()
    done = program("train", *TRAIN, "--data_path", "photos", "--output_path", "run", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.fixture
def evaluate(program, tmp_path, no_pictures):
    def run(checkpoint, *arguments, cwd):
        out = ("--output_path", tmp_path / "out", "--device_target", "CPU")
        return program("eval", "--ckpt_path", checkpoint, *arguments, *out, cwd=cwd)

    return run


def test_class_folders_alone_are_trained_on_and_the_default_split_is_said(trained):
    folder, done = trained
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("photos: ")]
    assert line == "photos: no train/ folder; 0.2 of each class is set aside for validation (val_split)"
    assert "24 images for training, 6 for validation" in done.stdout
    assert done.stderr == "photos: passed over 1 that are no images: 1 .txt\n"
    assert load_network(folder / "run" / "best.ckpt")[1].val_split == 0.2
    assert "val_split: 0.2\n" in (folder / "run" / "config.yaml").read_text()


def test_the_run_is_resumed_with_the_split_it_had(trained, program, tmp_path):
    shutil.copytree(trained[0], tmp_path / "copy")
    for flags in (("--resume", "run"), ("--resume", "--output_path", "run", "--data_path", "photos", *TRAIN)):
        done = program("train", *flags, cwd=tmp_path / "copy")
        assert done.returncode == 0 and "the run is complete" in done.stdout, done.stderr


def test_evaluation_takes_what_was_set_aside_or_all_on_request(trained, evaluate):
    folder, _ = trained
    done = evaluate("run/best.ckpt", "--data_path", "photos", cwd=folder)
    assert "image_folder val, 6 images" in done.stdout and "--split all takes all" in done.stdout
    done = evaluate("run/best.ckpt", "--data_path", "photos", "--split", "all", cwd=folder)
    assert "image_folder all, 30 images" in done.stdout


def test_photographs_of_some_classes_are_evaluated_by_the_names_of_their_folders(trained, evaluate, tmp_path):
    write_image_folder(tmp_path, {"new": {"cow": noise(3), "bee": noise(2)}})
    done = evaluate(trained[0] / "run" / "best.ckpt", "--data_path", "new", "--split", "all", cwd=tmp_path)
    assert "image_folder all, 5 images" in done.stdout
    table = (tmp_path / "out" / "confusion_matrix.csv").read_text().splitlines()
    assert [sum(map(int, row.split(",")[1:])) for row in table[1:]] == [0, 2, 3]


def test_val_split_beside_validation_images_is_refused(program, tmp_path):
    write_image_folder(tmp_path, {"train": {"ant": noise(10), "bee": noise(10)}, "valid": {"ant": noise(2)}})
    done = program("train", *TRAIN, "--data_path", ".", "--val_split", 0.1, "--output_path", "run", cwd=tmp_path)
    assert "val_split: . has a folder of validation images already" in one_line_error(done)
    assert not (tmp_path / "run").exists()


def test_one_class_is_nothing_to_choose(program, evaluate, tmp_path, no_pictures):
    write_image_folder(tmp_path, {"train": {"ant": noise(10)}, "val": {"ant": noise(2)}})
    runs = [program("train", *TRAIN, "--data_path", ".", "--output_path", "run", cwd=tmp_path)]
    runs.append(evaluate("run/best.ckpt", "--data_path", ".", cwd=tmp_path))
    for done in runs:
        (line,) = done.stderr.splitlines()
        assert done.returncode == 0 and line.startswith("warning: there is one class, 'ant', so nothing to choose")


def test_photographs_in_one_folder_are_evaluated_with_a_table_of_their_classes(trained, evaluate, tmp_path):
    write_image_folder(tmp_path, {"": {"photos": noise(3)}})
    (tmp_path / "photos" / "labels.csv").write_text("image;label\n0000.png;cow\n0001.png;bee\n0002.png;cow\n")
    data = ("--dataset", "image_csv", "--data_path", "photos")
    done = evaluate(trained[0] / "run" / "best.ckpt", *data, cwd=tmp_path)
    assert done.returncode == 0 and "image_csv val, 3 images" in done.stdout, done.stderr
    table = (tmp_path / "out" / "confusion_matrix.csv").read_text().splitlines()
    assert [sum(map(int, row.split(",")[1:])) for row in table[1:]] == [0, 1, 2]
    (tmp_path / "photos" / "labels.csv").write_text("image;label\n0000.png;horse\n")
    assert "horse is none of them" in one_line_error(evaluate(trained[0] / "run" / "best.ckpt", *data, cwd=tmp_path))
