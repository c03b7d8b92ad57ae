"""The processes of a distributed job on this host: found, reaped, signalled, and none of them left behind.

msrun starts scheduler and workers and leaves at once (--join=False), since when it stays it kills the other workers
before they can save anything and then waits most of a minute for the scheduler. This process takes them over: as
"child subreaper" it is the parent of whatever is orphaned below it, so that it learns how each worker ended, and can
end all of them. Linux only, as MindSpore's collectives are.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
import uuid
from pathlib import Path
from typing import Union

import psutil

from src.cli.errors import UserError

SCHEDULER = "scheduler"
Role = Union[int, str]  # A worker's rank, or SCHEDULER.
# Carried by every process of a job, so that they are found even when their parent is gone.
MARK = "SQUEEZENET_LAUNCH"
# What msrun sets for each process; a value that the user's shell still has would make msrun itself look like a worker.
OF_MSRUN = ("MS_ROLE", "MS_NODE_ID", "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT", "RANK_ID", "RANK_SIZE")
KILL_SECONDS = 10
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Processes:
    """What one msrun started: the workers of some ranks, and on the first host the scheduler."""

    def __init__(self, msrun: list[str], program: list[str], environment: dict[str, str], log: Path, roles: list[Role]):
        self.roles = roles
        self._program = program
        self.ended: dict[Role, int] = {}
        self.msrun_status: int | None = None
        self._pids: dict[Role, int] = {}
        self._nameless: dict[int, int] = {}
        _become_subreaper()
        mark = uuid.uuid4().hex
        self._guardian, self._guardian_pipe = _start_guardian(mark)
        clean = {name: value for name, value in environment.items() if name not in OF_MSRUN}
        with log.open("wb") as stream:
            # A session of its own, or the terminal's Ctrl-C would end the scheduler before the workers have finished.
            self._msrun = subprocess.Popen(
                [*msrun, *program],
                env={**clean, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def ranks(self) -> list[int]:
        return [role for role in self.roles if role != SCHEDULER]

    @property
    def started(self) -> bool:
        """Whether any process of the job has been found."""
        return bool(self._pids)

    @property
    def running(self) -> list[int]:
        """The ranks that have not ended, as far as poll() knows."""
        return [rank for rank in self.ranks if rank not in self.ended]

    def poll(self) -> None:
        """Bring `ended` (128 is not added; below 0: the signal) and `msrun_status` up to date."""
        before = self.msrun_status
        if len(self._pids) < len(self.roles):
            self._find()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._note_end(pid, os.waitstatus_to_exitcode(status))
        if before is not None:
            if len(self._pids) < len(self.roles):
                self._name_the_nameless()
            self._note_those_of_msrun()

    def never_started(self) -> list[Role]:
        """Return what msrun should have started and has not, once it has ended; poll() twice before asking."""
        return [] if self.msrun_status is None else [role for role in self.roles if role not in self._pids]

    def signal_workers(self, number: int) -> None:
        """Send a signal to the workers themselves, not to what they started: a data loader is the worker's to end."""
        for rank in self.running:
            if rank in self._pids:
                with contextlib.suppress(ProcessLookupError):  # msrun, while it lives, may have reaped it.
                    os.kill(self._pids[rank], number)

    def reaches(self, rank: int, port: int) -> bool:
        """Return whether a worker has a connection to a port, the scheduler's."""
        try:
            process = psutil.Process(self._pids[rank])
            connections = getattr(process, "net_connections", None) or process.connections  # psutil before 6.0
            return any(
                connection.raddr and connection.raddr.port == port and connection.status == psutil.CONN_ESTABLISHED
                for connection in connections("tcp")
            )
        except (KeyError, psutil.Error):
            return False

    def kill_all(self) -> list[int]:
        """Kill every process below this one; return the ids of those that live on, stuck in a driver."""
        left = self._left()
        deadline = time.monotonic() + KILL_SECONDS
        while left and time.monotonic() < deadline:
            _kill(left)
            time.sleep(0.05)
            self.poll()
            left = self._left()
        return [process.pid for process in left]

    def close(self) -> None:
        """Kill what is left and dismiss the guardian."""
        self.kill_all()
        os.close(self._guardian_pipe)
        try:
            os.waitpid(self._guardian, 0)
        except ChildProcessError:
            return  # Something else ended it, and poll() has reaped it.

    def _find(self) -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                role = _role(process.environ())
                if role in self.roles and role not in self._pids and self._is_of_msrun(process):
                    self._pids[role] = process.pid
            except (psutil.Error, ProcessLookupError):
                continue  # Gone, or not yet what it will be.

    def _is_of_msrun(self, process: psutil.Process) -> bool:
        """Return whether msrun itself started a process.

        What a worker started has the worker's environment, and once that has died is this process's child as well. But
        it runs another program, or the same in the dead worker's session; msrun gives each worker a session of its own.
        """
        parent = process.ppid()
        if parent != os.getpid():
            return parent == self._msrun.pid
        runs_program = process.cmdline()[-len(self._program) :] == self._program
        return runs_program and os.getsid(process.pid) in (process.pid, self._msrun.pid)

    def _note_end(self, pid: int, status: int) -> None:
        role = next((role for role, known in self._pids.items() if known == pid), None)
        if role is not None:
            self.ended[role] = status
        elif pid == self._msrun.pid:
            self.msrun_status = self._msrun.returncode = status
        elif pid != self._guardian:
            self._nameless[pid] = status

    def _name_the_nameless(self) -> None:
        """Name those that ended before their environment could be read.

        msrun starts the scheduler and then the ranks in order, so that their process ids rise.
        """
        missing = [role for role in self.roles if role not in self._pids]
        for role, pid in zip(missing, sorted(self._nameless)):
            self._pids[role] = pid
            self.ended[role] = self._nameless.pop(pid)

    def _note_those_of_msrun(self) -> None:
        """Take those as failed that have gone and whose status msrun took with it.

        Python reaps what a process has started when that process ends. No worker has done its work by then.
        """
        for role, pid in self._pids.items():
            if role not in self.ended and not psutil.pid_exists(pid):
                self.ended[role] = 1

    def _left(self) -> list[psutil.Process]:
        left = []
        for process in psutil.Process().children(recursive=True):
            try:
                if process.pid != self._guardian and process.status() != psutil.STATUS_ZOMBIE:
                    left.append(process)
            except psutil.Error:
                continue
        return left


