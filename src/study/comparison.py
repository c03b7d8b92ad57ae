"""Compare runs that exist: what differs in their configurations, their results, and their validation accuracy."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
from pathlib import Path
from typing import Any, Optional, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from src import visualize
from src.cli.errors import UserError
from src.config import RUN_CONFIG, TrainConfig, parse_train
from src.files.atomic import write_text
from src.files.bounded import read_text
from src.files.run_folder import output_folder
from src.study.config import StudyConfig, Words
from src.study.design import as_word, fixed_keys
from src.study.results import SPLITS, markdown, read_result, write_csv
from src.training.plan import METRICS
from src.training.progress import MAX_HISTORY_BYTES, read_history

TABLE_CSV, TABLE, PLOT = "runs.csv", "runs.md", "runs.png"
MANY_KEYS = 6  # From which the differing keys have a table of their own.


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that is finished, with its result, or not.

    rows: those of metrics.csv.
    """

    folder: Path
    config: TrainConfig
    rows: list[dict[str, Any]]
    result: Optional[dict[str, Any]]

    def accuracy(self, split: str) -> Optional[float]:
        """Return the accuracy on a split; while a run is not finished, the best one on validation images so far."""
        if self.result is not None:
            return (self.result[split] or {}).get("accuracy")
        return max((row["val_accuracy"] for row in self.evaluations()), default=None) if split == "validation" else None

    def evaluations(self) -> list[dict[str, Any]]:
        """Return the rows of the evaluations on validation images."""
        return [row for row in self.rows if "val_accuracy" in row]

    def curve(self, x_axis: str) -> Optional[np.ndarray]:
        """Return the validation accuracies (N, 2) over the epochs or minutes since the start, or None without any."""
        last = max((row["step"] for row in self.rows), default=1)
        epochs = max((row["epoch"] for row in self.rows), default=1)
        rows = [row for row in self.evaluations() if x_axis == "epochs" or "seconds" in row]
        xs = [row["seconds"] / 60 if x_axis == "minutes" else row["step"] * epochs / last for row in rows]
        return np.array([(x, row["val_accuracy"]) for x, row in zip(xs, rows)]) if rows else None


def compare_runs(study: StudyConfig, words: Words) -> int:
    """Print a table of runs, and write it and a plot to output_path. Raises UserError for what is no run."""
    others = [key for key in words if key != "output_path"]
    if others or study.vary:
        raise UserError(f"{(others or ['vary'])[0]}: cannot be combined with --runs, which trains nothing")
    folder = Path((words.get("output_path") or ["comparison"])[0])
    runs = [read_run(path) for path in run_folders(study.runs)]
    names = short_names([run.folder for run in runs])
    differing = differing_keys(runs)
    records = [
        {"run": name, **{key: values[i] for key, values in differing.items()}, **_figures(run)}
        for i, (name, run) in enumerate(zip(names, runs))
    ]
    table = _table(records, list(differing))
    print(table)
    with output_folder(folder, TABLE_CSV, TABLE, PLOT):
        write_csv(folder / TABLE_CSV, records)
        drawn = draw_curves(folder / PLOT, runs, names, study.x_axis)
        write_text(folder / TABLE, f"# Comparison of runs\n\n{table}" + (f"\n![accuracy]({PLOT})\n" if drawn else ""))
    if drawn < len(runs):
        print(f"{len(runs) - drawn} runs have no validation accuracies over {study.x_axis} and are not in the plot")
    print(f"tables{' and plot' if drawn else ''}: {folder}")
    return 0


def run_folders(given: Sequence[str]) -> list[Path]:
    """Return the folders of runs among the given ones and within them. Raises UserError if there are none."""
    found: list[Path] = []
    for name in given:
        if not os.path.exists(name):
            raise UserError(f"{name}: no such folder; give the folders of runs of train.py")
        own = [Path(name)] if os.path.lexists(Path(name) / METRICS) else []
        inside = own or sorted(file.parent for file in Path(name).rglob(METRICS))
        if not inside:
            print(f"skipped: {name}: contains no run")
        found += inside
    if not found:
        raise UserError(f"{' '.join(given)}: no runs; give the folders of runs of train.py")
    return list(dict.fromkeys(found))


