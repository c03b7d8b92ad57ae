"""Images per second of the CIFAR-10 pipeline, against mindvision's own default pipeline on the same images.

    python benchmarks/data_pipeline.py --data_path ./data [--rounds 5] [--images 4000]

Both decode nothing, resize, rescale, normalise and transpose the test images, in batches of 32. They run in
alternation; the ratio is that of the medians. mindvision needs numpy below 2 to run its own pipeline.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.dataset import create_dataset
from src.dataset.mindvision import Cifar10
from src.quiet import quiet

BATCH = 32


def images_per_second(dataset, images: int) -> float:
    """Return how fast batches come, over the first `images` images."""
    start = time.perf_counter()
    for i, _ in enumerate(dataset.create_tuple_iterator(num_epochs=1, output_numpy=True)):
        if (i + 1) * BATCH >= images:
            break
    return (i + 1) * BATCH / (time.perf_counter() - start)


def mindvision_pipeline(path: str, size: int):
    """Return mindvision's test pipeline with all its defaults but the size."""
    with quiet():
        return Cifar10(path, "test", batch_size=BATCH, resize=(size, size)).run()


def main() -> None:
    """Print a table row for each image size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", default="./data")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=4000)
    arguments = parser.parse_args()
    print("| image size | this project, images/s | mindvision, images/s | ratio |\n|---|---|---|---|")
    for size in (32, 64, 224):
        ours, theirs = [], []
        for _ in range(arguments.rounds):
            dataset = create_dataset(
                "cifar10", "test", data_path=arguments.data_path, image_size=size, batch_size=BATCH
            )
            ours.append(images_per_second(dataset, arguments.images))
            theirs.append(images_per_second(mindvision_pipeline(arguments.data_path, size), arguments.images))
        medians = statistics.median(ours), statistics.median(theirs)
        print(f"| {size} | {medians[0]:,.0f} | {medians[1]:,.0f} | {medians[0] / medians[1]:.2f} |")


if __name__ == "__main__":
    main()
