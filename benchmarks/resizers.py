"""The two resizers of evaluation on photographs: images per second, and how often a network gives the same class.

    python benchmarks/resizers.py --ckpt_path squeezenet_v1_0_imagenet.ckpt --images PHOTOS
        [--labels expected_top5.csv --csv_columns file true_class] [--image_size N] [--rounds 5]

The rates are of reading, decoding and preprocessing, without the network; the resizers take turns, and the median of
the rounds counts. ckpt_path may be a checkpoint, a compressed file, or the authors' compressed_SqueezeNet.net.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import time
from pathlib import Path
from typing import get_args

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from src.cli.errors import run
from src.compression.photographs import open_photographs
from src.compression.reading import read_weights
from src.dataset import evaluation_pipeline
from src.dataset.options import Resizer

BATCH = 50


def main() -> None:
    """Print a table row for each resizer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", required=True)
    parser.add_argument("--images", required=True)
    parser.add_argument("--labels")
    parser.add_argument("--csv_columns", nargs=2, default=["image", "label"])
    parser.add_argument("--image_size", type=int)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()

    import mindspore as ms

    from src.inference.evaluation import evaluate

    parameters, card = read_weights(arguments.ckpt_path)
    net = card.build().set_train(False)
    ms.load_param_into_net(net, {name: ms.Parameter(array, name=name) for name, array in parameters.items()})
    source = open_photographs(arguments.images, arguments.labels, tuple(arguments.csv_columns), card.classes)
    size = arguments.image_size or card.preprocessing.image_size
    resizers = get_args(Resizer)
    preprocessings = {r: dataclasses.replace(card.preprocessing, resizer=r, image_size=size) for r in resizers}
    rates: dict[str, list[float]] = {resizer: [] for resizer in resizers}
    for _ in range(arguments.rounds):
        for resizer, preprocessing in preprocessings.items():
            start = time.perf_counter()
            for _ in evaluation_pipeline(source, preprocessing, BATCH).create_tuple_iterator(num_epochs=1):
                pass
            rates[resizer].append(len(source) / (time.perf_counter() - start))
    found = {resizer: evaluate(net, source, preprocessings[resizer], BATCH, 0) for resizer in resizers}
    exact = found["pillow"].predictions
    print(f"{len(source)} photographs at {size}x{size}, {card.preprocessing.fit}")
    print("| resizer | images/s | top-1 | same class as pillow |\n|---|---|---|---|")
    for resizer, evaluation in found.items():
        accuracy = f"{evaluation.accuracy:.1%}" if arguments.labels else "unknown"
        agreement = (evaluation.predictions == exact).mean()
        print(f"| {resizer} | {statistics.median(rates[resizer]):,.0f} | {accuracy} | {agreement:.1%} |")


if __name__ == "__main__":
    run(main)
