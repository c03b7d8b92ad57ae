"""Write CIFAR-10's images as files, for the recipes that train on image folders and on labels in a CSV file.

    python scripts/cifar10_as_files.py --data_path ./data --output_path ./cifar10_files
    python train.py --config config/squeezenet_v1_1_image_folder.yaml --data_path ./cifar10_files --image_size 64
    python train.py --config config/squeezenet_image_csv.yaml --data_path ./cifar10_files --image_size 64

train/<class>/ and val/<class>/ hold the training images, a tenth of them for validation, as --val_split 0.1 sets them
aside; test/<class>/ holds the test images. val.csv has the labels of val/ again, and the other two tables likewise. PNG
keeps every pixel.
"""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.cli.errors import UserError, run
from src.cli.flags import Parser

VAL_SPLIT = 0.1


@dataclasses.dataclass(frozen=True)
class FilesConfig:
    """Files."""

    output_path: str
    """folder to make"""
    data_path: str = "./data"
    """folder with cifar-10-batches-py/"""


def main() -> None:
    """Write the folder, which appears when it is complete."""
    (given,) = Parser("Write CIFAR-10's images as files.", [FilesConfig]).parse(sys.argv[1:])
    target = Path(given.output_path)
    if os.path.lexists(target):
        raise UserError(f"{target}: already exists; choose another --output_path, or remove it")

    from src.dataset import open_source
    from src.dataset.options import DataConfig
    from src.files.run_folder import make_folder

    config = DataConfig(dataset="cifar10", data_path=given.data_path, val_split=VAL_SPLIT)
    sources = {split: open_source(config, split) for split in ("train", "val", "test")}
    make_folder(target.parent)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for split, source in sources.items():
            write_split(source, partial / split, partial / f"{split}.csv")
        partial.chmod(0o755)
        os.rename(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"{target}: " + ", ".join(f"{len(source):,} images in {split}/" for split, source in sources.items()))


def write_split(source, folder: Path, table: Path) -> None:
    """Write the images of a split to folders of their classes, and their labels to a CSV file."""
    from PIL import Image

    for name in source.classes:
        (folder / name).mkdir(parents=True)
    with open(table, "w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["image", "label"])
        for index, label in enumerate(source.labels):
            file = Path(source.classes[label], f"{index:05d}.png")
            Image.fromarray(source.image(index)).save(folder / file)
            rows.writerow([file.as_posix(), source.classes[label]])


if __name__ == "__main__":
    run(main)
