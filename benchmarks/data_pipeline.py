"""Images per second, processor time and bytes of the CIFAR-10 pipeline, against mindvision's own default pipeline.

    python benchmarks/data_pipeline.py --data_path ./data [--rounds 5] [--images 4000]

Three pipelines take turns on the same test images, in batches of 32: mindvision's with all its defaults; this
project's with `preprocess: host`, which likewise resizes, rescales, normalises and transposes in the pipeline; and with
`preprocess: device`, which hands out uint8 images of 32x32 for the graph to do that (src/network/input_layer.py).
Medians of the rounds, and of the ratios within a round. mindvision needs numpy below 2 to run its own pipeline.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.dataset import create_dataset
from src.dataset.mindvision import Cifar10
from src.devices.silence import quiet

BATCH = 32


class Pass(NamedTuple):
    """What one pass over a pipeline took: images a second, processor milliseconds and bytes per image."""

    rate: float
    milliseconds: float
    size: float


def measure(dataset, images: int) -> Pass:
    """Read the first `images` images."""
    start, busy, size, seen = time.perf_counter(), time.process_time(), 0, 0
    for batch in dataset.create_tuple_iterator(num_epochs=1, output_numpy=True):
        size, seen = size + batch[0].nbytes, seen + len(batch[0])
        if seen >= images:
            break
    seconds, busy = time.perf_counter() - start, time.process_time() - busy
    return Pass(seen / seconds, busy / seen * 1e3, size / seen)


def mindvision_pipeline(path: str, size: int):
    """Return mindvision's test pipeline with all its defaults but the size."""
    with quiet():
        return Cifar10(path, "test", batch_size=BATCH, resize=(size, size)).run()


def pipelines(path: str, size: int) -> dict:
    """Return what makes each pipeline, by its name."""

    def ours(preprocess: str):
        options = {"data_path": path, "image_size": size, "batch_size": BATCH, "preprocess": preprocess}
        return create_dataset("cifar10", "test", **options)

    return {
        "mindvision": lambda: mindvision_pipeline(path, size),
        "host": lambda: ours("host"),
        "device": lambda: ours("device"),
    }


def main() -> None:
    """Print a table row for each image size and pipeline."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="./data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=4000)
    arguments = parser.parse_args()
    print("| image size | pipeline | images/s | of mindvision's | CPU ms an image | bytes an image |")
    print("|---|---|---|---|---|---|")
    for size in (32, 64, 224):
        made = pipelines(arguments.data_path, size)
        rounds = [
            {name: measure(make(), arguments.images) for name, make in made.items()} for _ in range(arguments.rounds)
        ]
        for name in made:
            rate, milliseconds, nbytes = (statistics.median(r[name][i] for r in rounds) for i in range(3))
            ratio = statistics.median(r[name].rate / r["mindvision"].rate for r in rounds)
            print(f"| {size} | {name} | {rate:,.0f} | {ratio:.2f} | {milliseconds:.2f} | {nbytes:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
