"""Processor time of reading photographs for training: images/s a core, by ways to decode, crop and resize them.

    python benchmarks/photographs.py --images PHOTOS [--rounds 7] [--count 400] [--image_size 227] [--num_workers 1]

PHOTOS is a folder of image files, which are read as often as it takes. Training batches of 32 with random parts and
flips, as config/squeezenet_imagenet_*.yaml have them, without a network. The ways take turns, and the medians of the
rounds count, and of the ratios to the first within a round. Processor time of this process, all its threads together,
hardly changes when other programs are running, as images/s would; it does not show what waits for a disk.

host, device      as configured by `preprocess`: float32 images, or uint8 ones that the graph normalises
mindrecord        the same from MindRecord files of to_mindrecord.py
whole             host, but whole images leave Pillow, and parts are cut out in Python
C++ decode        host, but MindSpore's C++ operator decodes, on its own threads; it turns no image and drops none
MindSpore         its fused RandomCropDecodeResize and RandomHorizontalFlip, whose draws depend on threads
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import src  # noqa: F401  Before mindspore, as every entry point does.

# isort: split
import mindspore.dataset as ds
import numpy as np
from mindspore.dataset import vision

from src.cli.errors import run
from src.config import DataConfig, MindRecordConfig
from src.dataset import open_source, preprocessing_of, training_pipeline
from src.dataset.augmentation import DrawnPart, training_stages
from src.dataset.image_folder import image_files
from src.dataset.packing import pack
from src.dataset.preprocessing import normalization
from src.dataset.sampling import Epochs

BATCH, SEED = 32, 1


class Files:
    """Rows of a file's bytes, label and draw, in the order of Epochs."""

    def __init__(self, source):
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, draw: int) -> tuple[np.ndarray, ...]:
        index = int(draw) % len(self)
        content = np.fromfile(self.source.file(index), np.uint8)
        return content, np.asarray(self.source.labels[index]), np.asarray(draw, np.int64)


class Images(Files):
    """Rows of a whole image, label and draw."""

    def __getitem__(self, draw: int) -> tuple[np.ndarray, ...]:
        index = int(draw) % len(self)
        return self.source.image(index), np.asarray(self.source.labels[index]), np.asarray(draw, np.int64)


def cut_out(image: np.ndarray, draw: np.ndarray) -> np.ndarray:
    """Return the drawn part of a whole image."""
    top, left, height, width, mirrored = DrawnPart(SEED)(int(draw), *image.shape[:2])
    return np.ascontiguousarray(image[top : top + height, left : left + width][:, :: -1 if mirrored else 1])


def configured(data: dict, preprocess: str) -> ds.Dataset:
    """Return the project's pipeline."""
    config = DataConfig(**data, preprocess=preprocess)
    source = open_source(config, "train")
    return training_pipeline(source, config, preprocessing_of(config, source), SEED)


def cut_in_python(data: dict, rows: type, first: list) -> ds.Dataset:
    """Return a pipeline that cuts drawn parts out of what `first` gives of the rows."""
    config = DataConfig(**data, preprocess="host")
    source = open_source(config, "train")
    preprocessing, workers = preprocessing_of(config, source), config.num_workers
    columns, options = ["image", "label", "draw"], {"num_parallel_workers": workers, "python_multiprocessing": False}
    images = ds.GeneratorDataset(rows(source), columns, sampler=Epochs(len(source), BATCH, 1, 0, SEED), **options)
    images = images.map(first, "image", num_parallel_workers=workers) if first else images
    images = images.map(cut_out, ["image", "draw"], ["image"], **options).project(columns[:2])
    for stage in training_stages(preprocessing, ["crop_flip"], None, SEED)[1:]:
        images = images.map(stage, "image", num_parallel_workers=workers)
    return images.batch(BATCH, drop_remainder=True)


def mindspore_own(data: dict) -> ds.Dataset:
    """Return a pipeline of MindSpore's operators alone, with random numbers of its threads."""
    config = DataConfig(**data, preprocess="host")
    preprocessing, size = preprocessing_of(config, open_source(config, "train")), config.image_size
    images = ds.ImageFolderDataset(f"{config.data_path}/train", num_parallel_workers=config.num_workers, shuffle=True)
    operators = [vision.RandomCropDecodeResize(size), vision.RandomHorizontalFlip(), *normalization(preprocessing)]
    images = images.map([*operators, vision.HWC2CHW()], "image", num_parallel_workers=config.num_workers)
    return images.batch(BATCH, drop_remainder=True)


def measure(make: Callable[[], ds.Dataset]) -> tuple[float, int]:
    """Return the processor milliseconds and the bytes of an image, in one pass."""
    start, seen, size = time.process_time(), 0, 0
    for batch in make().create_tuple_iterator(num_epochs=1, output_numpy=True):
        seen, size = seen + len(batch[0]), size + batch[0].nbytes
    return (time.process_time() - start) / seen * 1e3, size // seen


def ways(data: dict, packed: Path) -> dict[str, Callable[[], ds.Dataset]]:
    """Return what makes each pipeline, by its name."""
    records = {**data, "dataset": "mindrecord", "data_path": str(packed)}
    return {
        "host": lambda: configured(data, "host"),
        "device": lambda: configured(data, "device"),
        "mindrecord host": lambda: configured(records, "host"),
        "mindrecord device": lambda: configured(records, "device"),
        "whole": lambda: cut_in_python(data, Images, []),
        "C++ decode": lambda: cut_in_python(data, Files, [vision.Decode()]),
        "MindSpore": lambda: mindspore_own(data),
    }


def main() -> None:
    """Print a table row for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--image_size", type=int, default=227)
    parser.add_argument("--num_workers", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images, packed = Path(folder, "images"), Path(folder, "packed")
        (images / "train" / "all").mkdir(parents=True)
        files = [file.resolve() for file in image_files(Path(arguments.images))]
        for number in range(arguments.count):
            file = files[number % len(files)]
            os.symlink(file, images / "train" / "all" / f"{number:06}{file.suffix}")
        with contextlib.redirect_stdout(io.StringIO()):
            pack(MindRecordConfig(str(packed), dataset="image_folder", data_path=str(images), files=1))
        data = {"dataset": "image_folder", "data_path": str(images), "fit": "center_crop", "augment": "crop_flip"}
        data |= {"image_size": arguments.image_size, "batch_size": BATCH, "num_workers": arguments.num_workers}
        made = ways(data, packed)
        expected = next(made["whole"]().create_tuple_iterator(num_epochs=1, output_numpy=True))[0]
        for name in ("host", "mindrecord host", "C++ decode"):
            found = next(made[name]().create_tuple_iterator(num_epochs=1, output_numpy=True))[0]
            print(f"{name}: {'the same inputs as' if (found == expected).all() else 'other inputs than'} whole")
        rounds = [{name: measure(make) for name, make in made.items()} for _ in range(arguments.rounds)]
    print("| way | CPU ms an image | images/s a core | times as many as host | bytes an image |\n|---|---|---|---|---|")
    for name in made:
        milliseconds, size = statistics.median(r[name][0] for r in rounds), rounds[0][name][1]
        ratio = statistics.median(r["host"][0] / r[name][0] for r in rounds)
        print(f"| {name} | {milliseconds:.2f} | {1e3 / milliseconds:,.0f} | {ratio:.2f} | {size:,} |")


if __name__ == "__main__":
    run(main)
