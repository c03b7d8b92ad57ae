"""Images per second of a data set of image files, and of the same images packed by to_mindrecord.py.

    python to_mindrecord.py --dataset image_folder --data_path DATA --output_path PACKED
    python benchmarks/mindrecord.py --dataset image_folder --data_path DATA --packed PACKED [--rounds 5] [--images 2000]
        [--num_workers 1] [--augment none]

Training batches of 32 at 227x227, random resized crops and flips unless told otherwise, without a network. The two take
turns, and the median of the rounds counts. What is in the page cache of the file system is read from there, in the
first round too if the files were written just before: drop the cache to see what a disk or a network makes of it.
`opening` is the time until the images are listed. --num_workers 1 and 2 show what decoding in parallel brings.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.cli.errors import run
from src.config import DataConfig
from src.dataset import open_source, preprocessing_of, training_pipeline

BATCH = 32


def main() -> None:
    """Print a table row for each of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="imagenet")
    parser.add_argument("--data_path", required=True)
    parser.add_argument("--packed", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--augment", default="crop_flip")
    arguments = parser.parse_args()
    options = {
        "image_size": 227,
        "fit": "center_crop",
        "augment": arguments.augment,
        "batch_size": BATCH,
        "num_workers": arguments.num_workers,
    }
    configs = {
        name: DataConfig(dataset=name, data_path=path, **options)
        for name, path in ((arguments.dataset, arguments.data_path), ("mindrecord", arguments.packed))
    }
    rates: dict[str, list[float]] = {name: [] for name in configs}
    opening: dict[str, list[float]] = {name: [] for name in configs}
    for seed in range(arguments.rounds):
        for name, config in configs.items():
            start = time.perf_counter()
            source = open_source(config, "train")
            opened = time.perf_counter()
            steps = max(1, min(arguments.images, len(source)) // BATCH)
            batches = training_pipeline(source, config, preprocessing_of(config, source), seed).take(steps)
            for _ in batches.create_tuple_iterator(num_epochs=1, output_numpy=True):
                pass
            rates[name].append(steps * BATCH / (time.perf_counter() - opened))
            opening[name].append(opened - start)
    print("| data set | opening, s | images/s |\n|---|---|---|")
    for name in configs:
        print(f"| {name} | {statistics.median(opening[name]):.2f} | {statistics.median(rates[name]):,.0f} |")


if __name__ == "__main__":
    run(main)
