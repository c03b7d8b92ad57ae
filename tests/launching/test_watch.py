"""A job's course and its end, with small programs for workers."""

from __future__ import annotations

import os
import re
import signal
import textwrap
import time
from pathlib import Path

import pytest

from src.launching.cluster import Cluster
from src.launching.nodes import Nodes
from src.launching.watch import Times, Watch
from src.launching.workers import SCHEDULER
from tests.launching.jobs import HEAD, JOINED, SLEEP, STATED_SECONDS, Launcher, left_in_time, note


def test_progress_of_rank_0_is_seen_while_it_works_without_mindspores_noise(environment, tmp_path):
    noise = "[WARNING] DISTRIBUTED(2,7f,python):2026-1-1 [mindspore/ccsrc/cluster/x.cc:58] Initialize] Begin"
    program = HEAD + f"connection = join()\nprint({noise!r})\nprint('epoch 1 of rank', rank)\ntime.sleep(300)\n"
    job = Launcher(tmp_path, environment, program)
    job.wait_until_said("epoch 1 of rank 0\n")
    job.process.send_signal(signal.SIGTERM)
    job.end()
    assert noise not in job.out and "epoch 1 of rank 1" not in job.out


def test_a_worker_that_raises_ends_the_job_and_is_named(environment, tmp_path):
    # It has a child of its own, which outlives it.
    program = SLEEP.replace(
        "time.sleep(300)",
        "if rank == 1:\n"
        "    child = [sys.executable, '-c', 'import time; time.sleep(300)', __file__]\n"
        "    subprocess.Popen(child, start_new_session=True)\n"
        f"    {note('died').rstrip()}\n"
        "    raise ValueError('no such layer')\n"
        "time.sleep(300)",
    )
    job = Launcher(tmp_path, environment, program, "--devices", "3").end()
    assert job.status == 1
    assert job.err.splitlines()[-1] == "error: rank 1 ended with exit status 1; the other workers were stopped"
    assert "worker_1.log:\n" in job.err and "ValueError: no such layer" in job.err
    assert job.ended - float((tmp_path / "died").read_text()) < STATED_SECONDS
    assert job.left() == []


