"""Train the runs of a study, each as a process of train.py, several at a time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

from tqdm import tqdm

from src.cli import signals
from src.config import RUN_CONFIG
from src.files.run_folder import make_folder

TRAIN = Path(__file__).resolve().parent.parent.parent / "train.py"
LOOK_SECONDS = 0.2
TAIL_BYTES = 4096
BAR = "{n_fmt}/{total_fmt} runs [{elapsed}<{remaining}] {desc}"
COUNT_COLUMNS = 36  # Of the bar, for the number of runs and the times.


class Job(NamedTuple):
    """A run to train.

    name: for display. config: file of the configuration. log: file for the output of train.py.
    """

    name: str
    config: Path
    seed: int
    folder: Path
    log: Path


def command(job: Job) -> list[str]:
    """Return the command line of a run, which continues it where it has begun."""
    flags = [f"--config={job.config}", f"--seed={job.seed}", f"--output_path={job.folder}"]
    return [sys.executable, str(TRAIN), *flags, *(["--resume=true"] if (job.folder / RUN_CONFIG).is_file() else [])]


def train_all(jobs: list[Job], at_once: int, done: Callable[[Job], str]) -> dict[str, str]:
    """Train runs, and return the reason for each that has failed, by name.

    done: called after each run that has succeeded; returns the result for display. On a signal, the running trainings
    are stopped in order, and Interrupted is raised after they have saved.
    """
    failures: dict[str, str] = {}
    environment = dict(os.environ)
    if at_once > 1:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // at_once)))
    with signals.postponed(), tqdm(total=len(jobs), bar_format=BAR, dynamic_ncols=True, disable=None) as bar:
        for job, status in _finished(jobs, at_once, environment, bar):
            if status and not signals.received():
                failures[job.name] = f"{last_line(job.log)} (exit code {status}; {job.log})"
                bar.write(f"failed: {job.name}: {failures[job.name]}")
            elif not status:
                bar.write(f"{job.name}: {done(job)}")
    return failures


def _finished(jobs: list[Job], at_once: int, environment: dict[str, str], bar: tqdm) -> Iterator[tuple[Job, int]]:
    """Run train.py for each job; yield each with its exit status when it has ended."""
    waiting, running, told = list(jobs), {}, False
    while running or (waiting and not told):
        while waiting and len(running) < at_once and not signals.received():
            job = waiting.pop(0)
            make_folder(job.folder.parent)
            bar.write(f"training {job.name}; log: {job.log}")
            with open(job.log, "a", encoding="utf-8") as log:
                # In a session of its own, so that Ctrl-C reaches it once, from here.
                running[job] = subprocess.Popen(
                    command(job),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                )
        if signals.received() and not told:
            for process in running.values():
                process.send_signal(signal.SIGINT)
            told = True
        for job in [job for job, process in running.items() if process.poll() is not None]:
            yield job, running.pop(job).returncode
            bar.update()
        if running:
            if not bar.disable:
                show(bar, next(iter(running)))
            time.sleep(LOOK_SECONDS)


def last_line(file: Path) -> str:
    """Return the last line of a log."""
    try:
        with open(file, "rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL_BYTES))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def show(bar: tqdm, job: Job) -> None:
    """Show on a terminal's bar how far a training is."""
    text, columns = f"{job.name}: {last_line(job.log)}", shutil.get_terminal_size().columns
    bar.set_description_str(text[: max(10, columns - COUNT_COLUMNS)])
