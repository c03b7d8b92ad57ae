"""Watch a distributed job from its start to its end, and say how it ended.

All in one loop: rank 0's log is shown as it grows, signals are passed on, the first failure stops the others.
"""

from __future__ import annotations

import dataclasses
import re
import signal
import sys
import time
from pathlib import Path

from src.cli.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USER_ERROR
from src.launching.nodes import Alone
from src.launching.processes import SCHEDULER, Processes, Role

POLL_SECONDS = 0.1
# Others make the same mistake of the user's a moment later, and are let end by themselves.
SETTLE_SECONDS = 3
# From SIGTERM to SIGKILL, for workers that wait for one that has died and will mostly not hear it.
STOP_SECONDS = 5
# The scheduler ends within 5 s of the last worker.
SCHEDULER_SECONDS = 10
JOIN_CHECK_SECONDS = 1
TAIL_LINES = 20
TAIL_BYTES = 2**16
# What MindSpore's C++ code tells its developers: some thirty lines about connections at each start.
NOISE = re.compile(rb"\[(INFO|WARNING)\] [A-Z_]+\(.*\[mindspore/ccsrc/")


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a job ended: exit status, what to tell the user, and the log that shows why."""

    status: int
    message: str = ""
    log: Path | None = None


@dataclasses.dataclass(frozen=True)
class Job:
    """What the watch has to know of a job."""

    log_folder: Path
    node_rank: int
    nnodes: int
    workers: int  # of all nodes
    scheduler: tuple[str, int]
    join_seconds: float
    grace_seconds: float

    def log(self, role: Role) -> Path:
        """Return the log of a rank or of the scheduler, named by msrun."""
        return self.log_folder / ("scheduler.log" if role == SCHEDULER else f"worker_{role}.log")

    def name(self, rank: int) -> str:
        return f"rank {rank}" + (f" on node {self.node_rank}" if self.nnodes > 1 else "")


class LogView:
    """Shows a log on stdout as it grows: whole lines, without MindSpore's noise, and without the user's mistakes,
    which are said once at the end."""

    def __init__(self, path: Path | None):
        self._path, self._position, self._rest = path, 0, b""

    def show(self, last: bool = False) -> None:
        if self._path is None or not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._position)
            new = stream.read()
        self._position += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        if last and self._rest:
            lines, self._rest = [*lines, self._rest], b""
        shown = [line + b"\n" for line in lines if not NOISE.match(line) and not line.startswith(b"error: ")]
        try:
            sys.stdout.buffer.write(b"".join(shown))
            sys.stdout.flush()
        except BrokenPipeError:
            self._path = None  # Whoever read along has gone; the log is still written.


class Watch:
    """The watch over the workers of this host and, through `nodes`, over those of the others."""

    def __init__(self, job: Job, processes: Processes, nodes: Alone):
        self._job, self._processes, self._nodes = job, processes, nodes
        self._view = LogView(job.log(0) if job.node_rank == 0 else None)
        self._started = time.monotonic()
        self._unjoined = set(processes.ranks) if job.workers > 1 else set()
        self._next_join_check = 0.0
        self._scheduler_died: float | None = None
        self._done = False
        self.signals: list[int] = []

    def run(self) -> int:
        """Watch until the job has ended on this host; return the status to exit with."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # As nohup asks.
                signal.signal(number, lambda received, _: self.signals.append(received))
        ending = None
        while ending is None:
            time.sleep(POLL_SECONDS)
            ending = self._look()
        self._stop(ending)
        return ending.status

    def _look(self) -> Ending | None:
        self._processes.poll()
        self._view.show()
        messages = self._nodes.poll()
        if self.signals:
            return self._interrupt(self.signals[0])
        return (
            self._of_worker()
            or self._of_other_node(messages)
            or self._of_scheduler()
            or self._of_msrun()
            or self._of_joining()
            or self._of_success()
        )

    def _of_worker(self) -> Ending | None:
        failed = [(rank, self._processes.ended[rank]) for rank in self._processes.ranks if self._status(rank)]
        if not failed:
            return None
        # Of those seen at once, a killed one is the cause and one that raised because of it the effect.
        rank, status = min(failed, key=lambda item: (item[1] > 0, item[0]))
        log = self._job.log(rank)
        if status in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            return self._interrupt(status - 128, f": {self._job.name(rank)} {described(status)}")
        mistake = _mistake(log) if status == EXIT_USER_ERROR else None
        if mistake is not None:
            self._wait(SETTLE_SECONDS)
            return Ending(EXIT_USER_ERROR, mistake)
        return Ending(1, f"{self._job.name(rank)} {described(status)}; the other workers were stopped", log)

    def _of_other_node(self, messages: list[dict]) -> Ending | None:
        for message in messages:
            if "failed" in message:
                return Ending(message["failed"]["status"], message["failed"]["message"])
            if "signal" in message:
                return self._interrupt(message["signal"], " on another node")
            if "lost" in message:
                return Ending(1, f"the launcher of node {message['lost']} has gone, or its host; the job was stopped")
        return None

    def _of_scheduler(self) -> Ending | None:
        if not self._status(SCHEDULER) or not self._processes.running:
            return None
        # A mistake of the user's ends it as well as the workers, whose word comes first.
        self._scheduler_died = self._scheduler_died or time.monotonic()
        if time.monotonic() - self._scheduler_died < SETTLE_SECONDS:
            return None
        status, log = self._processes.ended[SCHEDULER], self._job.log(SCHEDULER)
        mistake = _mistake(log) if status == EXIT_USER_ERROR else None
        if mistake is not None:
            return Ending(EXIT_USER_ERROR, mistake)
        return Ending(1, f"the scheduler {described(status)}; the workers were stopped", log)

    def _of_msrun(self) -> Ending | None:
        status = self._processes.msrun_status
        log = self._job.log_folder / "msrun.log"
        if status:
            return Ending(1, f"msrun {described(status)}", log)
        if self._processes.never_started():
            # What has ended already is known by its environment or its place one look after msrun has ended.
            time.sleep(POLL_SECONDS)
            self._processes.poll()
            self._processes.poll()
            never = ", ".join(str(role) for role in self._processes.never_started())
            return Ending(1, f"msrun ended without starting {never}", log) if never else None
        return None

    def _of_joining(self) -> Ending | None:
        now = time.monotonic()
        if now < self._next_join_check or self._joined():
            return None
        self._next_join_check = now + JOIN_CHECK_SECONDS
        host, port = self._job.scheduler
        self._unjoined = {rank for rank in self._unjoined if not self._processes.reaches(rank, port)}
        late = f"within {self._job.join_seconds:g} s (--join_timeout)"
        if now - self._started < self._job.join_seconds or self._joined():
            return None
        absent = self._nodes.missing()
        if absent == [0]:
            return Ending(1, f"node 0 did not answer at {host}:{port + 1} {late}; is its launcher running?")
        if absent:
            return Ending(
                1,
                f"node {', '.join(map(str, absent))} did not start {late}: start the launcher there with "
                f"--nnodes {self._job.nnodes} --node_rank {absent[0]} --master_addr {host} --master_port {port}",
            )
        rank = min(self._unjoined)
        many = f", nor did {len(self._unjoined) - 1} more" if len(self._unjoined) > 1 else ""
        reason = f"{self._job.name(rank)} did not reach the scheduler at {host}:{port} {late}{many}"
        return Ending(1, f"{reason}; the workers were stopped", self._job.log(rank))

    def _of_success(self) -> Ending | None:
        if self._processes.running:
            return None
        if not self._done:
            self._done = True
            self._nodes.tell({"done": True})
        return Ending(0) if self._nodes.released() else None

    def _interrupt(self, number: int, elsewhere: str = "") -> Ending:
        """Pass a signal on to the workers and give them time to save a checkpoint; another one ends that time."""
        number = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        # Before it has joined the others a worker has nothing to save, and waits where it does not hear the signal.
        seconds = self._job.grace_seconds if self._joined() else STOP_SECONDS
        if not elsewhere:
            again = "again to stop them at once"
            print(f"interrupting the workers, which have {seconds:g} s to finish; {again}", file=sys.stderr, flush=True)
        self._nodes.tell({"signal": int(number)})
        self._processes.signal_workers(number)
        if self._processes.started:
            self._wait(seconds)
        ended = {rank: self._status(rank) for rank in self._processes.ranks if rank not in self._processes.running}
        if len(ended) == len(self._processes.ranks) and not any(ended.values()):
            return Ending(0)  # It came too late to interrupt anything.
        in_order = (0, EXIT_INTERRUPTED, EXIT_TERMINATED, -signal.SIGINT, -signal.SIGTERM)
        trouble = [f"rank {rank} {described(status)}" for rank, status in ended.items() if status not in in_order]
        trouble += [f"rank {rank} had not ended and was killed" for rank in self._processes.running]
        return Ending(128 + number, "; ".join([f"interrupted{elsewhere}", *trouble]))

    def _stop(self, ending: Ending) -> None:
        """End what still runs and tell the user and the other nodes how the job ended."""
        if ending.status == 0:
            self._nodes.tell({"end": True})
            self._wait_for_scheduler()
        elif ending.status not in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            self._nodes.tell({"failed": {"status": ending.status, "message": ending.message}})
            self._processes.signal_workers(signal.SIGTERM)
            if self._processes.started:
                self._wait(STOP_SECONDS)
        stuck = self._processes.kill_all()
        self._view.show(last=True)
        if ending.log is not None:
            print(f"the end of {ending.log}:", *_tail(ending.log), sep="\n  ", file=sys.stderr)
        if stuck:
            print(f"warning: processes {stuck} could not be killed; a driver holds them", file=sys.stderr)
        if ending.message:
            prefix = "" if ending.message.startswith("interrupted") else "error: "
            print(prefix + ending.message, file=sys.stderr)

    def _wait(self, seconds: float) -> bool:
        """Wait until every worker has ended, for some time, or until another signal; return whether they all have."""
        deadline, signals = time.monotonic() + seconds, len(self.signals)
        while self._processes.running and time.monotonic() < deadline and len(self.signals) == signals:
            time.sleep(POLL_SECONDS)
            self._processes.poll()
            self._view.show()
        return not self._processes.running

    def _wait_for_scheduler(self) -> None:
        deadline = time.monotonic() + SCHEDULER_SECONDS
        while SCHEDULER in self._processes.roles and SCHEDULER not in self._processes.ended:
            if time.monotonic() > deadline:
                return
            time.sleep(POLL_SECONDS)
            self._processes.poll()

    def _joined(self) -> bool:
        return not self._unjoined and not self._nodes.missing()

    def _status(self, role: Role) -> int:
        return self._processes.ended.get(role, 0)


def described(status: int) -> str:
    """Return how a process ended in words: its exit status, or below 0 the signal that killed it."""
    if status >= 0:
        return f"ended with exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    reason = ", as the system does when memory runs out" if -status == signal.SIGKILL else ""
    return f"was killed by {name}{reason}"


def _mistake(log: Path) -> str | None:
    """Return what a program said of the user's mistake, which is one line (src.cli.errors.run)."""
    said = [line for line in _tail(log) if line.startswith("error: ")]
    return said[-1][len("error: ") :] if said else None


def _tail(log: Path) -> list[str]:
    """Return the last lines of a log, without MindSpore's noise."""
    if not log.exists():
        return ["(no such file)"]
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, 2) - TAIL_BYTES))
        lines = [line for line in stream.read().splitlines() if not NOISE.match(line)]
    return [line.decode(errors="replace") for line in lines[-TAIL_LINES:]] or ["(empty)"]