def test_a_killed_worker_ends_the_job_and_is_named_even_when_the_others_do_not_listen(environment, tmp_path):
    program = SLEEP.replace("time.sleep(300)", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(300)")
    program = program.replace(
        "= join()\n", f"= join()\nif rank == 0:\n    {note('died')}    os.kill(os.getpid(), 9)\n", 1
    )
    job = Launcher(tmp_path, environment, program).end()
    assert job.status == 1
    assert job.err.splitlines()[-1].startswith("error: rank 0 was killed by SIGKILL")
    assert job.ended - float((tmp_path / "died").read_text()) < STATED_SECONDS
    assert job.left() == []


def test_a_mistake_of_the_users_is_said_once_and_is_no_crash(environment, tmp_path):
    program = (
        HEAD + "time.sleep(0.2 * rank)\nprint('error: image_size: 3 is too small', file=sys.stderr)\nsys.exit(2)\n"
    )
    job = Launcher(tmp_path, environment, program).end()
    assert job.status == 2
    assert job.err == "error: image_size: 3 is too small\n"
    assert "error" not in job.out
    (log,) = tmp_path.glob("logs/*/worker_1.log")
    assert "error: image_size" in log.read_text()  # It was left to end by itself.


class Ended:
    """Workers that have ended, each with a status."""

    def __init__(self, folder: Path, statuses: dict):
        self._folder = folder
        self.roles, self.ranks, self._statuses = (
            list(statuses),
            [role for role in statuses if role != SCHEDULER],
            statuses,
        )

    def status(self, role):
        return self._statuses[role]

    def running(self) -> list:
        return [rank for rank in self.ranks if self._statuses[rank] is None]

    def log(self, role) -> Path:
        path = self._folder / f"{role}.log"
        path.touch()
        return path


@pytest.mark.parametrize(
    "statuses, named",
    [
        ({0: 1, 1: -9}, "rank 1 was killed by SIGKILL"),
        ({SCHEDULER: -9, 0: 1, 1: None}, "rank 0 ended with exit status 1"),
        ({SCHEDULER: 1, 0: None, 1: None}, "the scheduler ended with exit status 1"),
        ({SCHEDULER: 1, 0: 0, 1: 0}, None),
    ],
)
def test_of_several_that_failed_at_once_the_cause_is_named(statuses, named, tmp_path):
    plan = Cluster(1, 0, 2, "127.0.0.1", 2000)
    ending = Watch(plan, Ended(tmp_path, statuses), Nodes(plan), Times(1, 1))._of_process()
    assert ending.message.startswith(named) if named else ending is None


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_job_lets_its_workers_finish(number, status, environment, tmp_path):
    program = HEAD + textwrap.dedent(
        f"""
        from src.cli.errors import run
        connection = join()
        def main():
            try:
                {note("started").rstrip()}
                time.sleep(300)
            finally:
                time.sleep(0.5)
                open(f"saved_{{rank}}", "w").close()
        run(main)
        """
    )
    job = Launcher(tmp_path, environment, program)
    job.wait_for("started")
    job.wait_until_said(JOINED)
    os.killpg(job.process.pid, number)  # As a terminal does.
    job.end()
    assert job.status == status, job.err
    (log,) = tmp_path.glob("logs/*/scheduler.log")
    assert "KeyboardInterrupt" not in log.read_text()  # The workers need it to the end.
    assert (tmp_path / "saved_0").exists() and (tmp_path / "saved_1").exists()
    assert job.err.splitlines()[-1] == "interrupted"
    assert job.left() == []


def test_a_second_signal_stops_the_workers_at_once(environment, tmp_path):
    program = SLEEP.replace("time.sleep(300)", "signal.signal(signal.SIGINT, lambda *_: None)\n" + "time.sleep(300)\n")
    program = program.replace("'1'", "str(time.time())")
    job = Launcher(tmp_path, environment, program)
    job.wait_for("started_0")
    job.wait_for("started_1")
    job.wait_until_said(JOINED)
    job.process.send_signal(signal.SIGINT)
    job._wait_until(lambda: "again to stop them at once" in job.err, "no word of the interruption", 60)
    interrupted = time.time()
    job.process.send_signal(signal.SIGINT)
    job.end()
    assert job.status == 130
    assert job.ended - interrupted < 15  # Of the grace time's 60.
    assert "rank 0 had not ended and was killed" in job.err
    assert job.left() == []


def test_a_second_signal_counts_as_soon_as_the_message_asks_for_it(tmp_path):
    plan, workers = Cluster(1, 0, 2, "127.0.0.1", 2000), Ended(tmp_path, {0: None, 1: None})
    watch, looks = Watch(plan, workers, Nodes(plan), Times(1, 1, stop=1)), []
    workers.signal = lambda number: watch._signals.append(signal.SIGINT)  # Between the message and the wait.
    workers.running = lambda: looks.append(0) or [0, 1]
    watch._signals.append(signal.SIGINT)
    assert "rank 0 had not ended and was killed" in watch._of_signal().message
    assert len(looks) == 2  # Before the wait, and for the message.


def test_workers_that_end_in_order_on_a_signal_of_their_own_are_no_crash(environment, tmp_path):
    program = SLEEP.replace("time.sleep(300)", "sys.exit(143) if rank else time.sleep(300)")
    job = Launcher(tmp_path, environment, program).end()
    assert job.status == 143
    assert job.err.splitlines()[-1].startswith("interrupted: rank 1 ended with exit status 143")


def test_a_worker_that_never_joins_ends_the_job(environment, tmp_path):
    program = SLEEP.replace("connection = join()\n", "if rank == 0: connection = join()\n")
    started = time.time()
    job = Launcher(tmp_path, environment, program, "--join_timeout", "3").end()
    assert job.status == 1
    assert re.search(r"^error: rank 1 did not reach the scheduler at 127.0.0.1:\d+ within 3 s", job.err, re.MULTILINE)
    assert job.ended - started < 3 + STATED_SECONDS
    assert job.left() == []


def test_a_dead_scheduler_ends_the_job(environment, tmp_path):
    job = Launcher(tmp_path, environment, SLEEP.replace("time.sleep(600)", "time.sleep(1)\n    sys.exit(7)")).end()
    assert job.status == 1
    assert "error: the scheduler ended with exit status 7" in job.err
    assert job.left() == []


def test_nothing_is_left_behind_a_launcher_that_is_killed_itself(environment, tmp_path):
    # Each worker has a child of its own, in a session of its own.
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300)', __file__], start_new_session=True)"
    job = Launcher(tmp_path, environment, SLEEP.replace("open(f'started", f"{child}\nopen(f'started"))
    job.wait_for("started_0")
    job.wait_for("started_1")
    assert len(job.left()) >= 5  # Of the launcher, the scheduler, two workers and their children.
    job.process.kill()
    job.end()
    assert left_in_time(job) == []
