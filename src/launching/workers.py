"""Child processes of a launcher: a worker for each device of this host and, on host 0, MindSpore's scheduler.

They find one another through MindSpore's dynamic cluster, which environment variables describe
(mindspore.cn/tutorials, "Dynamic Cluster Startup"). The variables are those that msrun sets.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Union

import psutil

from src.launching.cluster import Cluster
from src.launching.guardian import VARIABLE, kill_marked

ROOT = Path(__file__).resolve().parent.parent.parent
SCHEDULER = "scheduler"
Role = Union[int, str]  # The rank of a worker, or SCHEDULER.
# MindSpore's own timeout is later than the launcher's, whose message is clearer.
TIMEOUT_EXTRA_SECONDS = 60
# These would contradict the launcher: a rank table, as exported for the model zoo, also describes a cluster.
NOT_INHERITED = ("RANK_TABLE_FILE", "MS_NODE_ID", "DEVICE_ID")


class Workers:
    """Processes of this host, each with a log file and a session of its own.

    Therefore a terminal's Ctrl-C reaches only the launcher, which passes the signal on to the workers but not to the
    scheduler, which they need to the end. A guardian kills all processes if the launcher is killed.
    """

    def __init__(self, cluster: Cluster, folder: Path):
        self.ranks, self._cluster, self._folder = cluster.ranks, cluster, folder
        self.roles: list[Role] = [*([SCHEDULER] if cluster.node == 0 else []), *cluster.ranks]
        self._processes: dict[Role, subprocess.Popen] = {}
        self._mark = uuid.uuid4().hex
        self._guardian = subprocess.Popen(
            [sys.executable, "-m", "src.launching.guardian", self._mark],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def start(self, command: list[str], join_seconds: float) -> None:
        """Start the same command in every role."""
        for role in self.roles:
            variables = {**environment(self._cluster, role, join_seconds), VARIABLE: self._mark}
            bound = self._cluster.cores and role != SCHEDULER
            cores = self._cluster.cores[role - self.ranks.start] if bound else None
            with self.log(role).open("wb") as log:
                self._processes[role] = subprocess.Popen(
                    command,
                    env=variables,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=functools.partial(os.sched_setaffinity, 0, cores) if cores else None,
                )

    def log(self, role: Role) -> Path:
        """Return the log file of a role."""
        return self._folder / ("scheduler.log" if role == SCHEDULER else f"worker_{role}.log")

    def status(self, role: Role) -> int | None:
        """Return the exit status of a role, negative for a signal; None while running or on another host."""
        return self._processes[role].poll() if role in self._processes else None

    def running(self) -> list[int]:
        """Return the ranks of the running workers."""
        return [rank for rank in self.ranks if self.status(rank) is None]

    def signal(self, number: int) -> None:
        """Send a signal to the workers, but not to their data loaders, which they end themselves."""
        for rank in self.running():
            self._processes[rank].send_signal(number)

    def reaches_scheduler(self, rank: int) -> bool:
        """Return whether a worker has a connection to the scheduler."""
        try:
            process = psutil.Process(self._processes[rank].pid)
            connections = getattr(process, "net_connections", None) or process.connections  # psutil before 6.0
            return any(
                connection.raddr
                and connection.raddr.port == self._cluster.port
                and connection.status == psutil.CONN_ESTABLISHED
                for connection in connections("tcp")
            )
        except psutil.Error:
            return False

    def kill(self) -> list[int]:
        """Kill every process of the job, including children of workers; return the ids of those held by a driver."""
        return kill_marked(self._mark)

    def close(self) -> None:
        """Kill the remaining processes, and end the guardian."""
        self.kill()
        for process in self._processes.values():
            process.poll()
        with contextlib.suppress(BrokenPipeError):
            self._guardian.communicate()


def environment(cluster: Cluster, role: Role, join_seconds: float) -> dict[str, str]:
    """Return the environment variables of the scheduler or a worker of a dynamic cluster."""
    variables = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    variables.setdefault("OMP_NUM_THREADS", "1")  # As msrun has it: the workers share the cores.
    variables.update(
        PYTHONUNBUFFERED="1",  # To show progress at once.
        MS_ROLE="MS_SCHED" if role == SCHEDULER else "MS_WORKER",
        MS_WORKER_NUM=str(cluster.workers),
        MS_SCHED_HOST=cluster.address,
        MS_SCHED_PORT=str(cluster.port),
        MS_TOPO_TIMEOUT=str(int(join_seconds) + TIMEOUT_EXTRA_SECONDS),
        RANK_SIZE=str(cluster.workers),
        RANK_ID="0" if role == SCHEDULER else str(role),
    )
    if role != SCHEDULER:
        variables.update(MS_NODE_ID=str(role), DEVICE_ID=str(role - cluster.ranks.start))
    return variables


def described(status: int) -> str:
    """Describe the end of a process by its exit status, or below 0 by the signal that killed the process."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    reason = ", as the system does when memory runs out" if -status == signal.SIGKILL else ""
    return f"was killed by {name}{reason}"
