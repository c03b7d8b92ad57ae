"""ImageNet's folders and the three ways in which the labels of a flat val/ come."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from src.cli.errors import user_error_within
from src.config import DataConfig
from src.dataset import open_source, preprocessing_of, splits, training_pipeline
from src.dataset.imagenet_classes import imagenet_classes
from tests.made_data import read_all, refusal

CLASSES = imagenet_classes()
COLUMNS = ("image", "label")
FIRST, SECOND, LAST = 0, 1, 999


def config(folder, **options):
    return DataConfig(dataset="imagenet", data_path=str(folder), **options)


def opened(folder, split, **options):
    """Return the colour and the label of every image, and the class names."""
    source = open_source(config(folder, **options), split)
    return [(int(source.image(i)[0, 0, 0]), int(source.labels[i])) for i in range(len(source))], source.classes


def save(file, colour):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((3, 4, 3), colour, np.uint8)).save(
        file, "PNG"
    )  # A PNG called .JPEG, as one in ImageNet is.


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    """A training folder with an image of every class."""
    folder = tmp_path_factory.mktemp("imagenet")
    for label, known in enumerate(CLASSES):
        save(folder / "train" / known.wnid / f"{known.wnid}_1.JPEG", label % 256)
    return folder


@pytest.fixture
def flat(tmp_path):
    """Three validation images in one folder, of colours 10, 20 and 30."""
    for i in (1, 2, 3):
        save(tmp_path / "val" / f"ILSVRC2012_val_{i:08}.JPEG", 10 * i)
    return tmp_path


EXPECTED = [(10, LAST), (20, FIRST), (30, SECOND)]


def write_kit(folder, lines):
    """Write the official text, and a meta.mat as the development kit has it: 1,000 classes, then groups of them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("".join(f"{line}\n" for line in lines))
    # Here number n is the class n - 1 places from the end; the kit's own order is another again.
    synsets = np.zeros((1001, 1), [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
    for n, known in enumerate(reversed(CLASSES), 1):
        synsets[n - 1, 0] = (np.float64(n), known.wnid, known.name)
    synsets[1000, 0] = (np.float64(1001), "n00001740", "entity")
    savemat(folder / "meta.mat", {"synsets": synsets})


def test_training_classes_are_the_1000_in_the_order_of_the_published_logits(complete):
    found, names = opened(complete, "train")
    assert found == [(i % 256, i) for i in range(1000)]
    assert names[:2] == ["tench", "goldfish"] and len(names) == 1000


def test_validation_images_may_be_in_class_folders_some_of_which_are_missing(tmp_path, capsys):
    save(tmp_path / "val" / CLASSES[LAST].wnid / "a.JPEG", 10)
    save(tmp_path / "val" / CLASSES[FIRST].wnid / "b.JPEG", 20)
    assert opened(tmp_path, "val")[0] == [(20, FIRST), (10, LAST)]
    warning = capsys.readouterr().err
    assert "no images of 998 of the 1,000 classes (goldfish, " in warning and warning.count("\n") == 1
    assert splits(config(tmp_path)) == ("val",)


@pytest.mark.parametrize(
    "text",
    [
        "image,label\nILSVRC2012_val_00000001.JPEG,{last}\nILSVRC2012_val_00000002.JPEG,tench\n"
        "ILSVRC2012_val_00000003.JPEG,1\n",
        "ImageId,PredictionString\nILSVRC2012_val_00000001,{last} 85 1 499 272 \n"
        "ILSVRC2012_val_00000002,{first} 1 2 3 4 {first} 5 6 7 8\nILSVRC2012_val_00000003,{second} 0 0 9 9\n",
    ],
    ids=["WordNet id, name and index", "Kaggle"],
)
@pytest.mark.parametrize("name", ["val.csv", "LOC_val_solution.csv", "elsewhere/labels.csv"])
def test_labels_may_be_in_a_csv_file(flat, text, name):
    (flat / name).parent.mkdir(exist_ok=True)
    wnids = {"first": CLASSES[FIRST].wnid, "second": CLASSES[SECOND].wnid, "last": CLASSES[LAST].wnid}
    (flat / name).write_text(text.format(**wnids))
    named = {"val_labels": str(flat / name)} if "elsewhere" in name else {}
    assert opened(flat, "val", **named)[0] == EXPECTED


@pytest.mark.parametrize("place", [".", "ILSVRC2012_devkit_t12/data"])
def test_labels_may_be_in_the_official_text_whose_numbers_meta_mat_explains(flat, place):
    write_kit(flat / place, [1, 1000, 999, 5])
    assert opened(flat, "val")[0] == EXPECTED


def test_a_gap_in_the_official_images_does_not_shift_the_labels(flat):
    write_kit(flat, [1, 1000, 999])
    (flat / "val" / "ILSVRC2012_val_00000001.JPEG").unlink()
    assert opened(flat, "val")[0] == EXPECTED[1:]


def test_folders_that_are_no_imagenet_classes_are_named_before_training(complete, tmp_path):
    shutil.copytree(complete / "train", tmp_path / "train")
    (tmp_path / "train" / "n99999999").mkdir()
    (tmp_path / "train" / "zebra").mkdir()
    message = refusal(open_source, config(tmp_path), "train")
    assert message.startswith(f"{tmp_path}/train/n99999999: is not one of the 1,000 WordNet ids")
    assert "nor are 1 other folders" in message and "--dataset image_folder" in message


def test_training_classes_without_images_are_named_before_training(complete, tmp_path):
    shutil.copytree(complete / "train", tmp_path / "train")
    shutil.rmtree(tmp_path / "train" / CLASSES[FIRST].wnid)
    (tmp_path / "train" / CLASSES[LAST].wnid / f"{CLASSES[LAST].wnid}_1.JPEG").unlink()
    message = refusal(open_source, config(tmp_path), "train")
    assert "no images of 2 of the 1,000 classes (n01440764 tench, n15075141 toilet tissue)" in message


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("image,label\nILSVRC2012_val_00000009.JPEG,tench\n", "line 2: there is no file"),
        (
            "image,label\nILSVRC2012_val_00000001.JPEG,unicorn\n",
            "line 2: 'unicorn' is not the WordNet id, name or index",
        ),
        ("image,label\nILSVRC2012_val_00000001.JPEG,1000\n", "line 2: '1000' is not the WordNet id"),
        ("image,class\nILSVRC2012_val_00000001.JPEG,1\n", "no column 'label' (found: image, class)"),
    ],
)
def test_a_table_that_does_not_fit_is_named_with_its_line(flat, text, problem):
    (flat / "val.csv").write_text(text)
    message = refusal(open_source, config(flat), "val")
    assert message.startswith(str(flat / "val.csv")) and problem in message