def read_run(folder: Path) -> Run:
    """Read a run from its folder. Raises UserError for a missing or damaged file."""
    file = folder / METRICS
    try:
        text = read_text(file, MAX_HISTORY_BYTES, "give the folders of runs of train.py")
        rows = read_history(text[: text.rfind("\n") + 1])  # A run that is being trained may be writing a line.
    except ValueError:
        raise UserError(f"{file}: not the metrics of a run") from None
    with contextlib.redirect_stderr(io.StringIO()):  # Warnings of keys that have been renamed since.
        config = parse_train([f"--config={folder / RUN_CONFIG}"], "")
    return Run(folder, config, rows, read_result(folder))


def short_names(folders: Sequence[Path]) -> list[str]:
    """Return the last parts of the paths, as many as tell them apart."""
    parts = [folder.absolute().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len(set(names)) == len(names):
            break
    return names


def differing_keys(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return the values, one for each run, of the keys that differ between runs and decide their results."""
    keys = [{**fixed_keys(run.config), "seed": run.config.run.seed} for run in runs]
    values = {key: [as_word(each[key]) for each in keys] for key in keys[0]}
    return {key: found for key, found in values.items() if len(set(found)) > 1}


def draw_curves(file: Path, runs: Sequence[Run], names: Sequence[str], x_axis: str) -> int:
    """Plot the validation accuracy of runs, with mean and range of those that differ in the seed alone.

    Return the number of runs in the plot, which is not written for 0.
    """
    groups: dict[str, list[np.ndarray]] = {}
    labels: dict[str, str] = {}
    for name, run in zip(names, runs):
        curve, key = run.curve(x_axis), repr(fixed_keys(run.config))
        if curve is not None:
            groups.setdefault(key, []).append(curve)
            by_seed = run.folder.name.startswith("seed_")  # In a study, a configuration's folder has its name.
            labels.setdefault(key, (name.rpartition("/")[0] or run.folder.absolute().parent.name) if by_seed else name)
    if not groups:
        return 0
    figure = Figure(figsize=(8, 4.8))
    axes = figure.add_subplot()
    for key, members in groups.items():
        length = min(map(len, members))
        curves = np.stack([curve[:length] for curve in members])
        xs, accuracies = curves[..., 0].mean(0), curves[..., 1]
        label = labels[key] + (f" ({len(members)} seeds)" if len(members) > 1 else "")
        (line,) = axes.plot(xs, accuracies.mean(0), marker="." if length < 40 else None, label=label)
        if len(members) > 1:
            axes.fill_between(xs, accuracies.min(0), accuracies.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
    several = any(len(members) > 1 for members in groups.values())
    axes.set_title("validation accuracy" + (", mean and range over seeds" if several else ""), fontsize=10)
    axes.set_xlabel(x_axis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=x_axis == "epochs"))
    axes.set_ylabel("validation accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    visualize.save(figure, file)
    return sum(map(len, groups.values()))


def _figures(run: Run) -> dict[str, Any]:
    result = run.result or {}
    figures = {"parameters": result.get("parameters"), **{split: run.accuracy(split) for split in SPLITS}}
    seconds = [row["seconds"] for row in run.rows if "seconds" in row]
    return {**figures, "minutes": result.get("minutes", seconds[-1] / 60 if seconds else None)}


def _table(records: list[dict[str, Any]], keys: list[str]) -> str:
    """Return the table of the runs; many differing keys have one of their own, with a column for each run."""

    def shown(name: str, value: Any) -> str:
        if value is None:
            return ""
        return f"{value:,}" if name == "parameters" else f"{value:.2%}" if name in SPLITS else f"{value:.1f}"

    figures = [name for name in records[0] if name not in ("run", *keys)]
    columns = keys if len(keys) < MANY_KEYS else []
    rows = [[r["run"], *(r[key] for key in columns), *(shown(name, r[name]) for name in figures)] for r in records]
    table = markdown(["run", *columns, *figures], rows)
    if columns == keys:
        return table
    by_key = [[key, *(record[key] for record in records)] for key in keys]
    return f"{table}\n" + markdown(["key", *(record["run"] for record in records)], by_key)
