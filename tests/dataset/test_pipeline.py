import dataclasses
import itertools

import numpy as np
import pytest
from mindspore.dataset import vision
from PIL import Image

from src.cli import errors
from src.config import DataConfig
from src.dataset import (
    cifar10_binary,
    create_dataset,
    evaluation_pipeline,
    open_evaluated,
    open_source,
    preprocessing_of,
    splits,
    training_pipeline,
)
from src.dataset.cifar10 import MEAN, STD
from src.dataset.preprocessing import Preprocessing
from src.dataset.source import ArraySource, Subset
from tests.made_data import (
    by_class,
    read_all,
    refusal,
    write_cifar10,
    write_cifar10_binary,
    write_image_csv,
    write_image_folder,
)

CLASSES = [f"class {c}" for c in range(10)]


@pytest.fixture(scope="module")
def made(tmp_path_factory, made_images):
    """A data folder with CIFAR-10, 100 training and 20 test images, in both layouts."""
    folder = tmp_path_factory.mktemp("cifar10")
    both = [(split.images, split.labels) for split in (made_images.train, made_images.test)]
    write_cifar10(folder, *both)
    write_cifar10_binary(folder, *both)
    return folder


@pytest.fixture
def small_binary_files(monkeypatch):
    monkeypatch.setattr(cifar10_binary, "RECORDS", 20)


@pytest.fixture(scope="module")
def made_folders(tmp_path_factory, made_images):
    """The same images as class folders with validation images, and as class folders with a table of labels."""
    folder = tmp_path_factory.mktemp("images")
    train, test = made_images.train, made_images.test
    classes = by_class(train.images, train.labels, CLASSES)
    write_image_folder(folder / "folder", {"train": classes, "val": by_class(test.images, test.labels, CLASSES)})
    write_image_csv(folder / "csv", classes, [(image, CLASSES[c]) for image, c in zip(test.images, test.labels)])
    return folder


def numbered(count, classes=2):
    """Return a source whose image i is of colour (i, 0, 0)."""
    images = np.zeros((count, 4, 4, 3), np.uint8)
    images[..., 0] = np.arange(count)[:, None, None]
    return ArraySource(images, np.arange(count) % classes, list("abcdefghij")[:classes], (0, 0, 0), (1, 1, 1))


def as_is(source):
    return Preprocessing(4, "resize", "dataset", source.mean, source.std)


def numbers(images):
    """Return the numbers of the images of a numbered source."""
    return np.round(images[:, 0, 0, 0] * 255).astype(int).tolist()


def training_order(seed, epochs=1, count=60, batch_size=10, num_shards=1, shard_id=0):
    """Return the numbers of the images in each epoch of training."""
    source = numbered(count)
    config = DataConfig(batch_size=batch_size)
    pipeline = training_pipeline(source, config, as_is(source), seed, num_shards, shard_id)
    iterator = pipeline.create_dict_iterator(num_epochs=epochs, output_numpy=True)
    return [numbers(np.concatenate([batch["image"] for batch in iterator])) for _ in range(epochs)]


def evaluation_order(count, batch_size, num_shards=1, shard_id=0):
    source = numbered(count)
    pipeline = evaluation_pipeline(source, as_is(source), batch_size, num_shards=num_shards, shard_id=shard_id)
    images, labels = read_all(pipeline)
    np.testing.assert_array_equal(labels, source.labels[numbers(images)])
    return numbers(images)


