"""A study from its plan to its tables, with trainings that take no time; and a real one."""

from __future__ import annotations

import csv
import io
import json
import re
import signal

import pytest
from PIL import Image

from src.cli import signals
from src.study import running
from tests.programs import one_line_error
from tests.runs import BRIEF

FLAGS = (*(f"--{key}={value}" for key, value in BRIEF.items()), "--output_path", "study")
VARY = ("--vary", "squeeze_ratio=0.125,0.5", "--vary", "bypass=none,simple", "--seeds", 1, 2)


def table(folder) -> dict[str, dict]:
    with open(folder / "study.csv", newline="", encoding="utf-8") as stream:
        return {row["folder"]: row for row in csv.DictReader(stream)}


def test_the_plan_names_every_configuration_and_dry_run_ends_there(program, stub, here):
    done = program("study", *FLAGS, *VARY, "--dry_run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "study of squeeze_ratio, bypass: 4 configurations, seeds 1, 2: 8 runs in study; 0 are finished, 8 to train"
    )
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[3:7]]
    assert [row[0] for row in rows] == ["squeeze_ratio_0.125", "squeeze_ratio_0.5", "base", "bypass_simple"]
    assert rows[2] == ["base", "null", "none", "146,570", rows[2][-1]]
    assert stub == [] and list(here.iterdir()) == []


def test_tables_hold_sizes_and_the_mean_and_deviation_over_the_seeds(program, stub, here):
    done = program("study", *FLAGS, *VARY, "--seeds", 1, 3)
    assert done.returncode == 0, done.stderr
    rows = table(here / "study")
    row = rows["squeeze_ratio_0.5"]
    assert (row["squeeze_ratio"], row["bypass"], row["runs"]) == ("0.5", "none", "2")
    assert float(row["validation_mean"]) == pytest.approx(0.62) and float(row["test_mean"]) == pytest.approx(0.31)
    assert float(row["validation_std"]) == pytest.approx(0.02 / 2**0.5) and float(row["minutes"]) == 2
    assert int(row["bytes"]) == 4 * int(row["parameters"]) > 4 * int(rows["base"]["parameters"]) == 4 * 146_570
    text = (here / "study" / "study.md").read_text()
    assert "62.00% ± 1.41" in text and "62.00% ± 1.41" in done.stdout and "8 of 8 runs finished" in text
    for key in ("squeeze_ratio", "bypass"):
        assert f"({key}.png)" in text
        with Image.open(here / "study" / f"{key}.png") as picture:
            assert picture.format == "PNG"
    folder = "study/squeeze_ratio_0.125"
    assert stub[0][2:] == [f"--config={folder}/config.yaml", "--seed=1", f"--output_path={folder}/seed_1"]


def test_one_seed_has_no_deviation(program, stub, here):
    assert program("study", *FLAGS, "--vary", "lr_max=0.1,0.2").returncode == 0
    assert table(here / "study")["lr_max_0.1"]["test_std"] == ""
    assert "±" not in (here / "study" / "study.md").read_text().partition("| lr_max")[2]


def test_resume_keeps_what_is_finished_and_new_values_and_seeds_add_runs(program, stub, here):
    assert program("study", *FLAGS, *VARY).returncode == 0
    finished = (here / "study" / "base" / "seed_1" / "result.json").stat().st_mtime_ns
    stub.clear()
    done = program("study", "--resume", "study", "--vary", "squeeze_ratio=1", "--seeds", 3)
    assert done.returncode == 0 and "8 are finished, 7 to train" in done.stdout
    assert len(stub) == 7 and len(table(here / "study")) == 5
    assert (here / "study" / "base" / "seed_1" / "result.json").stat().st_mtime_ns == finished
    stub.clear()
    done = program("study", "--resume", "study")
    assert "15 are finished, 0 to train" in done.stdout and stub == []


def test_a_begun_run_is_resumed_by_train(program, stub, here):
    assert program("study", *FLAGS, *VARY).returncode == 0
    (here / "study" / "base" / "seed_2" / "result.json").unlink()
    stub.clear()
    assert program("study", "--resume", "study").returncode == 0
    assert [command[-1] for command in stub] == ["--resume=true"] and "--seed=2" in stub[0]


def test_another_base_is_refused_with_its_keys_and_another_place_is_not(program, stub, here):
    assert program("study", *FLAGS, *VARY).returncode == 0
    before = sorted(here.rglob("*"))
    done = program("study", *FLAGS, "--epochs", 2, "--lr_max", 0.5, "--resume")
    assert "another base (lr_max: 0.01 -> 0.5; epochs: 1 -> 2)" in one_line_error(done)
    assert "continue or extend it with --resume" in one_line_error(program("study", *FLAGS, *VARY))
    assert sorted(here.rglob("*")) == before
    assert program("study", "--resume", "study", "--num_workers", 1, "--log_steps", 3).returncode == 0


def test_a_run_of_another_configuration_in_a_folder_of_the_study_is_named(program, stub, here):
    assert program("study", *FLAGS, *VARY).returncode == 0
    file = here / "study" / "base" / "seed_1" / "config.yaml"
    file.write_text(file.read_text().replace("lr_max: 0.01", "lr_max: 0.02"))
    assert "study/base/seed_1: contains a run with other values (lr_max: 0.02 -> 0.01)" in one_line_error(
        program("study", "--resume", "study")
    )


