import codecs
import os
import pickle
import shutil
import sys
import tarfile
import tracemalloc

import numpy as np
import pytest

from src.config import DataConfig
from src.dataset import open_source
from src.dataset.cifar10 import ARCHIVE, CLASSES, open_cifar10
from tests.made_data import read_pickle, refusal, write_cifar10, write_pickle

RECORDS = 20


@pytest.fixture
def made(tmp_path, made_images):
    """A data folder with CIFAR-10 of 20 images a batch."""
    train, test = made_images.train, made_images.test
    assert write_cifar10(tmp_path, (train.images, train.labels), (test.images, test.labels)) == RECORDS
    return tmp_path


def batch(folder, name):
    return folder / "cifar-10-batches-py" / name


def change(file, **values):
    """Replace entries of a pickled batch; None removes one."""
    record = {**read_pickle(file), **values}
    write_pickle(file, {key: value for key, value in record.items() if value is not None})


@pytest.mark.parametrize(("split", "count"), [("train", 5 * RECORDS), ("test", RECORDS)])
def test_a_split_is_its_batches_in_order(made, made_images, split, count):
    source = open_cifar10(made, split)
    expected = getattr(made_images, split)
    np.testing.assert_array_equal(source.images, expected.images[:count])
    np.testing.assert_array_equal(source.labels, expected.labels[:count])
    assert (source.images.dtype, source.labels.dtype) == (np.uint8, np.int32)
    assert source.classes == list(CLASSES)


def test_the_batch_folder_itself_may_be_given(made):
    assert len(open_cifar10(made / "cifar-10-batches-py", "test")) == RECORDS


def test_labels_as_the_last_and_the_first_class_are_accepted(made):
    change(batch(made, "test_batch"), labels=[0, 9] * (RECORDS // 2))
    assert set(open_cifar10(made, "test").labels) == {0, 9}


@pytest.mark.cifar10
def test_the_real_batches_pickled_by_python_2_are_read_whole(real_cifar10):
    for split, count in (("train", 50000), ("test", 10000)):
        source = open_cifar10(real_cifar10, split)
        assert np.bincount(source.labels).tolist() == [count // 10] * 10
        assert source.images.shape == (count, 32, 32, 3)


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_a_folder_without_the_data_set_says_where_it_comes_from(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    message = refusal(open_cifar10, tmp_path / folder, "train")
    for part in (
        str(tmp_path / folder / "cifar-10-batches-py"),
        "data_batch_1",
        "--data_path",
        "--download",
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ):
        assert part in message


def test_batches_that_lie_in_the_data_folder_itself_are_the_wrong_layout(made):
    for file in (made / "cifar-10-batches-py").iterdir():
        file.rename(made / file.name)
    (made / "cifar-10-batches-py").rmdir()
    assert "give --data_path the folder that holds cifar-10-batches-py/" in refusal(open_cifar10, made, "train")


@pytest.mark.parametrize("name", ["data_batch_3", "batches.meta"])
def test_a_missing_file_is_named_with_a_remedy_that_works(made, name):
    batch(made, name).unlink()
    message = refusal(open_cifar10, made, "train")
    assert f"no {name}" in message
    # --download alone would do nothing, since the folder is there.
    assert "call this folder by another name" in message and "--download" in message


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"<html>404</html>", b"\x80\x02}q\x00(U"])
def test_a_file_that_is_no_pickle_is_named(made, content):
    file = batch(made, "data_batch_2")
    file.write_bytes(content)
    message = refusal(open_cifar10, made, "train")
    assert message.startswith(f"{file}: not a CIFAR-10 batch, or damaged") and "fetch" in message


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
def test_a_truncated_pickle_is_named(made, share):
    file = batch(made, "test_batch")
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    assert str(file) in refusal(open_cifar10, made, "test")


@pytest.mark.parametrize(
    "values",
    [
        {"data": None},
        {"data": b"\x00" * 3072 * RECORDS},
        {"data": np.zeros((RECORDS, 3071), np.uint8)},
        {"data": np.zeros((RECORDS, 3072), np.float32)},
        {"data": np.zeros(RECORDS * 3072, np.uint8)},
    ],
    ids=["missing", "bytes", "short rows", "floats", "one row"],
)
def test_a_batch_without_rows_of_3072_bytes_is_named(made, values):
    file = batch(made, "data_batch_5")
    change(file, **values)
    message = refusal(open_cifar10, made, "train")
    assert message.startswith(f"{file}: not a CIFAR-10 batch") and "3,072" in message and "fetch" in message


@pytest.mark.parametrize("value", [["a", "list"], 7, None])
def test_a_pickle_of_something_else_is_named(made, value):
    file = batch(made, "data_batch_1")
    write_pickle(file, value)
    assert str(file) in refusal(open_cifar10, made, "train")


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"labels": [0] * (RECORDS - 1)}, "20 images, 19 labels"),
        ({"labels": [0] * (RECORDS + 1)}, "20 images, 21 labels"),
        ({"labels": None}, "20 images, no labels"),
        ({"labels": None, "fine_labels": [0] * RECORDS}, "20 images, no labels"),
        ({"labels": [0] * 19, "data": np.zeros((19, 3072), np.uint8)}, "19 images, 19 labels"),
        ({"labels": [0] * 21, "data": np.zeros((21, 3072), np.uint8)}, "21 images, 21 labels"),
    ],
)
def test_a_batch_of_another_length_than_the_others_is_named_with_its_length(made, values, found):
    file = batch(made, "data_batch_4")
    change(file, **values)
    message = refusal(open_cifar10, made, "train")
    assert str(file) in message and found in message and "batches.meta says 20" in message and "fetch" in message


