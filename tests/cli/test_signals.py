"""Signals that a program postpones, also after a library has unblocked them."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

from tests.programs import ROOT

# What multiprocessing does in the thread that starts a forkserver, as CANN's compiler of operators does.
UNBLOCKED = """
    import os, signal, time
    from src.cli import signals
    signals.watch()
    with signals.postponed():
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
        for number in NUMBERS:
            os.kill(os.getpid(), number)
            time.sleep(0.2)
        print("received", signals.received(), flush=True)
        signals.block()
        time.sleep(0.7)
        AFTER
    print("not reached")
"""


def run(numbers: str, after: str = "pass") -> subprocess.CompletedProcess:
    program = textwrap.dedent(UNBLOCKED).replace("NUMBERS", numbers).replace("AFTER", after)
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_obeyed_at_the_end_although_a_library_has_unblocked_it(number):
    done = run(f"({int(number)},)")
    assert done.stdout == f"received {int(number)}\n"
    assert f"Interrupted: {int(number)}" in done.stderr and "stopping after this step" in done.stderr


def test_a_second_signal_ends_the_process_at_once_and_one_right_after_the_first_does_not():
    done = run("(2, 15)")
    assert done.stdout == "received 2\n" and "Interrupted: 2" in done.stderr
    done = run("(2,)", "os.kill(os.getpid(), 15); time.sleep(30)")
    assert done.returncode == 128 + 15 and "not reached" not in done.stdout
