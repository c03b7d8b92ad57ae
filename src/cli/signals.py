"""Handling of SIGINT (Ctrl-C) and SIGTERM in a program that finishes its current step before stopping."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from typing import Iterator

SAME_SECONDS = 0.5
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_state = {"received": 0, "postponed": False, "watching": False, "first": 0.0}
_hidden: list[int] = []  # A copy of stderr's descriptor, while it is hushed.


class Interrupted(BaseException):
    """A received signal. Like KeyboardInterrupt not an Exception, so that no handler swallows it."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


def watch() -> None:
    """Take over SIGINT and SIGTERM for the rest of the process. Call this before importing MindSpore.

    The first signal raises Interrupted in the main thread, or waits while `postponed`. A second one ends the process at
    once, unless received within SAME_SECONDS: job managers signal a launcher and its children, and the launcher passes
    the signal on. One thread waits for the signals, and all others block them: while a graph runs, MindSpore's handler
    of SIGINT would send SIGTERM instead, and the program could not tell the two apart.

    A library may unblock them in the main thread, as multiprocessing does when starting a server process: then Python's
    handlers do the same.
    """
    signal.signal(signal.SIGUSR1, lambda *_: _obey())
    for number in _SIGNALS:
        signal.signal(number, _handle)
    block()  # Threads that are started later inherit it.
    _state["watching"] = True
    threading.Thread(target=_wait, args=(threading.main_thread().ident,), daemon=True).start()


def block() -> None:
    """Block the signals in this thread again, if the process watches them."""
    if _state["watching"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def received() -> int:
    """Return the number of the postponed signal, or 0."""
    return _state["received"]


@contextlib.contextmanager
def postponed() -> Iterator[None]:
    """Postpone the first signal to the end of the body; `received` returns its number meanwhile."""
    _state["postponed"] = True
    try:
        yield
    finally:
        _state["postponed"] = False
    _obey()


def hush() -> None:
    """Discard what is written to stderr from now on, once MindSpore is loaded, until `speak`.

    To be called before Interrupted is raised by a signal: MindSpore prints a page of its own when an exception ends the
    compilation of a graph.
    """
    if "mindspore" in sys.modules and not _hidden:
        _flush()
        _hidden.append(os.dup(2))
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 2)


def speak() -> None:
    """Undo `hush`."""
    if _hidden:
        _flush()
        os.dup2(_hidden[0], 2)
        os.close(_hidden.pop())
        if os.isatty(2):
            os.write(2, b"\r\x1b[K")  # A progress bar could not clear its line meanwhile.


def _flush() -> None:
    with contextlib.suppress(OSError, ValueError):  # Nobody reads it, or it is closed.
        sys.stderr.flush()


def _obey() -> None:
    if _state["received"] and not _state["postponed"]:
        if _state["watching"]:
            hush()
        raise Interrupted(_state["received"])


def _note(number: int) -> bool:
    """Record a signal and return whether it is the first; end the process at a second one."""
    if _state["received"]:
        if time.monotonic() - _state["first"] >= SAME_SECONDS:
            os._exit(128 + number)
        return False
    _state["first"], _state["received"] = time.monotonic(), number
    if _state["postponed"]:
        print("\nstopping after this step; interrupt again to stop at once", file=sys.stderr, flush=True)
    return True


def _handle(number: int, _) -> None:
    if _note(number):
        _obey()


def _wait(main_thread: int) -> None:
    while True:
        if _note(signal.sigwait(_SIGNALS)):
            signal.pthread_kill(main_thread, signal.SIGUSR1)  # Wakes it up where it sleeps or waits.