def reference_pipeline(path, split, size, batch_size):
    """Return the data set of the MindSpore tutorial: mindvision's own, with the tutorial's transforms (R1)."""
    if np.lib.NumpyVersion(np.__version__) >= "2.0.0":
        pytest.skip("mindvision hands MindSpore scalar labels, which it refuses with numpy 2")
    from src.dataset.mindvision import Cifar10

    transforms = [
        vision.Resize((size, size)),
        vision.Rescale(1.0 / 255.0, 0.0),
        vision.Normalize([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
        vision.HWC2CHW(),
    ]
    return Cifar10(
        str(path), split, transform=transforms, batch_size=batch_size, resize=size, shuffle=False, repeat_num=1
    ).run()


@pytest.mark.parametrize(("split", "batch_size"), [("train", 25), ("test", 10)])
@pytest.mark.parametrize("size", [224, 64, 32])
def test_cifar10_is_mindvisions_own_pipeline_bit_for_bit(made, split, batch_size, size):
    reference, labels = read_all(reference_pipeline(made, split, size, batch_size))
    config = DataConfig(data_path=str(made), image_size=size)
    source = open_source(config, split)
    ours, our_labels = read_all(evaluation_pipeline(source, preprocessing_of(config, source), batch_size))
    assert len(reference) == {"train": 100, "test": 20}[split]
    np.testing.assert_array_equal(ours, reference)
    np.testing.assert_array_equal(our_labels, labels)
    assert (ours.dtype, our_labels.dtype) == (reference.dtype, labels.dtype)


def test_training_sees_the_inputs_of_mindvisions_pipeline_bit_for_bit(made):
    reference, labels = read_all(reference_pipeline(made, "train", 64, 25))
    ours, our_labels = read_all(create_dataset("cifar10", "train", data_path=str(made), batch_size=25, image_size=64))
    expected = sorted((image.tobytes(), label) for image, label in zip(reference, labels))
    assert sorted((image.tobytes(), label) for image, label in zip(ours, our_labels)) == expected


def test_the_default_is_the_tutorials_recipe(made):
    pipeline = create_dataset("cifar10", "train", data_path=str(made))
    assert read_all(pipeline.take(1))[0].shape == (32, 3, 224, 224)


@pytest.mark.cifar10
def test_real_cifar10_gives_1562_training_steps_and_counts_10000_test_images(real_cifar10):
    assert create_dataset("cifar10", "train", data_path=str(real_cifar10)).get_dataset_size() == 1562
    test = create_dataset("cifar10", "test", data_path=str(real_cifar10), image_size=32, batch_size=32)
    assert test.get_dataset_size() == 313
    images, labels = read_all(test)
    assert len(images) == 10000
    assert np.bincount(labels).tolist() == [1000] * 10


@pytest.mark.cifar10
def test_mean_and_std_are_those_of_the_real_training_images(real_cifar10):
    source = open_source(DataConfig(data_path=str(real_cifar10)), "train")
    scaled = source.images[:10000] / np.float32(255)
    np.testing.assert_allclose(scaled.mean((0, 1, 2), dtype=np.float64), MEAN, atol=5e-3)
    # The usual figures are the mean deviation within an image; over all pixels it is 0.247, 0.243, 0.262.
    np.testing.assert_allclose(scaled.std((1, 2)).mean(0), STD, atol=5e-3)


@pytest.mark.parametrize("dataset", ["cifar10", "cifar10_binary", "digits", "image_folder", "image_csv"])
def test_every_source_yields_the_same_columns(made, made_folders, small_binary_files, dataset):
    paths = {"image_folder": made_folders / "folder", "image_csv": made_folders / "csv"}
    path = str(paths.get(dataset, made))
    for split in splits(DataConfig(dataset=dataset, data_path=path)):
        pipeline = create_dataset(dataset, split, data_path=path, batch_size=8, image_size=40)
        assert pipeline.get_col_names() == ["image", "label"]
        images, labels = read_all(pipeline.take(1))
        assert (images.shape, images.dtype) == ((8, 3, 40, 40), np.float32)
        assert (labels.shape, labels.dtype) == ((8,), np.int32)
        assert images.std() > 0.1


def test_folders_and_tables_give_the_images_with_their_labels(made_folders, made_images):
    test = made_images.test
    by_label = np.argsort(test.labels, kind="stable")
    for dataset, path, order in (("image_folder", "folder", by_label), ("image_csv", "csv", slice(None))):
        images, labels = read_all(
            create_dataset(dataset, "val", data_path=str(made_folders / path), image_size=32, batch_size=16)
        )
        np.testing.assert_array_equal(labels, test.labels[order])
        config = DataConfig(dataset=dataset, data_path=str(made_folders / path), image_size=32)
        preprocessing = preprocessing_of(config, open_source(config, "val"))
        restored = preprocessing.undo(images).astype(int)
        assert np.abs(restored - test.images[order]).max() <= 1


@pytest.mark.parametrize("batch_size", [1, 3, 7, 20, 64])
def test_evaluation_counts_every_image_once_at_any_batch_size(batch_size):
    assert evaluation_order(20, batch_size) == list(range(20))


def test_evaluation_is_never_shuffled_also_with_several_epochs():
    source = numbered(20)
    iterator = evaluation_pipeline(source, as_is(source), 6).create_dict_iterator(num_epochs=3, output_numpy=True)
    for _ in range(3):
        assert numbers(np.concatenate([batch["image"] for batch in iterator])) == list(range(20))


@pytest.mark.parametrize(("count", "num_shards"), [(20, 1), (20, 3), (20, 4), (7, 4), (4, 4), (9, 8)])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_evaluation_shards_hold_every_image_exactly_once(count, num_shards, batch_size):
    shards = [evaluation_order(count, batch_size, num_shards, i) for i in range(num_shards)]
    assert sorted(itertools.chain(*shards)) == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_fewer_images_than_evaluating_devices_is_an_error():
    assert "3 images are too few for 4 devices" in refusal(evaluation_order, 3, 1, 4, 0)


def test_training_drops_the_remainder():
    source = numbered(60)
    pipeline = training_pipeline(source, DataConfig(batch_size=32), as_is(source), 1)
    assert pipeline.get_dataset_size() == 1
    assert [len(batch["label"]) for batch in pipeline.create_dict_iterator(num_epochs=1, output_numpy=True)] == [32]


def test_training_images_keep_their_labels():
    source = numbered(60, classes=7)
    images, labels = read_all(training_pipeline(source, DataConfig(batch_size=20), as_is(source), 1))
    np.testing.assert_array_equal(labels, source.labels[numbers(images)])


def test_training_order_is_another_permutation_in_every_epoch():
    epochs = training_order(seed=1, epochs=4)
    for order in epochs:
        assert sorted(order) == list(range(60)) != order
    assert len(set(map(tuple, epochs))) == 4


def test_training_order_repeats_with_the_seed_and_differs_with_another():
    assert training_order(seed=5, epochs=3) == training_order(seed=5, epochs=3)
    first, second = training_order(seed=5, epochs=3), training_order(seed=6, epochs=3)
    assert not {tuple(order) for order in first} & {tuple(order) for order in second}


def test_training_order_of_create_dataset_goes_with_its_seed(made):
    orders = [
        read_all(create_dataset("cifar10", "train", data_path=str(made), image_size=8, batch_size=50, seed=seed))[1]
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


@pytest.mark.parametrize("num_shards", [3, 4])
def test_training_shards_part_the_images_anew_in_every_epoch(num_shards):
    shards = [training_order(3, 2, batch_size=5, num_shards=num_shards, shard_id=i) for i in range(num_shards)]
    first, second = ([shard[epoch] for shard in shards] for epoch in (0, 1))
    for epoch in (first, second):
        assert sorted(itertools.chain(*epoch)) == list(range(60))
    assert [set(shard) for shard in first] != [set(shard) for shard in second]


def test_training_shards_have_equally_many_batches_when_the_images_do_not_divide():
    lengths = [len(training_order(3, count=61, batch_size=5, num_shards=4, shard_id=i)[0]) for i in range(4)]
    assert lengths == [15] * 4


def test_a_batch_larger_than_the_data_set_is_an_error_that_names_both():
    message = refusal(training_order, 1, count=60, batch_size=61)
    assert message == "batch_size: 61 is not allowed: there are 60 training images"
    message = refusal(training_order, 1, count=60, batch_size=16, num_shards=4)
    assert message == "batch_size: 16 is not allowed: there are 60 training images for 4 devices"
    assert len(training_order(1, count=60, batch_size=60)[0]) == 60
    assert len(training_order(1, count=60, batch_size=15, num_shards=4)[0]) == 15


def images_of(made, split, **options):
    """Return the images of a split as bytes, in order, and its labels."""
    source = open_source(DataConfig(data_path=str(made), **options), split)
    return [source.image(i).tobytes() for i in range(len(source))], source.labels


def test_val_split_is_a_fixed_share_of_every_class_that_training_then_lacks(made):
    everything, _ = images_of(made, "train")
    train, train_labels = images_of(made, "train", val_split=0.2)
    val, val_labels = images_of(made, "val", val_split=0.2)
    assert np.bincount(val_labels).tolist() == [2] * 10
    assert np.bincount(train_labels).tolist() == [8] * 10
    assert len(set(everything)) == 100
    assert sorted(train + val) == sorted(everything)
    assert images_of(made, "test", val_split=0.2)[0] == images_of(made, "test")[0]


def test_val_split_is_the_same_whatever_the_seed(made):
    options = {"data_path": str(made), "val_split": 0.3, "image_size": 32}
    first = read_all(create_dataset("cifar10", "val", seed=1, **options))[0]
    np.random.seed(9)
    second = read_all(create_dataset("cifar10", "val", seed=2, **options))[0]
    assert len(first) == 30
    np.testing.assert_array_equal(first, second)


def test_val_split_is_the_same_in_both_layouts_of_cifar10(made, small_binary_files):
    assert (
        images_of(made, "val", val_split=0.2, dataset="cifar10_binary")[0] == images_of(made, "val", val_split=0.2)[0]
    )


@pytest.mark.parametrize(("val_split", "split"), [(0.01, "val"), (0.99, "train")])
def test_a_val_split_that_leaves_no_image_is_an_error(made, val_split, split):
    message = refusal(images_of, made, split, val_split=val_split)
    assert message == f"val_split: {val_split} leaves no image for {split}"


def test_validation_images_that_nobody_set_aside_are_an_error_with_the_remedy(made):
    assert "--val_split" in refusal(images_of, made, "val")


@pytest.mark.parametrize("total", [1, 10, 25, 99, 100])
def test_train_images_are_spread_evenly_over_the_classes(made, total):
    images, labels = images_of(made, "train", train_images=total)
    counts = np.bincount(labels, minlength=10)
    assert counts.sum() == total == len(set(images))
    assert counts.max() - counts.min() <= 1
    assert len(images_of(made, "test", train_images=total)[0]) == 20


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_eval_images_are_spread_evenly_and_may_be_more_than_there_are(made, split):
    config = DataConfig(data_path=str(made), val_split=0.2, eval_images=10)
    assert np.bincount(open_evaluated(config, split).labels).tolist() == [1] * 10
    whole = open_source(config, split)
    assert len(open_evaluated(dataclasses.replace(config, eval_images=1000), split)) == len(whole) > 10


def test_train_images_of_small_classes_are_made_up_for_by_larger_ones(tmp_path):
    train = {name: [np.zeros((2, 2, 3), np.uint8)] * count for name, count in (("a", 2), ("b", 10), ("c", 6))}
    write_image_folder(tmp_path, {"train": train})
    for total, expected in ((12, [2, 5, 5]), (15, [2, 7, 6]), (18, [2, 10, 6])):
        config = DataConfig(dataset="image_folder", data_path=str(tmp_path), train_images=total)
        assert np.bincount(open_source(config, "train").labels).tolist() == expected


def test_train_images_are_taken_from_what_val_split_leaves(made):
    train, _ = images_of(made, "train", val_split=0.2, train_images=80)
    assert not set(train) & set(images_of(made, "val", val_split=0.2)[0])
    message = refusal(images_of, made, "train", val_split=0.2, train_images=81)
    assert message == "train_images: 81 is more than the 80 training images"


def test_splits_are_those_that_the_data_set_has(made, made_folders, tmp_path, monkeypatch):
    assert splits(DataConfig(data_path=str(made))) == ("train", "test")
    assert splits(DataConfig(data_path=str(made), val_split=0.1)) == ("train", "val", "test")
    folder = {"dataset": "image_folder", "data_path": str(made_folders / "folder")}
    assert splits(DataConfig(**folder)) == ("train", "val")
    assert splits(DataConfig(dataset="image_csv", data_path=str(made_folders / "csv"))) == ("train", "val")
    monkeypatch.setenv("HOME", str(made_folders))
    assert splits(DataConfig(dataset="image_folder", data_path="~/folder")) == ("train", "val")
    assert splits(DataConfig(dataset="image_folder", data_path=str(tmp_path / "none"))) == ()


def test_the_home_folder_may_be_abbreviated(made, monkeypatch):
    monkeypatch.setenv("HOME", str(made.parent))
    assert len(open_source(DataConfig(data_path=f"~/{made.name}"), "test")) == 20


def with_bad_images(folder, made_images, count):
    """Write a folder data set with `count` images cut short; return their files."""
    train = by_class(made_images.train.images, made_images.train.labels, CLASSES)
    write_image_folder(folder, {"train": train, "val": train})
    bad = [[folder / split / CLASSES[3] / f"{i:04}.png" for i in range(count)] for split in ("train", "val")]
    for file in [*bad[0], *bad[1]]:
        file.write_bytes(file.read_bytes()[:200])
    return bad


def folder_of_made_images(folder, split, **options):
    return create_dataset("image_folder", split, data_path=str(folder), image_size=16, batch_size=10, **options)


def test_a_bad_image_in_training_is_named_once_and_replaced_by_the_next(tmp_path, made_images, capfd):
    (bad, *_), _ = with_bad_images(tmp_path, made_images, 1)
    dataset = folder_of_made_images(tmp_path, "train")
    iterator = dataset.create_dict_iterator(num_epochs=2, output_numpy=True)
    for _ in range(2):
        labels = np.concatenate([batch["label"] for batch in iterator])
        assert np.bincount(labels).tolist() == [10] * 10
    lines = [line for line in capfd.readouterr().err.splitlines() if "left out" in line]
    assert len(lines) == 1 and lines[0].startswith(f"warning: image left out: {bad}: ")


def test_a_bad_image_in_evaluation_is_named_and_marked(tmp_path, made_images, capfd):
    _, (bad, *_) = with_bad_images(tmp_path, made_images, 1)
    images, labels = read_all(folder_of_made_images(tmp_path, "val"))
    assert np.flatnonzero(labels < 0).tolist() == [30] and len(images) == 100
    assert f"warning: image left out: {bad}: " in capfd.readouterr().err


@pytest.mark.parametrize("split", ["train", "val"])
def test_more_bad_images_than_allowed_end_in_a_line_that_names_one(tmp_path, made_images, split):
    bad = with_bad_images(tmp_path, made_images, 3)[split == "val"]
    with pytest.raises(RuntimeError) as raised:
        read_all(folder_of_made_images(tmp_path, split, max_broken_images=2))
    message = str(errors.user_error_within(raised.value))
    assert message.split(": ")[0] in map(str, bad) and message.endswith("remove it or replace it")
    assert len(message.splitlines()) == 1


def test_images_of_every_kind_and_size_make_one_batch(tmp_path):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    for i, (mode, size) in enumerate(
        [("RGB", (9, 30)), ("L", (1, 1)), ("CMYK", (64, 64)), ("RGBA", (5, 5)), ("P", (8, 8))]
    ):
        Image.new(mode, size).save(folder / f"{i}.{'jpg' if mode == 'CMYK' else 'png'}")
    images, _ = read_all(create_dataset("image_folder", "train", data_path=str(tmp_path), image_size=20, batch_size=5))
    assert images.shape == (5, 3, 20, 20)


@pytest.mark.parametrize("asked", [0, 8])
def test_a_process_bound_to_a_core_loads_images_with_one_worker(monkeypatch, asked):
    monkeypatch.setattr("src.dataset.pipeline.os.sched_getaffinity", lambda process: {0})
    source = numbered(10)
    batches = evaluation_pipeline(source, as_is(source), batch_size=5, num_workers=asked)
    (images,) = batches.children
    assert images.num_parallel_workers == 1


def training_inputs(first=0, epochs=3, workers=1, num_shards=1, shard_id=0, step=0, batch_size=12):
    """Return the inputs (steps, batch, 3, 16, 16) of each epoch from the first on, all augmentations on."""
    images = np.random.RandomState(0).randint(0, 256, (50, 20, 20, 3)).astype(np.uint8)
    source = ArraySource(images, np.zeros(50), ["a"], (0.5,) * 3, (0.2,) * 3)
    source.decodes = workers > 1
    augment = ["crop_flip", "color_jitter", "randaugment", "cutout"]
    config = DataConfig(image_size=16, batch_size=batch_size, augment=augment, num_workers=workers)
    preprocessing = Preprocessing(16, "center_crop", "dataset", source.mean, source.std)
    pipeline = training_pipeline(source, config, preprocessing, 5, num_shards, shard_id, first, step)
    iterator = pipeline.create_dict_iterator(num_epochs=epochs, output_numpy=True)
    return [np.stack([batch["image"] for batch in iterator]) for _ in range(epochs)]


def test_what_a_step_sees_does_not_depend_on_the_number_of_threads():
    for alone, together in zip(training_inputs(), training_inputs(workers=2)):
        np.testing.assert_array_equal(alone, together)


def test_a_data_set_can_start_at_any_epoch_and_step():
    whole = training_inputs()
    for later, expected in zip(training_inputs(first=1, epochs=2), whole[1:]):
        np.testing.assert_array_equal(later, expected)
    np.testing.assert_array_equal(training_inputs(first=1, epochs=1, step=3)[0], whole[1][3:])


def test_several_devices_see_together_what_one_sees_with_the_whole_batch():
    shards = [training_inputs(num_shards=3, shard_id=i, batch_size=4) for i in range(3)]
    for epoch, whole in enumerate(training_inputs()):
        np.testing.assert_array_equal(np.concatenate([shard[epoch] for shard in shards], axis=1), whole)


def test_the_graph_of_an_ascend_normalises_images_and_resizes_those_of_one_size(made):
    source = open_source(DataConfig(data_path=str(made)), "train")
    of_any_size = Subset(source, np.arange(10))
    of_any_size.native_size = None

    def made_for(target: str = "Ascend", images=source, **keys) -> tuple[str, str]:
        preprocessing = preprocessing_of(DataConfig(data_path=str(made), **keys), images, target)
        assert preprocessing.on_device == (preprocessing.normalizer == "device")
        return preprocessing.resizer, preprocessing.normalizer

    in_graph, normalised_in_graph, on_host = ("device",) * 2, ("mindspore", "device"), ("mindspore", "host")
    assert made_for() == made_for(augment="crop_flip") == made_for("CPU", preprocess="device") == in_graph
    assert made_for("CPU") == made_for("GPU") == made_for(preprocess="host") == on_host
    assert made_for(resizer="pillow") == ("pillow", "device")
    for keys in ({"images": of_any_size}, {"fit": "center_crop", "augment": "crop_flip"}):
        assert made_for(**keys) == made_for("CPU", preprocess="device", **keys) == normalised_in_graph
