"""The launcher with MindSpore's collectives, and with train.py."""

from __future__ import annotations

import json
import signal
import time

import psutil
import pytest

from tests.launching.jobs import ALLREDUCE, SHORT, STATED_SECONDS, Launcher, left_in_time, msrun
from tests.programs import ROOT

# The default run has the same case with small programs: MindSpore takes ten seconds to start, and to train a minute.
SLOW = pytest.mark.slow


@pytest.mark.thorough
def test_real_workers_add_up_and_the_job_ends_in_order(real, tmp_path):
    job = Launcher(tmp_path, {**real, "STEPS": "6"}, ALLREDUCE, "--devices", "2").end()
    assert job.status == 0, job.err
    assert job.out.splitlines()[-3:] == ["step 0 3.0", "step 1 3.0", "step 2 3.0"]
    assert job.left() == []


@pytest.mark.thorough
@pytest.mark.parametrize("rank", [pytest.param(0, marks=SLOW), 1])
def test_a_real_worker_that_is_killed_ends_the_job_in_the_stated_time(rank, real, tmp_path):
    job = Launcher(tmp_path, {**real, "KILLED": str(rank)}, ALLREDUCE).end()
    assert job.status == 1
    assert job.err.splitlines()[-1].startswith(f"error: rank {rank} was killed by SIGKILL")
    assert job.ended - float((tmp_path / "died").read_text()) < STATED_SECONDS
    assert job.left() == []


@SLOW
def test_a_real_worker_that_never_joins_ends_the_job(real, tmp_path):
    program = "import os, time\n" + ALLREDUCE.replace(
        "init()\n",
        "if os.environ['MS_ROLE'] == 'MS_WORKER' and os.environ['RANK_ID'] == '1':\n    time.sleep(300)\ninit()\n",
    )
    started = time.time()
    job = Launcher(tmp_path, real, program, "--join_timeout", "25").end()
    assert job.status == 1
    assert "error: rank 1 did not reach the scheduler" in job.err
    assert job.ended - started < 25 + STATED_SECONDS
    assert job.left() == []


@SLOW
def test_real_workers_end_when_their_launcher_is_killed(real, tmp_path):
    job = Launcher(tmp_path, real, ALLREDUCE)
    job.wait_for("working_0")
    job.process.kill()
    job.end()
    assert left_in_time(job) == []


@SLOW  # That msrun and the launcher set the same variables is tested above.
def test_train_py_runs_on_two_workers_when_typed_by_hand_with_msrun(address, real, tmp_path):
    flags = [*SHORT, "--epochs", "1", "--warmup_epochs", "0", "--output_path", "run"]
    done = msrun(tmp_path, real, address[1], ROOT / "train.py", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["devices"] == 2


@pytest.mark.slow  # Two trainings.
def test_two_workers_train_and_the_next_launch_does_not_replace_the_run(real, tmp_path):
    flags = [*SHORT, "--epochs", "2", "--output_path", "run"]
    job = Launcher(tmp_path, real, None, *flags).end(300)
    assert job.status == 0, job.err
    assert "test accuracy" in job.out
    assert json.loads((tmp_path / "run" / "result.json").read_text())["devices"] == 2
    again = Launcher(tmp_path, real, None, *flags).end(300)
    assert again.status == 2
    assert again.err.splitlines() == [
        "error: run: already contains a run; choose another --output_path, or replace it with --overwrite"
    ]


@pytest.mark.thorough
@pytest.mark.parametrize("how", ["interrupted", pytest.param("killed", marks=SLOW)])
def test_the_checkpoints_of_a_training_that_broke_off_are_valid(how, real, tmp_path):
    import mindspore as ms

    job = Launcher(tmp_path, real, None, *SHORT, "--epochs", "1000", "--output_path", "run")
    deadline = time.monotonic() + 240
    while len(list(tmp_path.glob("run/checkpoints/*.ckpt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    if how == "interrupted":
        job.process.send_signal(signal.SIGINT)
        job.end()
        assert job.status == 130, job.err
    else:
        victim = next(
            process
            for process in psutil.Process(job.process.pid).children(recursive=True)
            if process.environ().get("RANK_ID") == "1" and process.environ().get("MS_ROLE") == "MS_WORKER"
        )
        victim.kill()
        killed = time.time()
        job.end()
        assert job.status == 1
        assert "error: rank 1 was killed by SIGKILL" in job.err
        assert job.ended - killed < STATED_SECONDS
    checkpoints = list(tmp_path.glob("run/**/*.ckpt"))
    assert len(checkpoints) >= 2
    for checkpoint in checkpoints:
        assert len(ms.load_checkpoint(str(checkpoint))) > 50