def test_a_run_in_the_folder_of_the_study_is_not_touched(program, stub, here):
    (here / "study").mkdir()
    (here / "study" / "metrics.csv").touch()
    assert "study: contains metrics.csv, but no study" in one_line_error(program("study", *FLAGS, *VARY))


def test_a_run_that_fails_is_named_and_the_others_go_on(program, stub, here):
    (here / "study" / "bypass_simple").mkdir(parents=True)
    (here / "study" / "bypass_simple" / "fail").touch()
    done = program("study", *FLAGS, *VARY, "--jobs", 3)
    assert done.returncode == 1
    reason = "error: the disk is on fire (exit code 1; study/bypass_simple/seed_1.log)"
    assert f"failed: bypass_simple, seed 1: {reason}" in done.stdout
    rows = table(here / "study")
    assert [rows[name]["runs"] for name in rows] == ["2", "2", "2", "0"] and rows["bypass_simple"]["test_mean"] == ""
    (here / "study" / "bypass_simple" / "fail").unlink()
    assert program("study", "--resume", "study").returncode == 0
    assert table(here / "study")["bypass_simple"]["runs"] == "2"


def test_a_signal_stops_the_trainings_in_order_and_says_how_to_go_on(program, stub, here, monkeypatch):
    folder = here / "study" / "base"
    folder.mkdir(parents=True)
    (folder / "wait").touch()
    monkeypatch.setattr(signals, "received", lambda: signal.SIGINT if (folder / "seed_1" / "waiting").exists() else 0)

    def obey():
        if signals.received():
            raise signals.Interrupted(signals.received())

    monkeypatch.setattr(signals, "_obey", obey)
    done = program("study", *FLAGS, *VARY)
    assert done.returncode == 130
    assert done.stdout.endswith("stopped; continue with: python study.py --resume study\n")
    assert "failed" not in done.stdout and len(stub) == 5
    assert "4 of 8 runs finished" in (here / "study" / "study.md").read_text()
    assert not (folder / "seed_1" / "result.json").exists()


def test_trainings_at_the_same_time_share_the_cores(program, stub, here, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(running.os, "sched_getaffinity", lambda process: range(8))
    assert program("study", *FLAGS, "--vary", "bypass=none,simple", "--jobs", 3).returncode == 0
    assert (here / "study" / "base" / "seed_1.log").read_text() == "threads 2\n"
    assert program("study", *FLAGS, "--resume", "--vary", "bypass=complex", "--jobs", 1).returncode == 0
    assert (here / "study" / "bypass_complex" / "seed_1.log").read_text() == "threads None\n"


def test_the_line_of_a_terminal_is_no_longer_than_the_terminal(tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "log").write_text("step 1\n" + "step 2 " * 30 + "\n\n")
    job = running.Job("squeeze_ratio_0.125, seed 1", tmp_path, 1, tmp_path, tmp_path / "log")
    with running.tqdm(total=1000, bar_format=running.BAR, dynamic_ncols=True, disable=None) as bar:
        running.show(bar, job)
        bar.update()
    lines = [line for line in re.split(r"[\r\n]", terminal.getvalue()) if line.strip()]
    assert max(map(len, lines)) < 80 and "squeeze_ratio_0.125, seed 1: step 2 step" in lines[-1]


def test_a_damaged_result_is_named(program, stub, here):
    assert program("study", *FLAGS, "--vary", "bypass=none").returncode == 0
    (here / "study" / "base" / "seed_1" / "result.json").write_text('{"test": 1}')
    assert "study/base/seed_1/result.json: not the result of a run" in one_line_error(
        program("study", "--resume", "study")
    )


@pytest.mark.parametrize("name", ["study.csv", "study.md", "bypass.png", "config.yaml"])
def test_a_folder_in_the_place_of_a_file_is_named_before_anything_is_trained(program, stub, here, name):
    (here / "study" / name).mkdir(parents=True)
    error = one_line_error(program("study", *FLAGS, "--vary", "bypass=none"))
    assert name in error and stub == []


def test_two_studies_do_not_write_into_one_folder(program, stub, here):
    folder = here / "study" / "base"
    folder.mkdir(parents=True)
    (folder / "wait").touch()
    (here / "study" / "bypass_simple").mkdir()
    from src.files.locks import locked

    with locked(here / "study"):
        assert "study: another run is writing here" in one_line_error(program("study", *FLAGS, *VARY))
    assert stub == []


@pytest.mark.thorough
def test_a_study_trains_ordinary_runs(program, here):
    small = ("--base_e", 8, "--incr_e", 8, "--image_size", 12, "--train_images", 32, "--val_split", 0.1)
    done = program("study", *FLAGS, *small, "--vary", "bypass=none,simple", "--jobs", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    warning = "warning: base_e, incr_e: the Fire modules of version cifar "
    assert done.stdout.startswith(warning) and warning in (here / "study" / "base" / "seed_1.log").read_text()
    for name in ("base", "bypass_simple"):
        run = here / "study" / name / "seed_1"
        result = json.loads((run / "result.json").read_text())
        row = table(here / "study")[name]
        assert float(row["test_mean"]) == result["test"]["accuracy"] and int(row["parameters"]) == result["parameters"]
        assert int(row["multiply_adds"]) == result["multiply_adds"] and (run / "best.ckpt").is_file()
        assert f"bypass: {'simple' if 'simple' in name else 'none'}" in (run / "config.yaml").read_text()
    compared = program("study", "study")
    assert compared.returncode == 0 and "bypass_simple/seed_1" in compared.stdout
