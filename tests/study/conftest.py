"""Trainings that take no time: a program in train.py's place that writes the files of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from src.study import running

# FOLDER SEED CONFIG: fails where a file named "fail" lies beside the run's folder, and with one named "wait" waits for
# SIGINT, then exits as train.py does.
STUB = """
import json, os, pathlib, shutil, signal, sys, time
folder, seed, config = pathlib.Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
if (folder.parent / "fail").exists():
    sys.exit("error: the disk is on fire")
folder.mkdir(exist_ok=True)
text = open(config).read().replace("seed: 1", f"seed: {seed}")
(folder / "config.yaml").write_text(text)
print("threads", os.environ.get("OMP_NUM_THREADS"), flush=True)
if (folder.parent / "wait").exists():
    signal.signal(signal.SIGINT, lambda *_: sys.exit(130))
    (folder / "waiting").touch()
    time.sleep(60)
(folder / "metrics.csv").write_text("step,epoch,val_accuracy,seconds\\n4,1,0.5,60\\n8,2,0.75,120\\n")
accuracy = 0.5 + seed / 100 + ("squeeze_ratio: 0.5" in text) / 10
results = {"validation": {"accuracy": accuracy}, "test": {"accuracy": accuracy / 2}, "seconds": 60 * seed}
results |= {"checkpoint": "best.ckpt", "peak_memory_mb": 1, "devices": 1}
results |= dict.fromkeys(("images_per_second", "images_per_second_per_device"))
(folder / "result.json").write_text(json.dumps(results))
"""


@pytest.fixture
def stub(monkeypatch) -> list[list[str]]:
    """Replace train.py by STUB; the command lines that would have been run."""
    commands: list[list[str]] = []
    real = running.command

    def command(job: running.Job) -> list[str]:
        commands.append(real(job))
        return [sys.executable, "-S", "-c", STUB, str(job.folder), str(job.seed), str(job.config)]

    monkeypatch.setattr(running, "command", command)
    monkeypatch.setattr(running, "LOOK_SECONDS", 0.01)
    return commands


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path