def _role(environment: dict[str, str]) -> Role | None:
    if environment.get("MS_ROLE") == "MS_SCHED":
        return SCHEDULER
    rank = environment.get("RANK_ID", "")
    return int(rank) if environment.get("MS_ROLE") == "MS_WORKER" and rank.isdigit() else None


def _become_subreaper() -> None:
    try:
        done = ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    except AttributeError:  # No Linux.
        done = False
    if not done:
        raise UserError("distributed training needs Linux, 3.4 or newer; train on one device here, with train.py")


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.Error:
            continue


def _start_guardian(mark: str) -> tuple[int, int]:
    """Start the process that ends the job should this one be killed; return its id and the pipe that holds it back.

    SIGKILL leaves no time to clean up. The guardian waits for the end of a pipe that only this process can write to,
    which the kernel closes however this process ends.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(reading)
        return pid, writing
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.close(writing)
        os.read(reading, 1)
        _kill_marked(mark)
    finally:
        os._exit(0)


def _kill_marked(mark: str) -> None:
    """Kill the processes with a job's mark and their children, until three looks in a row find none."""
    deadline = time.monotonic() + KILL_SECONDS
    quiet = 0
    while quiet < 3 and time.monotonic() < deadline:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == mark:
                    found += [process, *process.children(recursive=True)]
            except psutil.Error:
                continue
        _kill(found)
        quiet = 0 if found else quiet + 1
        time.sleep(0.05)
