"""Runs side by side: what differs, what came out, and the curves."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src import visualize
from src.study.comparison import draw_curves, read_run, run_folders, short_names
from tests.made_data import refusal
from tests.programs import one_line_error
from tests.runs import metrics_rows


def copy(tiny, folder: Path, **keys: object) -> Path:
    """Copy a run's small files, with other values for some keys of its configuration."""
    folder.mkdir(parents=True)
    for name in ("metrics.csv", "result.json"):
        shutil.copy(tiny.folder / name, folder)
    lines = (tiny.folder / "config.yaml").read_text().splitlines()
    assert keys.keys() <= {line.split(":")[0] for line in lines}
    text = "\n".join(f"{key}: {keys[key]}" if (key := line.split(":")[0]) in keys else line for line in lines)
    (folder / "config.yaml").write_text(text)
    return folder


@pytest.fixture
def figures(monkeypatch) -> list:
    """The figures that would have been saved."""
    kept: list = []
    monkeypatch.setattr(visualize, "save", lambda figure, path: kept.append(figure))
    return kept


def test_the_points_of_a_run_are_the_epochs_or_minutes_and_accuracies_of_its_evaluations(tiny):
    run = read_run(tiny.folder)
    rows = [row for row in metrics_rows(tiny.folder) if row["val_accuracy"]]
    accuracies = [float(row["val_accuracy"]) for row in rows]
    assert len(rows) == 3 and run.curve("epochs").tolist() == [[i + 1, a] for i, a in enumerate(accuracies)]
    minutes = [float(row["seconds"]) / 60 for row in rows]
    assert np.allclose(run.curve("minutes"), np.stack([minutes, accuracies], 1))


def test_the_table_shows_what_differs_and_what_came_out(program, tiny, tmp_path):
    copy(tiny, tmp_path / "first")
    copy(tiny, tmp_path / "deep" / "second", lr_max=0.5, augment="crop_flip", data_path="x")
    (tmp_path / "a file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "deep" / "second" / "result.json").unlink()
    done = program("study", "first", "deep", "a file", "empty", "--output_path", "new/c", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["skipped: a file: contains no run", "skipped: empty: contains no run"]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:6]]
    assert cells[0] == ["run", "augment", "lr_max", "parameters", "validation", "test", "minutes"]
    test = f"{tiny.result['test']['accuracy']:.2%}"
    assert cells[2][:4] == ["first", "none", "0.004", f"{tiny.result['parameters']:,}"] and cells[2][5] == test
    best = max(float(row["val_accuracy"]) for row in metrics_rows(tiny.folder) if row["val_accuracy"])
    assert cells[3][:4] == ["second", "crop_flip", "0.5", ""] and cells[3][4:6] == [f"{best:.2%}", ""]
    assert cells[2][4] == cells[3][4]
    with open(tmp_path / "new" / "c" / "runs.csv", newline="") as stream:
        first, second = csv.DictReader(stream)
    assert float(first["test"]) == tiny.result["test"]["accuracy"] and second["lr_max"] == "0.5" and not second["test"]
    with Image.open(tmp_path / "new" / "c" / "runs.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 200
    assert "![accuracy](runs.png)" in (tmp_path / "new" / "c" / "runs.md").read_text()


def test_many_differing_keys_have_a_table_of_their_own(program, tiny, tmp_path):
    other = {"lr_max": 0.5, "lr_end": 0.1, "momentum": 0.5, "dropout": 0.1, "weight_decay": 0.1, "val_split": 0.2}
    copy(tiny, tmp_path / "a")
    copy(tiny, tmp_path / "b", **other)
    lines = program("study", "a", "b", cwd=tmp_path).stdout.splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]][:2] == ["run", "parameters"]
    assert {line.split("|")[1].strip() for line in lines[7:13]} == other.keys()


def test_runs_that_differ_in_the_seed_alone_are_one_curve_with_a_band(figures, tiny, tmp_path):
    runs = [read_run(copy(tiny, tmp_path / "x" / f"seed_{seed}", seed=seed)) for seed in (1, 2, 3)]
    for i, run in enumerate(runs):
        for row in run.evaluations():
            row["val_accuracy"] = 0.1 * i
    runs.append(read_run(copy(tiny, tmp_path / "y", lr_max=0.5)))
    assert draw_curves(tmp_path / "c.png", runs, short_names([run.folder for run in runs]), "epochs") == 4
    (axes,) = figures[0].axes
    assert [line.get_label() for line in axes.get_lines()] == ["x (3 seeds)", "y"]
    assert np.allclose(axes.get_lines()[0].get_ydata(), 0.1) and axes.get_lines()[0].get_xdata().tolist() == [1, 2, 3]
    (band,) = axes.collections
    assert np.allclose((band.get_paths()[0].vertices[:, 1].min(), band.get_paths()[0].vertices[:, 1].max()), (0, 0.2))


def test_names_are_as_short_as_they_differ():
    folders = [Path("runs/a/seed_1"), Path("runs/b/seed_1"), Path("other")]
    assert short_names(folders) == ["a/seed_1", "b/seed_1", f"{Path.cwd().name}/other"]
    assert short_names(folders[:1]) == ["seed_1"]


def test_runs_without_validation_are_in_the_table_alone(program, tiny, tmp_path):
    folder = copy(tiny, tmp_path / "run")
    (folder / "metrics.csv").write_text("step,epoch,loss\n5,1,0.5\n")
    result = {**tiny.result, "validation": None}
    (folder / "result.json").write_text(json.dumps(result))
    done = program("study", "run", cwd=tmp_path)
    assert done.returncode == 0 and "1 runs have no validation accuracies over epochs" in done.stdout
    assert sorted(file.name for file in (tmp_path / "comparison").iterdir()) == ["runs.csv", "runs.md"]


def test_what_is_no_run_is_refused(program, tiny, tmp_path):
    assert "nowhere: no such folder" in refusal(run_folders, [str(tmp_path / "nowhere")])
    assert "no runs" in refusal(run_folders, [str(tmp_path)])
    folder = copy(tiny, tmp_path / "run")
    (folder / "metrics.csv").write_text("step,epoch,val_accuracy\nx,1,0.5\n")
    assert "not the metrics of a run" in one_line_error(program("study", "run", cwd=tmp_path))
    (folder / "metrics.csv").write_text("step,epoch\n")
    (folder / "config.yaml").unlink()
    assert "config.yaml: cannot be read" in one_line_error(program("study", "run", cwd=tmp_path))
    assert "epochs: cannot be combined with --runs" in one_line_error(
        program("study", "run", "--epochs", 3, cwd=tmp_path)
    )
    assert "vary: cannot be combined with --runs" in one_line_error(
        program("study", "run", "--vary", "bypass=none", cwd=tmp_path)
    )
    assert not (tmp_path / "comparison").exists()
