"""Read the results of runs, and write tables of them as CSV and Markdown."""

from __future__ import annotations

import csv
import io
import statistics
from pathlib import Path
from typing import Any, Optional, Sequence

from src.files.atomic import write_text
from src.training import state
from src.training.plan import RESULT

SPLITS = ("validation", "test")


def read_result(folder: Path) -> Optional[dict[str, Any]]:
    """Return the result of a finished run, or None. Raises UserError for a damaged file."""
    file = folder / RESULT
    if not file.exists():
        return None
    result = state.read_result(file, "remove it")
    return {**result, "minutes": result["seconds"] / 60}


def accuracies(results: Sequence[dict[str, Any]], split: str) -> list[float]:
    """Return the accuracies of runs on a split, for those that were evaluated on it."""
    return [result[split]["accuracy"] for result in results if result[split]]


def spread(values: Sequence[float]) -> Optional[float]:
    """Return the sample standard deviation, or None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None


def percent(values: Sequence[float]) -> str:
    """Return the mean in percent, with the standard deviation where there are several values."""
    if not values:
        return ""
    deviation = spread(values)
    return f"{statistics.fmean(values):.2%}" + (f" ± {100 * deviation:.2f}" if deviation is not None else "")


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown with aligned columns."""
    cells = [list(columns), *([cell.replace("|", r"\|") for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells)]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]) + "\n"


def write_csv(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows with the same keys as a CSV file. Raises WriteError."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(file, stream.getvalue())
