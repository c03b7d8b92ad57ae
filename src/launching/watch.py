"""Watch a distributed job from its start to its end, and report its end.

All in one loop: rank 0's log is shown as it grows, signals are passed on, the first failure stops the others.
"""

from __future__ import annotations

import dataclasses
import io
import re
import signal
import sys
import time
from pathlib import Path
from typing import BinaryIO

from src.cli.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, EXIT_USER_ERROR
from src.launching.cluster import Cluster
from src.launching.nodes import Ending, Nodes
from src.launching.workers import SCHEDULER, Role, Workers, described

POLL_SECONDS = 0.1
JOIN_CHECK_SECONDS = 0.5
TAIL_LINES, TAIL_BYTES = 20, 2**16
# Developer messages of MindSpore's C++ code: some thirty lines about connections at each start.
NOISE = re.compile(rb"\[(INFO|WARNING)\] [A-Z_]+\(.*\[mindspore/ccsrc/")


@dataclasses.dataclass(frozen=True)
class Times:
    """Timeouts of the launcher, in seconds."""

    join: float  # until every worker and node has joined
    grace: float  # from Ctrl-C or TERM to SIGKILL, for workers to save
    settle: float = 3  # after a user's mistake, for other workers to report the same mistake in their logs
    stop: float = 5  # from SIGTERM to SIGKILL, for workers waiting for a dead one, which mostly ignore SIGTERM


class LogView:
    """View of a growing log on stdout, without MindSpore's noise and without errors, which are printed at the end."""

    def __init__(self, log: BinaryIO):
        self._log, self._rest = log, b""

    def show(self) -> None:
        """Print the new complete lines."""
        *lines, self._rest = (self._rest + self._log.read()).split(b"\n")
        shown = [line + b"\n" for line in lines if not NOISE.match(line) and not line.startswith(b"error: ")]
        try:
            sys.stdout.buffer.write(b"".join(shown))
            sys.stdout.flush()
        except BrokenPipeError:
            self._log = io.BytesIO()  # The reader of stdout has gone; the log is still written.