@pytest.mark.parametrize("label", [10, -1, 255, "cat", 1.5, None, [3]])
def test_a_label_that_is_no_class_is_named_with_its_record(made, label):
    file = batch(made, "test_batch")
    change(file, labels=[0] * 7 + [label] + [0] * (RECORDS - 8))
    assert refusal(open_cifar10, made, "test").startswith(f"{file}: record 7 has label {label!r}, not 0 to 9; fetch")


@pytest.mark.parametrize(
    "meta",
    [
        {"num_cases_per_batch": RECORDS, "label_names": [*reversed(CLASSES)]},
        {"num_cases_per_batch": RECORDS, "label_names": list(CLASSES[:9])},
        {"num_cases_per_batch": RECORDS},
        list(CLASSES),
    ],
    ids=["other order", "nine", "none", "a list"],
)
def test_names_of_other_classes_are_refused(made, meta):
    write_pickle(batch(made, "batches.meta"), meta)
    message = refusal(open_cifar10, made, "test")
    assert str(batch(made, "batches.meta")) in message and "fetch" in message


class Hostile:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("name", ["data_batch_1", "batches.meta"])
@pytest.mark.parametrize("how", ["os.system", "builtins.eval", "builtins.open"])
def test_a_pickle_with_code_is_refused_and_does_not_run(made, tmp_path, name, how):
    traces = tmp_path / "ran"
    hostile = {
        "os.system": Hostile(os.system, f"touch {traces}"),
        "builtins.eval": Hostile(eval, f"open({str(traces)!r}, 'w')"),
        "builtins.open": Hostile(open, str(traces), "w"),
    }[how]
    file = batch(made, name)
    content = pickle.dumps({**read_pickle(file), "extra": hostile}, protocol=2)
    pickle.loads(content)
    assert traces.exists()  # What mindvision would have done.
    traces.unlink()
    file.write_bytes(content)
    message = refusal(open_cifar10, made, "train")
    assert str(file) in message and "it asks for" in message
    assert not traces.exists()


def repickled(value, protocol, as_bytes):
    """Return a value as Python 3 pickles it, with the names as bytes if it was read so."""
    if as_bytes and isinstance(value, dict):
        value = {
            key.encode(): [v.encode() if isinstance(v, str) else v for v in e] if isinstance(e, list) else e
            for key, e in value.items()
        }
    return pickle.dumps(value, protocol=protocol)


@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("protocol", range(2, 6))
def test_batches_pickled_again_by_python_3_are_the_same(made, made_images, protocol, as_bytes):
    for file in (made / "cifar-10-batches-py").iterdir():
        file.write_bytes(repickled(read_pickle(file), protocol, as_bytes))
    for split, count in (("train", 5 * RECORDS), ("test", RECORDS)):
        source, expected = open_cifar10(made, split), getattr(made_images, split)
        np.testing.assert_array_equal(source.images, expected.images[:count])
        np.testing.assert_array_equal(source.labels, expected.labels[:count])
        assert (source.images.dtype, source.labels.dtype) == (np.uint8, np.int32)
        assert source.classes == list(CLASSES)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_text_encoded_ever_again_takes_no_memory(made, protocol):
    """The stand-ins make no copies; numpy's own functions would make one each time."""
    text = "x" * 1_000_000
    content = pickle.dumps({"labels": [Hostile(codecs.encode, text, "latin1") for _ in range(5000)]}, protocol=protocol)
    batch(made, "test_batch").write_bytes(content)
    tracemalloc.start()
    refusal(open_cifar10, made, "test")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20


def test_the_archive_is_taken_from_where_torchvision_leaves_it(made, made_images, tmp_path):
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(made / "cifar-10-batches-py", "cifar-10-batches-py")
    shutil.rmtree(made / "cifar-10-batches-py")
    for _ in range(2):
        source = open_source(DataConfig(data_path=str(tmp_path)), "train")
        np.testing.assert_array_equal(source.images, made_images.train.images[: 5 * RECORDS])


def test_a_part_of_the_archive_does_not_stop_a_download(made, monkeypatch):
    fetched = []
    monkeypatch.setattr(
        sys.modules["src.dataset.splits"], "download", lambda archive, folder: fetched.append((archive, folder))
    )
    (made / "cifar-10-batches-py").rename(made / "kept")
    (made / "cifar-10-python.tar.gz").write_bytes(b"a part")
    assert "cannot unpack it" in refusal(open_source, DataConfig(data_path=str(made)), "train")
    refusal(open_source, DataConfig(data_path=str(made), download=True), "train")
    assert fetched == [(ARCHIVE, made)]
