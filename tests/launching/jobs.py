"""What the tests of the launcher share: a launcher at work, and programs for it to run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

import psutil

from tests.programs import ROOT

STATED_SECONDS = 15  # From a worker's death to the launcher's end (launch.END_TIMES).
JOINED = "all workers have joined"
# The head of every program that a test gives the launcher to run: `rank`, and the scheduler does nothing.
HEAD = """
import os, signal, socket, subprocess, sys, time
if os.environ["MS_ROLE"] == "MS_SCHED":
    server = socket.create_server((os.environ["MS_SCHED_HOST"], int(os.environ["MS_SCHED_PORT"])))
    time.sleep(600)
rank = int(os.environ["RANK_ID"])
def join():
    while True:
        try:
            return socket.create_connection((os.environ["MS_SCHED_HOST"], int(os.environ["MS_SCHED_PORT"])))
        except OSError:
            time.sleep(0.05)
"""
SLEEP = HEAD + "connection = join()\n" + "open(f'started_{rank}', 'w').write('1')\ntime.sleep(300)\n"
# An allreduce with MindSpore, again and again.
ALLREDUCE = """
import os, signal, sys, time
import numpy as np
import mindspore as ms
from mindspore.communication import get_rank, init
ms.set_device("CPU")
init()
rank = get_rank()
total = ms.ops.AllReduce()
for step in range(int(os.environ.get("STEPS", 10**6))):
    value = total(ms.Tensor(np.full(4, rank + 1, np.float32))).asnumpy()
    if step == 3:
        open(f"working_{rank}", "w").write(str(time.time()))
    if step == 20 and str(rank) == os.environ.get("KILLED"):
        open("died", "w").write(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)
    if rank == 0 and step < 3:
        print("step", step, value[0])
    time.sleep(0.05)
"""
# A training that takes seconds.
SHORT = [
    *("--config", str(ROOT / "config" / "squeezenet_digits.yaml"), "--train_images", "96", "--batch_size", "16"),
    *("--dropout", "0", "--base_e", "16", "--incr_e", "16", "--scalars", "none"),
]


class Launcher:
    """A launcher at work, in a folder, on a program, that waits for nobody longer than a test needs."""

    def __init__(self, folder: Path, environment: dict, program: str | None, *options, device: str = "cpu", under=()):
        self.folder = folder
        if program is not None:
            (folder / "program.py").write_text(program)
            options = ("--program", folder / "program.py", "--settle_time", 0.5, "--stop_time", 0.5, *options)
        script = ROOT / "scripts" / f"run_distribute_train_{device}.sh"
        with open(folder / "launcher.out", "w") as out, open(folder / "launcher.err", "w") as err:
            self.process = subprocess.Popen(
                [*under, "bash", str(script), *map(str, options)],
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return (self.folder / "launcher.out").read_text()

    @property
    def err(self) -> str:
        return (self.folder / "launcher.err").read_text()

    def end(self, seconds: float = 180) -> Launcher:
        """Wait for its end; sets status and the time of the end."""
        try:
            self.status = self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self.ended = time.time()
        return self

    def wait_for(self, name: str, seconds: float = 120) -> float:
        """Wait for a file that a worker makes; return the time that is in it."""
        path = self.folder / name
        self._wait_until(lambda: path.exists() and path.read_text(), f"no {name}", seconds)
        return float(path.read_text())

    def wait_until_said(self, text: str, seconds: float = 120) -> None:
        """Wait until it has printed a text."""
        self._wait_until(lambda: text in self.out, f"{text!r} was not said", seconds)

    def _wait_until(self, happened: Callable[[], object], otherwise: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not happened():
            if time.monotonic() > deadline or self.process.poll() is not None:
                self.process.kill()
                raise AssertionError(f"{otherwise}: {self.out}\n{self.err}")
            time.sleep(0.05)

    def left(self) -> list[list[str]]:
        """Return the command lines of the program's processes that still live."""
        commands = map(self._command, psutil.process_iter())
        return [words for words in commands if any(str(self.folder / "program.py") in word for word in words)]

    @staticmethod
    def _command(process: psutil.Process) -> list[str]:
        """Return the command line of a process, or [] if it has ended, as it may at any moment."""
        try:
            return [] if process.status() == psutil.STATUS_ZOMBIE else process.cmdline()
        except psutil.Error:
            return []


def note(name: str) -> str:
    """Return a line of Python that leaves a file with the time in it."""
    return f"open({name!r} + '.new', 'w').write(str(time.time())); os.rename({name!r} + '.new', {name!r})\n"


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def left_in_time(job: Launcher) -> list:
    """Return the job's processes that have not ended within a minute."""
    deadline = time.monotonic() + 60
    while job.left() and time.monotonic() < deadline:
        time.sleep(0.1)
    return job.left()


def msrun(folder: Path, environment: dict, port: int, *arguments) -> subprocess.CompletedProcess:
    """Run MindSpore's msrun with two workers, as typed by hand."""
    options = ["--worker_num=2", "--local_worker_num=2", f"--master_port={port}", "--log_dir=logs", "--join=True"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # It runs whatever PATH has as `python`.
    return subprocess.run(
        [sys.executable, "-m", "mindspore.parallel.cluster.run", *options, *map(str, arguments)],
        cwd=folder,
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
    )
