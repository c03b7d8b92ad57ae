from __future__ import annotations

import shutil

from PIL import Image

from src.training.comparison import accuracy_over_time
from tests.made_data import refusal
from tests.runs import metrics_rows


def test_the_points_of_a_run_are_the_times_and_accuracies_of_its_evaluations(tiny):
    points = accuracy_over_time(tiny.folder)
    rows = [row for row in metrics_rows(tiny.folder) if row["val_accuracy"]]
    assert points == [(float(row["seconds"]), float(row["val_accuracy"])) for row in rows] and len(points) == 3
    seconds = [float(row["seconds"]) for row in metrics_rows(tiny.folder)]
    assert seconds == sorted(seconds) and seconds[0] > 0 and seconds[-1] < tiny.result["seconds"]


def test_folders_without_the_figures_are_refused(tmp_path):
    assert "give the folders of runs" in refusal(accuracy_over_time, tmp_path)
    (tmp_path / "metrics.csv").write_text("step,epoch,val_accuracy\n5,1,0.5\n")
    assert "no validation accuracies with times" in refusal(accuracy_over_time, tmp_path)
    (tmp_path / "metrics.csv").write_text("step,epoch,val_accuracy\nx,1,0.5\n")
    assert "not the metrics of a run" in refusal(accuracy_over_time, tmp_path)


def test_the_program_draws_several_runs_and_prints_the_best_of_each(program, tiny, tmp_path):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        shutil.copy(tiny.folder / "metrics.csv", tmp_path / name)
    done = program("src.training.comparison", "--runs", "first", "second", "--output_path", "new/c.png", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("first: ") and "\nsecond: " in done.stdout and "new/c.png" in done.stdout
    with Image.open(tmp_path / "new" / "c.png") as picture:
        assert picture.format == "PNG" and min(picture.size) > 200
    done = program("src.training.comparison", "--runs", "first", "--output_path", "c.pdf", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: output_path: 'c.pdf' is not allowed")
