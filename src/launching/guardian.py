"""Guardian: kill the processes of a job when its launcher has died, even by SIGKILL.

    python -m src.launching.guardian MARK      with a pipe for standard input, which only the launcher writes to

The kernel closes the pipe however the launcher ends. Every process of the job has MARK in its environment, which
children inherit, so that a data loader is found even after the death of its worker.
"""

from __future__ import annotations

import contextlib
import sys
import time

import psutil

VARIABLE = "SQUEEZENET_LAUNCH"
KILL_SECONDS = 10
LOOK_SECONDS = 0.05


def kill_marked(mark: str) -> list[int]:
    """Kill all processes that carry a mark; return the ids of those that survive, held by a device driver."""
    deadline, looks_without = time.monotonic() + KILL_SECONDS, 0
    found: list[psutil.Process] = []
    while looks_without < 2 and time.monotonic() < deadline:  # Twice, for a process that was being forked.
        found = [process for process in psutil.process_iter() if _carries(process, mark)]
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()
        looks_without = 0 if found else looks_without + 1
        time.sleep(LOOK_SECONDS)
    return [process.pid for process in found]


def _carries(process: psutil.Process, mark: str) -> bool:
    try:
        return process.environ().get(VARIABLE) == mark
    except (psutil.Error, OSError):  # Another user's process, or one that has just ended.
        return False


if __name__ == "__main__":
    sys.stdin.read()
    kill_marked(sys.argv[1])
