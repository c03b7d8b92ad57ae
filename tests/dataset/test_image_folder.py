import shutil

import numpy as np
import pytest

from src.dataset.image_files import image_files
from src.dataset.image_folder import is_flat, open_image_folder
from tests.made_data import refusal, write_image_folder


def images_of(value, count):
    return [np.full((6, 5, 3), value + i, np.uint8) for i in range(count)]


@pytest.fixture
def made(tmp_path):
    """A folder with two classes whose pixels tell the class and number."""
    write_image_folder(
        tmp_path,
        {
            "train": {"zebra": images_of(200, 2), "ant": images_of(10, 3)},
            "val": {"ant": images_of(50, 1), "zebra": images_of(150, 2)},
            "test": {"zebra": images_of(250, 1)},
        },
    )
    return tmp_path


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("train", [(10, 0), (11, 0), (12, 0), (200, 1), (201, 1)]),
        ("val", [(50, 0), (150, 1), (151, 1)]),
        ("test", [(250, 1)]),
    ],
)
def test_labels_count_the_training_folders_in_alphabetical_order_in_every_split(made, split, expected):
    source = open_image_folder(made, split)
    assert source.classes == ["ant", "zebra"]
    assert [(source.image(i)[0, 0, 0], source.labels[i]) for i in range(len(source))] == expected


def test_images_in_subfolders_and_of_any_suffix_count_and_other_files_do_not(made):
    ant = made / "train" / "ant"
    (ant / "deeper").mkdir()
    shutil.copy(ant / "0000.png", ant / "deeper" / "IMAGE.JPeG")
    for name in (".hidden.png", "notes.txt", "Thumbs.db"):
        shutil.copy(ant / "0000.png", ant / name)
    (made / "train" / ".git").mkdir()
    assert [str(file.relative_to(ant)) for file in image_files(ant)] == [
        "0000.png",
        "0001.png",
        "0002.png",
        "deeper/IMAGE.JPeG",
    ]
    assert open_image_folder(made, "train").classes == ["ant", "zebra"]


@pytest.mark.parametrize("name", ["a cat", "été", "狗", "new\nline", "-rf", "100%", "a'b\"c"])
def test_any_name_is_good_for_a_class_and_a_file(tmp_path, name):
    write_image_folder(tmp_path, {"train": {name: images_of(7, 1)}})
    folder = tmp_path / "train" / name
    (folder / "0000.png").rename(folder / f"{name}.png")
    source = open_image_folder(tmp_path, "train")
    assert (source.classes, source.name(0)) == ([name], f"{name}.png")
    assert (source.image(0) == 7).all()


def test_a_class_may_be_absent_from_validation(made):
    shutil.rmtree(made / "val" / "ant")
    assert set(open_image_folder(made, "val").labels) == {1}


def test_a_class_that_training_does_not_know_is_named(made):
    (made / "val" / "bee").mkdir()
    message = refusal(open_image_folder, made, "val")
    assert message.startswith(f"{made / 'val' / 'bee'}: there is no such class in {made / 'train'}; add it there")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_missing_split_is_named_with_the_layout(made, split):
    shutil.rmtree(made / split)
    message = refusal(open_image_folder, made, split)
    assert message.startswith(f"{made / split}: no such folder") and "train/<class>/" in message


def test_a_missing_or_empty_data_folder_is_named_with_the_layout(tmp_path):
    assert str(tmp_path / "train") in refusal(open_image_folder, tmp_path, "train")
    assert str(tmp_path / "none" / "train") in refusal(open_image_folder, tmp_path / "none", "val")


def test_images_without_class_folders_are_the_wrong_layout(made):
    for file in image_files(made / "train"):
        file.rename(made / "train" / f"{file.parent.name}{file.name}")
    for folder in ("ant", "zebra"):
        (made / "train" / folder).rmdir()
    message = refusal(open_image_folder, made, "train")
    assert message.startswith(f"{made / 'train'}: no class folders") and "train/<class>/*.jpg" in message


def test_class_folders_without_images_say_what_was_looked_for(made):
    for file in image_files(made / "val"):
        file.rename(file.with_suffix(".txt"))
    message = refusal(open_image_folder, made, "val")
    assert message.startswith(f"{made / 'val'}: no images") and ".jpg" in message and ".png" in message


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ({"val": "valid"}, [50, 150, 151]),
        ({"val": "Validation"}, [50, 150, 151]),
        ({"train": "Training", "val": "VALID"}, [50, 150, 151]),
    ],
)
def test_the_folders_of_splits_may_have_other_usual_names(made, names, expected):
    for name, other in names.items():
        (made / name).rename(made / other)
    assert values(open_image_folder(made, "val")) == expected
    assert len(open_image_folder(made, "train")) == 5


def test_the_splits_own_name_comes_first_and_two_others_are_a_question(made):
    shutil.copytree(made / "val", made / "valid")
    (made / "valid" / "ant" / "0000.png").unlink()
    assert values(open_image_folder(made, "val")) == [50, 150, 151]
    (made / "val").rename(made / "validation")
    assert "call one of them val/" in refusal(open_image_folder, made, "val")


def values(source):
    return [int(source.image(i)[0, 0, 0]) for i in range(len(source))]


def test_class_folders_alone_are_training_images(made):
    source = open_image_folder(made / "train", "train")
    assert (source.classes, values(source)) == (["ant", "zebra"], [10, 11, 12, 200, 201])
    assert "no such folder" in refusal(open_image_folder, made / "train", "val")


def test_a_folder_of_data_sets_is_not_taken_for_class_folders(made):
    outer = made / "outer"
    shutil.copytree(made, outer / "photos")
    assert not is_flat(outer) and not is_flat(made) and is_flat(made / "train")
    assert f"{outer / 'train'}: no such folder" in refusal(open_image_folder, outer, "train")


def test_without_train_the_classes_are_those_of_the_split(made):
    shutil.rmtree(made / "train")
    assert open_image_folder(made, "test").classes == ["zebra"]


def test_photographs_without_classes_are_the_wrong_layout(made):
    message = refusal(open_image_folder, made / "train" / "ant", "train")
    assert "<class>/" in message and "infer.py" in message