class Watch:
    """Watch over the workers of this host and, through `nodes`, over those of the others."""

    def __init__(self, cluster: Cluster, workers: Workers, nodes: Nodes, times: Times):
        self._cluster, self._workers, self._nodes, self._times = cluster, workers, nodes, times
        self._view = LogView(workers.log(0).open("rb") if cluster.node == 0 else io.BytesIO())
        self._started = self._join_checked = time.monotonic()
        self._unjoined = set(workers.ranks)
        self._joined = cluster.workers == 1
        self._signals: list[int] = []

    def run(self) -> int:
        """Watch the job until its end on this host; return the exit status."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # As nohup asks.
                signal.signal(number, lambda received, _: self._signals.append(received))
        ending = None
        while ending is None:
            time.sleep(POLL_SECONDS)
            self._view.show()
            heard = self._nodes.poll()
            ending = (
                self._of_signal()
                or self._of_process()
                or self._of_other_node(heard)
                or self._of_joining()
                or self._of_success()
            )
        self._stop(ending)
        return ending.status

    def _of_signal(self) -> Ending | None:
        return self._interrupt(self._signals[0]) if self._signals else None

    def _of_process(self) -> Ending | None:
        failed = {role: status for role in self._workers.roles if (status := self._workers.status(role))}
        if not failed or not (failed.keys() - {SCHEDULER} or self._workers.running()):
            return None  # Once the workers have finished, the scheduler does not matter any more.
        # Of those seen at once, a killed one is the cause and one that raised because of it the effect.
        role = min(failed, key=lambda role: (role == SCHEDULER, failed[role] > 0, role))
        status, name, log = failed[role], self._name(role), self._workers.log(role)
        if status in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            return self._interrupt(status - 128, f": {name} {described(status)}")
        mistake = _mistake(log) if status == EXIT_USER_ERROR else None
        if mistake is not None:
            self._wait(self._times.settle, len(self._signals))
            return Ending(EXIT_USER_ERROR, mistake)
        return Ending(1, f"{name} {described(status)}; the other workers were stopped", log)

    def _of_other_node(self, heard: list[Ending]) -> Ending | None:
        if heard and heard[0].status in (EXIT_INTERRUPTED, EXIT_TERMINATED):
            return self._interrupt(heard[0].status - 128, " on another node")
        return heard[0] if heard else None

    def _of_joining(self) -> Ending | None:
        now = time.monotonic()
        if self._joined or now - self._join_checked < JOIN_CHECK_SECONDS:
            return None
        self._join_checked = now
        self._unjoined = {rank for rank in self._unjoined if not self._workers.reaches_scheduler(rank)}
        absent, cluster = self._nodes.missing(), self._cluster
        if not self._unjoined and not absent:
            self._joined = True
            print("all workers have joined", flush=True)
        late = f"within {self._times.join:g} s (--join_timeout)"
        if self._joined or now - self._started < self._times.join:
            return None
        if absent == [0]:
            where = f"{cluster.address}:{cluster.port + 1}"
            return Ending(1, f"node 0 did not answer at {where} {late}; is its launcher running?")
        if absent:
            options = f"--nnodes {cluster.nodes} --node_rank {absent[0]}"
            options += f" --master_addr {cluster.address} --master_port {cluster.port}"
            names = ", ".join(map(str, absent))
            return Ending(1, f"node {names} did not start {late}: start the launcher there with {options}")
        rank = min(self._unjoined)
        many = f", nor did {len(self._unjoined) - 1} more" if len(self._unjoined) > 1 else ""
        where = f"{cluster.address}:{cluster.port}"
        reason = f"{self._name(rank)} did not reach the scheduler at {where} {late}{many}"
        return Ending(1, f"{reason}; the workers were stopped", self._workers.log(rank))

    def _name(self, role: Role) -> str:
        node = f" on node {self._cluster.node}" if self._cluster.nodes > 1 else ""
        return f"the {role}" if role == SCHEDULER else f"rank {role}{node}"

    def _of_success(self) -> Ending | None:
        return Ending(0) if not self._workers.running() and self._nodes.all_finished() else None

    def _interrupt(self, number: int, elsewhere: str = "") -> Ending:
        """Pass a signal on to the workers and give them time to save a checkpoint; another signal ends that time."""
        seen = len(self._signals)  # Before the message, whose reader may be quick.
        number = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        # Before joining the others, a worker has nothing to save, and waits without handling signals.
        seconds = self._times.grace if self._joined else self._times.stop
        if not elsewhere:
            again = "again to stop them at once"
            print(f"interrupting the workers, which have {seconds:g} s to finish; {again}", file=sys.stderr, flush=True)
        self._nodes.tell(Ending(128 + number))
        self._workers.signal(number)
        self._wait(seconds, seen)
        ended = {rank: status for rank in self._workers.ranks if (status := self._workers.status(rank)) is not None}
        if len(ended) == len(self._workers.ranks) and not any(ended.values()):
            return Ending(0)  # All workers had already finished.
        in_order = (0, EXIT_INTERRUPTED, EXIT_TERMINATED, -signal.SIGINT, -signal.SIGTERM)
        trouble = [f"rank {rank} {described(status)}" for rank, status in ended.items() if status not in in_order]
        trouble += [f"rank {rank} had not ended and was killed" for rank in self._workers.running()]
        return Ending(128 + number, "; ".join([f"interrupted{elsewhere}", *trouble]))

    def _stop(self, ending: Ending) -> None:
        """Stop the remaining workers, and report the end of the job to the user and the other nodes."""
        interrupted = ending.status in (EXIT_INTERRUPTED, EXIT_TERMINATED)
        if ending.status and not interrupted:
            self._nodes.tell(ending)
            self._workers.signal(signal.SIGTERM)
            self._wait(self._times.stop, len(self._signals))
        stuck = self._workers.kill()
        self._view.show()
        if ending.log is not None:
            print(f"the end of {ending.log}:", *_tail(ending.log), sep="\n  ", file=sys.stderr)
        if stuck:
            print(f"warning: processes {stuck} could not be killed; a driver holds them", file=sys.stderr)
        if ending.message:
            print(ending.message if interrupted else f"error: {ending.message}", file=sys.stderr)

    def _wait(self, seconds: float, seen: int) -> None:
        """Wait until every worker has ended, for a limited time, or until a signal after those seen."""
        deadline = time.monotonic() + seconds
        while self._workers.running() and time.monotonic() < deadline and len(self._signals) == seen:
            time.sleep(POLL_SECONDS)
            self._view.show()


def _mistake(log: Path) -> str | None:
    """Return the error message that a program printed for a user's mistake (src.cli.errors.run), or None."""
    said = [line for line in _tail(log) if line.startswith("error: ")]
    return said[-1][len("error: ") :] if said else None


def _tail(log: Path) -> list[str]:
    """Return the last lines of a log, without MindSpore's noise."""
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, 2) - TAIL_BYTES))
        lines = [line for line in stream.read().splitlines() if not NOISE.match(line)]
    return [line.decode(errors="replace") for line in lines[-TAIL_LINES:]] or ["(empty)"]
