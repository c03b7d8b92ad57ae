"""A disk that is full, a folder that goes away or becomes read-only while a run writes in it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from src.checkpoint import load_network
from src.training.resume import read_saved
from tests.faults.conftest import fill
from tests.programs import ROOT
from tests.runs import SMALL

PROGRAM = [sys.executable, str(ROOT / "train.py")]


def flags(folder: Path, **keys) -> list[str]:
    keys = {**SMALL, "output_path": folder, "scalars": "tensorboard", **keys}
    return [str(part) for key, value in keys.items() for part in (f"--{key}", value)]


@pytest.mark.slow
def test_a_full_disk_is_said_and_the_run_goes_on_or_stops_as_configured(tmpfs, faults):
    with faults("full disks") as inject:
        for on_save_error in ("warn", "stop"):
            with inject.fault(on_save_error):
                disk = tmpfs("8m")
                run = disk / "run"
                process = subprocess.Popen(
                    [*PROGRAM, *flags(run, epochs=40, log_steps=4, on_save_error=on_save_error)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                for line in process.stdout:
                    if "step 8/" in line:
                        break
                filling = fill(disk, 20_000)
                if on_save_error == "warn":
                    for line in process.stdout:
                        if "warning: checkpoint" in line:
                            break
                    assert "cannot be written: No space left on device; training continues" in line
                    filling.unlink()
                _, stderr = process.communicate()
                for file in (run / "checkpoints").glob("*.ckpt"):
                    read_saved(file)
                assert not list(run.rglob(".writing-*"))
                if on_save_error == "warn":
                    assert process.returncode == 0, stderr
                    assert json.loads((run / "result.json").read_text())["steps"] == 160
                    continue
                assert process.returncode == 2 and "Traceback" not in stderr
                assert "No space left on device" in stderr and "continue with --resume" in stderr
                filling.unlink()
                resumed = subprocess.run([*PROGRAM, "--resume", "--output_path", run], capture_output=True, text=True)
                assert resumed.returncode == 0 and "resuming from" in resumed.stdout
                load_network(run / "squeezenet.ckpt")


@pytest.mark.slow
def test_a_folder_deleted_or_made_read_only_meanwhile_does_not_take_the_run(tmp_path, faults):
    with faults("run folders lost while a run writes") as inject:
        with inject.fault("deleted"):
            run = tmp_path / "run"
            process = start(flags(run, epochs=40, log_steps=4), "step 8/")
            shutil.rmtree(run)
            stdout, stderr = process.communicate()
            assert process.returncode == 0, stderr
            assert json.loads((run / "result.json").read_text())["steps"] == 160
            load_network(run / "squeezenet.ckpt")
            assert (run / "config.yaml").is_file() and "the run's folder was missing" in stdout
        with inject.fault("read-only"), read_only_later(tmp_path / "second") as (run, lock):
            process = start(flags(run, epochs=40, log_steps=4), "step 8/")
            lock()
            stdout, stderr = process.communicate()
            assert process.returncode == 2 and "Traceback" not in stderr
            assert "warning: checkpoint" in stdout and stderr.startswith("error: ")
            checkpoints = list((run / "checkpoints").glob("*.ckpt"))
            assert checkpoints and all(read_saved(file) for file in checkpoints)


@contextlib.contextmanager
def read_only_later(run: Path):
    """Give a folder and a function that makes it read-only, for root too."""
    folders = [run, run / "checkpoints"]

    def lock() -> None:
        for folder in folders:
            folder.chmod(0o555)
        if os.geteuid() == 0:
            subprocess.run(["chattr", "+i", *folders], check=True)

    if os.geteuid() == 0:
        run.mkdir()
        if subprocess.run(["chattr", "+i", run], capture_output=True).returncode:
            pytest.skip("nothing is read-only for root here")
        subprocess.run(["chattr", "-i", run], check=True)
    try:
        yield run, lock
    finally:
        if os.geteuid() == 0:
            subprocess.run(["chattr", "-i", *folders], check=True)
        for folder in folders:
            folder.chmod(0o755)


def start(arguments: list[str], until: str) -> subprocess.Popen:
    process = subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in process.stdout:
        if until in line:
            return process
    pytest.fail(process.stderr.read()[-500:])