def test_a_flat_folder_without_labels_says_what_was_looked_for(flat):
    message = refusal(open_source, config(flat), "val")
    assert "LOC_val_solution.csv" in message and "--val_labels" in message


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([1, 2], "has 2 lines, but none for ILSVRC2012_val_00000003.JPEG"),
        ([1, 2, 1001], "line 3: b'1001' is not a class number from 1 to 1000"),
        ([1, 0, 2], "line 2: b'0' is not a class number from 1 to 1000"),
        ([1, "tench", 2], "line 2: b'tench' is not a class number from 1 to 1000"),
    ],
)
def test_an_official_text_that_does_not_fit_is_named(flat, lines, problem):
    write_kit(flat, lines)
    assert problem in refusal(open_source, config(flat), "val")


def test_the_official_text_needs_meta_mat_and_official_names(flat):
    write_kit(flat, [1, 2, 3])
    (flat / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    assert refusal(open_source, config(flat), "val").startswith(f"{flat}/meta.mat: not the meta.mat")
    (flat / "meta.mat").unlink()
    assert refusal(open_source, config(flat), "val").startswith(f"{flat}/meta.mat: cannot be read")
    write_kit(flat, [1, 2, 3])
    save(flat / "val" / "cat.JPEG", 1)
    assert refusal(open_source, config(flat), "val").startswith(f"{flat}/val/cat.JPEG: not an official name")


def test_a_folder_that_is_missing_is_named_with_the_layout(tmp_path):
    for split in ("train", "val"):
        message = refusal(open_source, config(tmp_path), split)
        assert message.startswith(f"{tmp_path / split}: no such folder") and "train/<WordNet id>/" in message


def test_opening_looks_into_no_image_and_a_broken_one_is_named_counted_and_left_out(complete, tmp_path, capsys):
    shutil.copytree(complete / "train", tmp_path / "train")
    broken = tmp_path / "train" / CLASSES[LAST].wnid / f"{CLASSES[LAST].wnid}_1.JPEG"
    broken.write_bytes(broken.read_bytes()[:30])
    for file in (tmp_path / "train" / CLASSES[SECOND].wnid).iterdir():
        file.write_bytes(b"no image")
    chosen = config(tmp_path, image_size=4, batch_size=8, max_broken_images=2)
    source = open_source(chosen, "train")
    assert len(source) == 1000 and not capsys.readouterr().err
    images, labels = read_all(training_pipeline(source, chosen, preprocessing_of(chosen, source), 1))
    assert len(images) == 1000 and not {SECOND, LAST} & set(labels.tolist())
    assert source.broken == {SECOND, LAST}
    warnings = capsys.readouterr().err
    assert warnings.count("warning: image left out: ") == 2 and str(broken) in warnings
    (tmp_path / "train" / CLASSES[FIRST].wnid / f"{CLASSES[FIRST].wnid}_1.JPEG").write_bytes(b"")
    source = open_source(chosen, "train")
    with pytest.raises(RuntimeError) as raised:
        read_all(training_pipeline(source, chosen, preprocessing_of(chosen, source), 1))
    assert user_error_within(raised.value) is not None


def test_the_200_photographs_and_their_table_are_a_validation_set(shared, tmp_path):
    data = shared / "data" / "imagenet_squeezenet"
    (tmp_path / "val").symlink_to(data / "images")
    table = {"val_labels": str(data / "expected_top5.csv"), "csv_columns": ["file", "true_class"]}
    source = open_source(config(tmp_path, **table), "val")
    assert len(source) == 200
    for i, label in enumerate(source.labels):
        assert source.name(i).startswith(CLASSES[label].wnid)
