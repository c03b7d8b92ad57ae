"""Compare runs by validation accuracy over time.

python -m src.training.comparison --runs runs/from_scratch runs/fine_tuned --output_path accuracy.png
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from src.cli.errors import UserError, run
from src.cli.flags import Parser
from src.files.atomic import check_place
from src.files.bounded import read_text
from src.files.run_folder import make_folder


@dataclasses.dataclass(frozen=True)
class ComparisonConfig:
    """Comparison of runs."""

    runs: list[str]
    """folders of runs"""
    output_path: str = "comparison.png"
    """picture to write"""


def accuracy_over_time(folder: Path) -> list[tuple[float, float]]:
    """Return time since the start, in seconds, and accuracy for each evaluation of a run.

    Raises UserError for a folder without a run, and for a run without validation.
    """
    from src.training.plan import METRICS
    from src.training.progress import MAX_HISTORY_BYTES, read_history  # MindSpore takes seconds to import.

    file = folder / METRICS
    try:
        rows = read_history(read_text(file, MAX_HISTORY_BYTES, "give the folders of runs of train.py"))
    except ValueError:
        raise UserError(f"{file}: not the metrics of a run") from None
    points = [(row["seconds"], row["val_accuracy"]) for row in rows if "val_accuracy" in row and "seconds" in row]
    if not points:
        raise UserError(f"{file}: contains no validation accuracies with times: train with validation images")
    return points


def main() -> None:
    """Print each run's accuracies and plot them all."""
    (config,) = Parser("Compare runs by accuracy and time.", [ComparisonConfig]).parse(sys.argv[1:])
    picture = Path(config.output_path)
    if picture.suffix != ".png":
        raise UserError(f"output_path: {config.output_path!r} is not allowed: the name of a picture ends in .png")
    curves = {folder: accuracy_over_time(Path(folder)) for folder in config.runs}
    make_folder(picture.parent)
    check_place(picture)

    from src import visualize  # Slow to import.

    visualize.save(visualize.accuracy_over_time(curves), picture)
    for folder, points in curves.items():
        best = max(points, key=lambda point: point[1])
        print(f"{folder}: {best[1]:.2%} after {best[0] / 60:.1f} min; in all {points[-1][0] / 60:.1f} min")
    print(f"picture: {picture}")


if __name__ == "__main__":
    run(main)
