"""A run that was stopped, however, ends like one that was not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from src.cli.errors import UserError
from src.cli.signals import Interrupted
from src.config import with_keys
from src.dataset import open_source
from src.dataset.source import Subset
from src.training.resume import newest, read_saved
from src.training.run import train
from tests.programs import ROOT
from tests.runs import SMALL, assert_same, configuration, metrics_rows, stop_at, without_pictures

pytestmark = pytest.mark.usefixtures("no_pictures")

RECIPES: dict[str, dict] = {
    "adam, batch norm, all augmentations": {
        **{"optimizer": "adam", "lr_max": 0.003, "batch_norm": "all"},
        "augment": ["crop_flip", "color_jitter", "randaugment", "cutout", "mixup", "cutmix"],
    },
    "momentum, clipped and averaged, evaluation within the epoch": {
        **{"eval_steps": 3, "bypass": "complex"},
        **{"clip_norm": 0.2, "ema_decay": 0.8, "batch_norm": "all"},
    },
    "nesterov, no decay of biases, no validation": {
        **{"optimizer": "nesterov", "decay_biases": False, "val_split": 0.0, "batch_norm": "squeeze"},
        **{"save_checkpoint_steps": 3, "label_smoothing": 0.1, "lr_decay_mode": "cosine"},
    },
    "preparation on the device": {
        **{"preprocess": "device", "augment": ["crop_flip", "cutmix"], "batch_norm": "squeeze"},
    },
    "muon, its rates falling from layer to layer": {
        **{"optimizer": "muon", "momentum": 0.6, "batch_norm": "all", "layer_decay": 0.8},
    },
    "sgd, pynative mode": {"optimizer": "sgd", "mode": "pynative", "final_relu": False},
}


# An epoch's end; in one and at its end; right after the start and before the end.
STOPS = ([4], [6, 8], [1, 11])


@pytest.mark.parametrize(
    "recipe, stops",
    [
        (list(RECIPES)[1], STOPS[1:2]),
        *(pytest.param(recipe, STOPS, marks=pytest.mark.slow) for recipe in RECIPES),
    ],
)
def test_a_run_stopped_at_any_kind_of_step_ends_bit_identical(recipe, stops, tmp_path, monkeypatch, faults):
    config = configuration(**{**SMALL, **RECIPES[recipe]}, output_path=str(tmp_path / "whole"))
    train(config)
    with faults(f"stops of a run ({recipe})", "ended bit-identical") as inject, monkeypatch.context() as patch:
        for steps in stops:
            folder = tmp_path / "_".join(map(str, steps))
            resumed = with_keys(config, output_path=str(folder), resume=True)
            with inject.fault(f"stopped at {steps}"):
                for step in steps:
                    stop_at(patch, step)
                    with pytest.raises(Interrupted) as end:
                        train(resumed)
                    assert end.value.number == signal.SIGTERM
                stop_at(patch, None)
                train(resumed)
                assert_same(folder, tmp_path / "whole")


@pytest.mark.thorough
def test_two_runs_of_one_seed_are_bit_identical(tmp_path):
    keys = {**SMALL, "augment": ["crop_flip", "color_jitter", "cutout", "mixup", "cutmix"]}
    for name in ("first", "second"):
        train(configuration(**keys, seed=5, output_path=str(tmp_path / name)))
    assert_same(tmp_path / "second", tmp_path / "first")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that was stopped at step 6, with checkpoints at steps 4 and 6; not to be changed."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with without_pictures() as patch:
        stop_at(patch, 6)
        with pytest.raises(Interrupted):
            train(configuration(**SMALL, output_path=str(folder)))
    return folder


@pytest.fixture
def copy(stopped, tmp_path):
    """A copy of the stopped run, and the configuration that resumes it."""
    shutil.copytree(stopped, tmp_path / "run")
    return tmp_path / "run", configuration(**SMALL, output_path=str(tmp_path / "run"), resume=True)


def test_a_stopped_run_has_a_checkpoint_of_its_last_step_and_no_result(stopped):
    assert sorted(path.name for path in (stopped / "checkpoints").iterdir()) == [
        "SqueezeNet-1_4.ckpt",
        "SqueezeNet-2_2.ckpt",
    ]
    assert not (stopped / "result.json").exists()


def test_other_values_are_named_and_refused_and_nothing_changes(copy):
    folder, config = copy
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(UserError) as error:
        train(with_keys(config, lr_max=0.03, seed=2, batch_norm="all"))
    for difference in ("lr_max: 0.02 -> 0.03", "seed: 1 -> 2", "batch_norm: none -> all"):
        assert difference in str(error.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_more_epochs_and_other_output_may_be_asked_for(copy):
    folder, config = copy
    result = train(with_keys(config, epochs=4, log_steps=2, keep_checkpoint_max=1, num_workers=1))
    assert result["steps"] == 16 and result["resumed_at_steps"] == [6]
    steps = [int(row["step"]) for row in metrics_rows(folder)]
    assert steps == sorted(steps) and steps[-1] == 16
    assert len(list((folder / "checkpoints").iterdir())) == 1


def test_fewer_epochs_than_are_done_are_refused(copy):
    with pytest.raises(UserError, match=r"^epochs: the run has already completed more than 1 epochs"):
        train(with_keys(copy[1], epochs=1))


def test_other_training_images_are_refused(copy, monkeypatch):
    _, config = copy

    def with_fewer(data, split):
        return Subset(open_source(data, split), np.arange(60))

    monkeypatch.setattr("src.training.plan.open_source", with_fewer)
    with pytest.raises(UserError, match="has 60 training images, but the run was started with 64"):
        train(config)


def test_a_complete_run_is_left_as_it_is(copy, capsys):
    folder, config = copy
    result = train(config)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert train(config) == result
    assert "the run is complete; give more --epochs" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_resume_without_a_run_starts_one(tmp_path, capsys):
    result = train(configuration(**{**SMALL, "epochs": 1}, output_path=str(tmp_path / "new"), resume=True))
    assert result["steps"] == 4 and result["resumed_at_steps"] == []
    assert "no checkpoint to resume from yet; starting from the first step" in capsys.readouterr().out


def damage_newest(folder: Path) -> None:
    file = folder / "checkpoints" / "SqueezeNet-2_2.ckpt"
    file.write_bytes(file.read_bytes()[:-1000])


def lose_metrics(folder: Path) -> None:
    (folder / "metrics.csv").unlink()


def cut_metrics(folder: Path) -> None:
    file = folder / "metrics.csv"
    file.write_bytes(file.read_bytes() + b"7,2,0.01")


def lose_best(folder: Path) -> None:
    (folder / "best.ckpt").unlink()


def damage_best(folder: Path) -> None:
    (folder / "best.ckpt").write_bytes(b"no checkpoint")


def leave_temporary(folder: Path) -> None:
    for place in (folder, folder / "checkpoints"):
        (place / ".writing-x").mkdir()
        (place / ".writing-x" / "new.ckpt").write_bytes(b"half")


def lose_checkpoints(folder: Path) -> None:
    shutil.rmtree(folder / "checkpoints")


@pytest.mark.thorough
def test_a_run_whose_folder_has_suffered_goes_on_from_what_is_left(stopped, tmp_path, faults, capsys):
    # What does not hide one another's harm comes together.
    suffered = (
        ([damage_newest], [4]),
        ([lose_metrics, damage_best, leave_temporary], [6]),
        ([cut_metrics, lose_best], [6]),
        ([lose_checkpoints], []),
    )
    with faults("damage to the folder of a stopped run") as inject:
        for harms, resumed_at in suffered:
            with inject.fault(", ".join(harm.__name__ for harm in harms)):
                folder = tmp_path / harms[0].__name__
                shutil.copytree(stopped, folder)
                for harm in harms:
                    harm(folder)
                result = train(configuration(**SMALL, output_path=str(folder), resume=True))
                assert result["resumed_at_steps"] == resumed_at
                assert int(metrics_rows(folder)[-1]["step"]) == 12
                assert not list((folder / "checkpoints").glob(".*"))
    assert "warning: skipped: " in capsys.readouterr().out


def test_nothing_but_unusable_checkpoints_is_an_error_that_leaves_them(copy):
    folder, config = copy
    for file in (folder / "checkpoints").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="none of the checkpoints can be resumed from; start again with --overwrite"):
        train(config)
    assert len(list((folder / "checkpoints").iterdir())) == 2


def test_checkpoints_of_another_run_in_the_folder_are_refused(copy, tmp_path):
    folder, config = copy
    other = with_keys(config, output_path=str(tmp_path / "other"), resume=False, bypass="complex", epochs=1)
    train(other)
    newest = tmp_path / "other" / "checkpoints" / "SqueezeNet-1_4.ckpt"
    for file in (folder / "checkpoints").iterdir():
        shutil.copy(newest, file)
    with pytest.raises(UserError, match="belongs to another network or other classes than the run's"):
        train(config)


def test_another_number_of_devices_goes_on_from_an_epochs_end(stopped):
    assert newest(stopped / "checkpoints", 1)[0].state.step == 6
    assert newest(stopped / "checkpoints", 2)[0].state.step == 4


def test_of_the_checkpoints_the_newest_of_an_epochs_end_always_stays(tmp_path):
    from src.training.checkpoints import Checkpoints

    folder = tmp_path / "run"
    train(
        configuration(**{**SMALL, "epochs": 2}, save_checkpoint_steps=1, keep_checkpoint_max=2, output_path=str(folder))
    )
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["SqueezeNet-2_3.ckpt", "SqueezeNet-2_4.ckpt"]
    callback = Checkpoints(None, tmp_path, None, None, None, 4, 1, None, 2, None, [])
    callback._kept = [(tmp_path / f"{i}", i == 4) for i in range(4, 8)]
    callback._prune()
    assert [path.name for path, _ in callback._kept] == ["4", "6", "7"]


def program(folder: Path, *flags: str) -> subprocess.Popen:
    """Start train.py on a run of 120 steps."""
    keys = {**SMALL, "epochs": 30, "output_path": folder, "batch_norm": "all", "augment": "crop_flip"}
    arguments = [str(part) for key, value in keys.items() for part in (f"--{key}", value)]
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(process: subprocess.Popen, text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"{text!r} never came: {process.stderr.read()[-500:]}")


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=str)
def test_a_signal_lets_the_step_end_saves_and_exits_with_its_status(tmp_path, number, status):
    process = program(tmp_path / "run")
    wait_for(process, "step 6/")
    process.send_signal(number)
    _, stderr = process.communicate()
    assert process.returncode == status
    assert stderr.splitlines()[-2:] == ["stopping after this step; interrupt again to stop at once", "interrupted"]
    newest = max((tmp_path / "run" / "checkpoints").iterdir(), key=os.path.getmtime)
    assert b"run_state" in newest.read_bytes()
    second = program(tmp_path / "run", "--resume")
    wait_for(second, "resuming from " + newest.name)
    second.send_signal(number)
    second.send_signal(number)
    second.communicate()
    assert second.returncode == status


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_bit_identical(tmp_path, faults):
    whole, run = program(tmp_path / "whole"), tmp_path / "run"
    assert whole.wait() == 0
    chance, reached = random.Random(0), [0]
    with faults("SIGKILLs of a training", "left no less than there was before") as inject:
        for _ in range(6):
            process = program(run, "--resume")
            # Log lines come every third step, of 120; the run must not be over before it is killed.
            wait_for(process, f"step {3 * (reached[-1] // 3 + chance.randint(1, 4))}/")
            time.sleep(chance.uniform(0, 0.05))
            process.kill()
            process.communicate()
            with inject.fault(f"killed after step {reached[-1]}"):
                assert process.returncode == -signal.SIGKILL, "over before it was killed"
                assert not (run / "result.json").exists()
                saved = [read_saved(file).state.step for file in (run / "checkpoints").glob("SqueezeNet-*.ckpt")]
                reached.append(max(saved, default=0))
                assert reached[-1] >= reached[-2]
    assert reached[-1] > 0
    last = program(run, "--resume")
    _, errors = last.communicate()
    assert last.returncode == 0, errors
    assert_same(run, tmp_path / "whole")
    assert set(json.loads((run / "result.json").read_text())["resumed_at_steps"]) <= set(reached)


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused_while_the_first_lives(tmp_path):
    first = program(tmp_path / "run")
    wait_for(first, "step ")
    for flag in ("--resume", "--overwrite"):
        second = program(tmp_path / "run", flag)
        _, stderr = second.communicate()
        assert second.returncode == 2 and "another run is writing here" in stderr
    first.kill()
    first.communicate()
    third = program(tmp_path / "run", "--resume")
    wait_for(third, "step ")
    third.kill()
    third.communicate()
