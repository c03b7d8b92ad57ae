"""Logits of the published ImageNet network against golden ones, in every way in which it can be run here.

    python benchmarks/parity.py --data ../shared/data/imagenet_squeezenet [--images 200] [--batches 1 32]

The folder holds squeezenet_v1.0_imagenet_rgb.npz (weights), images/, expected_top5.csv and expected_logits.npz (all
1,000 logits, computed in float64). The weights go through convert.py's code, the photographs through the preprocessing
of the checkpoint that comes out, and the exports through export.py's. Prints a table in Markdown: mode, batch, largest
difference of a logit, and photographs with the same five best classes in the same order. Exits with 1 when a difference
is above 1e-4 or an order another.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import src  # noqa: F401  Before mindspore, as every entry point does.

# isort: split
import mindspore as ms

from src.checkpoint import load_network, save_checkpoint
from src.config import DeviceConfig
from src.conversion.config import ConvertConfig
from src.conversion.converting import import_network
from src.dataset.preprocessing import Preprocessing
from src.dataset.source import load_image
from src.inference.config import ExportConfig
from src.inference.export import export_checkpoint
from src.inference.exported_model import ExportedModel, read_spec

WEIGHTS = "squeezenet_v1.0_imagenet_rgb.npz"
TOLERANCE = 1e-4  # Of a logit; the largest golden one is 38.1.
RUNS = ("GRAPH_MODE", "PYNATIVE_MODE", "MINDIR", "ONNX")
Run = Callable[[np.ndarray], np.ndarray]


class Golden(NamedTuple):
    """Photographs as the network takes them, (N, 3, H, W) float32, and their golden logits (N, classes)."""

    inputs: np.ndarray
    logits: np.ndarray


class Agreement(NamedTuple):
    """How near logits come: the largest difference, and how many photographs have the same five best in order."""

    largest_difference: float
    same_top_5: int
    images: int

    @property
    def is_exact(self) -> bool:
        """Whether nothing but rounding differs."""
        return self.largest_difference <= TOLERANCE and self.same_top_5 == self.images


def convert_golden(data: Path, folder: Path) -> Path:
    """Make a checkpoint of the published weights in a folder, and return its path."""
    config = ConvertConfig(str(data / WEIGHTS), "", from_format="npz", classifier_padding=1, ceil_mode=False)
    path = folder / "squeezenet_v1_0_imagenet.ckpt"
    net, card = import_network(config)
    save_checkpoint(net, path, card)
    return path


def read_golden(data: Path, preprocessing: Preprocessing, images: int) -> Golden:
    """Return so many of the photographs, evenly over all of them, with their logits."""
    with open(data / "expected_top5.csv", newline="") as stream:
        files = [data / "images" / row["file"] for row in csv.DictReader(stream)]
    chosen = np.linspace(0, len(files) - 1, min(images, len(files))).round().astype(int)
    logits = np.load(data / "expected_logits.npz")["logits"]
    return Golden(np.stack([preprocessing(load_image(files[i])) for i in chosen]), logits[chosen])


def runs(ckpt_path: Path, names: Sequence[str] = RUNS) -> Iterator[tuple[str, Run]]:
    """Yield some of the ways to run a checkpoint: the name, and a function from inputs to logits."""
    net, _ = load_network(ckpt_path)
    for name in names:
        if name.endswith("_MODE"):
            ms.set_context(mode=getattr(ms, name))
            yield name, lambda inputs: net(ms.Tensor(inputs)).asnumpy()
            ms.set_context(mode=ms.GRAPH_MODE)
        else:
            config = ExportConfig(str(ckpt_path), name, dynamic_batch=True)
            file = Path(export_checkpoint(config, DeviceConfig(device_target="CPU"))["file"])
            yield name, ExportedModel(file, read_spec(file))


def compare(run: Run, golden: Golden, batch: int) -> Agreement:
    """Return how near the logits come that a function gives for photographs, `batch` at a time."""
    given = np.concatenate([run(golden.inputs[i : i + batch]) for i in range(0, len(golden.inputs), batch)])
    best, expected = (np.argsort(-logits, 1, kind="stable")[:, :5] for logits in (given, golden.logits))
    difference = float(np.abs(given - golden.logits).max())
    return Agreement(difference, int((best == expected).all(1).sum()), len(given))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 32])
    arguments = parser.parse_args()
    ms.set_device("CPU")
    exact = True
    with tempfile.TemporaryDirectory() as folder:
        path = convert_golden(arguments.data, Path(folder))
        golden = read_golden(arguments.data, load_network(path)[1].preprocessing, arguments.images)
        lines = ["| mode | batch | MindSpore | largest difference | same top-5 order |", "|---|---|---|---|---|"]
        for name, run in runs(path):
            for batch in arguments.batches:
                found = compare(run, golden, batch)
                exact &= found.is_exact
                figures = f"{found.largest_difference:.1e} | {found.same_top_5} of {found.images}"
                lines.append(f"| {name} | {batch} | {ms.__version__} | {figures} |")
    print("\n".join(lines))
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
