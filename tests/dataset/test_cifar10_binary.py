import shutil

import numpy as np
import pytest

from src.dataset import cifar10_binary
from src.dataset.cifar10 import open_cifar10
from src.dataset.cifar10_binary import open_cifar10_binary
from tests.made_data import refusal, write_cifar10, write_cifar10_binary


@pytest.fixture
def made(tmp_path, made_images, monkeypatch):
    """A data folder with the same 20 images a batch in both layouts."""
    splits = [(split.images, split.labels) for split in (made_images.train, made_images.test)]
    write_cifar10(tmp_path, *splits)
    monkeypatch.setattr(cifar10_binary, "RECORDS", write_cifar10_binary(tmp_path, *splits))
    return tmp_path


@pytest.mark.parametrize("split", ["train", "test"])
def test_both_layouts_give_the_same_images(made, split):
    binary, pickled = open_cifar10_binary(made, split), open_cifar10(made, split)
    np.testing.assert_array_equal(binary.images, pickled.images)
    np.testing.assert_array_equal(binary.labels, pickled.labels)
    assert binary.classes == pickled.classes
    assert (binary.mean, binary.std) == (pickled.mean, pickled.std)


@pytest.mark.cifar10
def test_both_layouts_give_the_same_real_images(real_cifar10):
    binary, pickled = open_cifar10_binary(real_cifar10, "test"), open_cifar10(real_cifar10, "test")
    assert len(binary) == 10000
    np.testing.assert_array_equal(binary.images, pickled.images)
    np.testing.assert_array_equal(binary.labels, pickled.labels)


def test_the_batch_folder_itself_may_be_given(made):
    assert len(open_cifar10_binary(made / "cifar-10-batches-bin", "train")) == 100


def test_a_missing_folder_says_where_the_data_set_comes_from(tmp_path):
    message = refusal(open_cifar10_binary, tmp_path, "test")
    assert str(tmp_path / "cifar-10-batches-bin") in message and "test_batch.bin" in message
    assert "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz" in message


def test_a_missing_file_is_named(made):
    (made / "cifar-10-batches-bin" / "data_batch_5.bin").unlink()
    assert "no data_batch_5.bin" in refusal(open_cifar10_binary, made, "train")


@pytest.mark.parametrize("surplus", [-1, 1, -3073, 3073, -20 * 3073])
def test_a_file_of_any_other_length_is_named_with_both_lengths(made, surplus):
    file = made / "cifar-10-batches-bin" / "data_batch_2.bin"
    content = file.read_bytes()
    file.write_bytes((content + b"\x00" * 3073)[: len(content) + surplus])
    message = refusal(open_cifar10_binary, made, "train")
    assert message.startswith(f"{file}: {20 * 3073 + surplus} bytes instead of {20 * 3073}") and "fetch" in message


def test_label_10_is_named_with_its_record(made):
    file = made / "cifar-10-batches-bin" / "test_batch.bin"
    content = bytearray(file.read_bytes())
    content[11 * 3073] = 10
    file.write_bytes(content)
    assert refusal(open_cifar10_binary, made, "test").startswith(f"{file}: record 11 has label 10, not 0 to 9; fetch")


@pytest.mark.parametrize("given", ["", "cifar-10-batches-bin"])
def test_the_test_images_may_lie_where_the_model_zoo_puts_them(made, made_images, given):
    (made / "cifar-10-verify-bin").mkdir()
    file = made / "cifar-10-batches-bin" / "test_batch.bin"
    file.rename(made / "cifar-10-verify-bin" / file.name)
    np.testing.assert_array_equal(open_cifar10_binary(made / given, "test").images, made_images.test.images[:20])
    assert len(open_cifar10_binary(made / given, "train")) == 100


@pytest.mark.parametrize(
    ("opened", "present", "name"),
    [(open_cifar10, "bin", "cifar10_binary"), (open_cifar10_binary, "py", "cifar10")],
)
def test_the_other_layout_is_named_with_its_data_set(made, opened, present, name):
    shutil.rmtree(made / f"cifar-10-batches-{'py' if present == 'bin' else 'bin'}")
    message = refusal(opened, made, "train")
    assert f"{made} has cifar-10-batches-{present}/: give --dataset {name}" in message


def test_sound_files_are_not_to_be_removed(made):
    for opened, name in ((open_cifar10, "test_batch"), (open_cifar10_binary, "test_batch.bin")):
        folder = made / f"cifar-10-batches-{'bin' if name.endswith('bin') else 'py'}"
        (folder / name).unlink()
        others = folder.with_name("others")
        made.joinpath(f"cifar-10-batches-{'py' if name.endswith('bin') else 'bin'}").rename(others)
        message = refusal(opened, made, "test")
        assert f"(no {name}); add what is missing, or call this folder by another name" in message
        assert "remove" not in message
        others.rename(made / f"cifar-10-batches-{'py' if name.endswith('bin') else 'bin'}")
